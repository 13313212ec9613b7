/** Signs of life: which workers there are, and which are dead for certain. */
import { readFileSync, readlinkSync } from 'node:fs';
import type { Redis } from 'ioredis';
import { commandLine } from '../src/processes.ts';
import { repliesOf, Script } from '../src/redis.ts';
import type { WorkerInfo } from '../src/schemas.ts';
import type { Counts } from '../src/tally.ts';
import { jobKeys, sharedKeys } from './store.ts';

/** How often a worker gives a sign of life, and for how long one counts. */
export const BEAT_MS = 1000;
export const SIGN_OF_LIFE_MS = 5000;
/** How long one is remembered at the least: longer than its lease lasts. */
const REMEMBERED_MS = 60_000;

/** What a worker says of itself. */
export interface WorkerSign extends WorkerInfo {
  /** Where process ids mean the same as here: see `place`. */
  readonly place: string | null;
  /** How the locks of its hints are told from those of others. */
  readonly consumer: string;
}

/** What a worker is told in answer to its sign of life. */
export interface BeatAnswer {
  /** How many workers live. */
  readonly living: number;
  /** The ids of the folders they have. */
  readonly folders: ReadonlySet<string>;
  /** Those of the same place, living or not heard of for a while. */
  readonly neighbours: readonly WorkerSign[];
}

const script = new Script('beat.lua', import.meta.url);

/**
 * Gives a sign of life; null: of none that shall be known. `done`: what was done since it was told last; `heldMs`: how long a
 * worker that says nothing may hold a page.
 */
export async function beat(
  redis: Redis,
  self: WorkerSign | null,
  done: Counts = {},
  heldMs = SIGN_OF_LIFE_MS,
): Promise<BeatAnswer> {
  const { workers, workersSaid, totals, folders } = sharedKeys;
  const [living, folderIds, neighbours] = (await script.run(
    redis,
    [workers, workersSaid, totals, folders, placeKey(self?.place ?? null)],
    [
      self?.id ?? '',
      self === null ? '' : JSON.stringify(self),
      SIGN_OF_LIFE_MS,
      Math.max(REMEMBERED_MS, 2 * heldMs),
      ...Object.entries(done).flat(),
    ],
  )) as [number, string[], string[]];
  return {
    living,
    folders: new Set(folderIds),
    neighbours: neighbours.map((said) => JSON.parse(said) as WorkerSign),
  };
}

/** How long a worker whose pages have locks of `lockMs` may be silent and still hold one: a lock is looked at a tenth of it late. */
export function holdMs(lockMs: number): number {
  return Math.max(SIGN_OF_LIFE_MS, lockMs * 1.5);
}

/** Every worker that was heard of within `heardMs`, whatever its place. Costs the more the more there are. */
export async function readWorkers(redis: Redis, heardMs = SIGN_OF_LIFE_MS): Promise<WorkerSign[]> {
  const asked = redis
    .multi()
    .time()
    .zrange(sharedKeys.workers, '0', '-1', 'WITHSCORES')
    .hgetall(sharedKeys.workersSaid);
  const [time, signs, said] = repliesOf(await asked.exec()) as [[string, string], string[], Record<string, string>];
  const nowMs = Number(time[0]) * 1000 + Number(time[1]) / 1000;
  const living: WorkerSign[] = [];
  for (let index = 0; index < signs.length; index += 2) {
    const sign = said[signs[index] ?? ''];
    if (sign !== undefined && nowMs - Number(signs[index + 1]) <= heardMs) living.push(JSON.parse(sign) as WorkerSign);
  }
  return living;
}

function placeKey(of: string | null): string {
  return `${sharedKeys.workers}:at:${of}`;
}

/** Takes a worker off the list, and its shares of the budgets of `jobs` with it. */
export async function leave(redis: Redis, id: string, jobs: readonly string[]): Promise<void> {
  const all = redis.multi().zrem(sharedKeys.workers, id).hdel(sharedKeys.workersSaid, id);
  for (const job of jobs) all.hdel(jobKeys(job).leases, id);
  await all.exec();
}

/**
 * Where process ids mean the same: this start of this machine's kernel, and this namespace of process ids (containers
 * have their own). null where that cannot be told.
 */
export function place(): string | null {
  try {
    return `${readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()} ${readlinkSync('/proc/self/ns/pid')}`;
  } catch {
    return null;
  }
}

/** Whether a worker is dead for certain: it ran in this place, and its process is not there. */
export function isDead(sign: WorkerSign, here: string | null): boolean {
  return here !== null && sign.place === here && commandLine(sign.pid) === null;
}
