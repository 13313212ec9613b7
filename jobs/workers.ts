/** Signs of life: which workers there are, and which are dead for certain. */
import { readFileSync, readlinkSync } from 'node:fs';
import type { Redis } from 'ioredis';
import { commandLine } from '../src/processes.ts';
import { Script } from '../src/redis.ts';
import type { WorkerInfo } from '../src/schemas.ts';
import type { Counts } from '../src/tally.ts';
import { jobKeys, sharedKeys } from './store.ts';

/** How often a worker gives a sign of life, and for how long one counts. */
export const BEAT_MS = 1000;
export const SIGN_OF_LIFE_MS = 5000;
/** Longer than any lock or lease of a dead worker lasts. */
const REMEMBERED_MS = 60_000;

/** What a worker says of itself. */
export interface WorkerSign extends WorkerInfo {
  /** Where process ids mean the same as here: see `place`. */
  readonly place: string | null;
  /** How the locks of its hints are told from those of others. */
  readonly consumer: string;
}

export interface Workers {
  readonly living: readonly WorkerSign[];
  /** Not heard of for a while, or not for long enough to be sure. */
  readonly missing: readonly WorkerSign[];
}

const script = new Script('beat.lua', import.meta.url);

/** The workers there are. With `self`, that one gives its sign of life. `done`: what was done since it was told last. */
export async function beat(redis: Redis, self: WorkerSign | null, done: Counts = {}): Promise<Workers> {
  const said = (await script.run(
    redis,
    [sharedKeys.workers, sharedKeys.workersSaid, sharedKeys.totals, sharedKeys.folders],
    [self?.id ?? '', self === null ? '' : JSON.stringify(self), REMEMBERED_MS, ...Object.entries(done).flat()],
  )) as (number | string)[];
  const living: WorkerSign[] = [];
  const missing: WorkerSign[] = [];
  for (let index = 0; index < said.length; index += 2) {
    const sign = JSON.parse(String(said[index + 1])) as WorkerSign;
    (Number(said[index]) <= SIGN_OF_LIFE_MS ? living : missing).push(sign);
  }
  return { living, missing };
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
