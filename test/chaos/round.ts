/** One round of chaos: a plan is carried out, then the oracle judges. */
import { setTimeout as sleep } from 'node:timers/promises';
import { judge, type Violation } from './oracle.ts';
import { faults, type Allowance, type FaultName } from './faults.ts';
import { planOf, type FaultPlan, type Plan } from './plan.ts';
import { Watch } from './watch.ts';
import { World } from './world.ts';

/** After the last fault was undone, everything must end within this time. */
const END_MS_MAX = 60_000;
const LOOK_MS = 10;

export interface Injected {
  readonly name: FaultName;
  readonly atMs: number;
  readonly allows: Allowance;
  /** Null while it lasts. */
  undoneMs: number | null;
}

export interface Round {
  readonly seed: number;
  readonly plan: Plan;
  readonly injected: readonly Injected[];
  readonly files: number;
  readonly seconds: number;
  readonly violations: readonly Violation[];
  /** What the service printed. */
  readonly output: string;
  readonly notes: readonly string[];
}

/** Plays the round of a seed with faults out of `names`. */
export async function playRound(seed: number, names: readonly FaultName[]): Promise<Round> {
  const plan = planOf(seed, names);
  const world = new World(plan);
  const injected: Injected[] = [];
  let files = 0;
  let violations: Violation[];
  const notes: string[] = [];
  const watches: Watch[] = [];
  try {
    await carryOut(world, watches, injected);
    files = world.jobs.reduce((sum, { expected }) => sum + expected.length, 0);
    violations = await judge({ world, watches, injected, notes });
  } catch (error) {
    violations = [{ check: 'the round', message: error instanceof Error ? (error.stack ?? '') : String(error) }];
    for (const { latest } of watches) notes.push(JSON.stringify(latest));
  } finally {
    world.over.abort();
    await world.end();
  }
  return { seed, plan, injected, files, seconds: world.nowMs / 1000, violations, output: world.service.output, notes };
}

async function carryOut(world: World, watches: Watch[], injected: Injected[]): Promise<void> {
  const { plan } = world;
  await world.service.start();
  const early = plan.faults.filter(({ name }) => faults[name].early).map((fault) => inject(world, fault, injected));
  await world.post();
  for (const job of world.jobs) watches.push(new Watch(world, job));
  const stopWatching = new AbortController();
  const watching = watches.map((watch) => watch.run(stopWatching.signal));
  const allEnded = (): boolean => watches.every(({ ended }) => ended);
  let playing = plan.faults
    .filter((fault) => !faults[fault.name].early && !isLate(fault))
    .map(async (fault) => {
      while (world.share < fault.at && !allEnded()) await sleep(LOOK_MS);
      if (!allEnded()) await inject(world, fault, injected);
    });
  try {
    await until(allEnded, world, injected);
    // Some faults come when all is done already.
    playing = playing.concat(
      plan.faults
        .filter((fault) => !faults[fault.name].early && isLate(fault))
        .map((fault) => inject(world, fault, injected)),
    );
    await sleep(5 * LOOK_MS);
    await until(allEnded, world, injected);
    world.over.abort();
    await Promise.all([...early, ...playing]);
    // What wakes up now, or has come back, must change nothing.
    await sleep(plan.lockMs);
    await until(allEnded, world, injected);
  } finally {
    stopWatching.abort();
    await Promise.all(watching);
  }
}

function isLate({ name, at }: FaultPlan): boolean {
  return faults[name].late === true || at >= 1;
}

async function inject(world: World, { name, lasts, dice }: FaultPlan, injected: Injected[]): Promise<void> {
  const { inject, lastsMs, allows, exclusive } = faults[name];
  const work = async (): Promise<void> => {
    const entry: Injected = { name, atMs: world.nowMs, allows, undoneMs: null };
    injected.push(entry);
    const undo = await inject(world, dice);
    if (undo !== null) {
      await world.last(lastsMs[0] + lasts * (lastsMs[1] - lastsMs[0]));
      await undo();
    } else {
      injected.splice(injected.indexOf(entry), 1);
    }
    entry.undoneMs = world.nowMs;
  };
  // Whoever waits for the end of the jobs is told.
  await (exclusive ? world.exclusive(work) : work()).catch((error: unknown) => (world.failure ??= error));
}

/** Waits for the end of all jobs. Throws when that takes too long after the last fault. */
async function until(allEnded: () => boolean, world: World, injected: readonly Injected[]): Promise<void> {
  const began = world.nowMs;
  while (!allEnded() || world.failure !== null) {
    if (world.failure !== null) throw world.failure;
    const lastMs = Math.max(began, ...injected.map(({ undoneMs }) => undoneMs ?? world.nowMs));
    if (world.nowMs - lastMs > END_MS_MAX) throw new Error(`not at its end ${END_MS_MAX} ms after the last fault`);
    await sleep(LOOK_MS);
  }
}
