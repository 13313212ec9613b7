/** How the whole service fares, over all its processes. */
import type { Redis } from 'ioredis';
import { repliesOf } from '../src/redis.ts';
import type { Counts } from '../src/tally.ts';
import type { PageQueue } from './queue.ts';
import { jobKeys, sharedKeys } from './store.ts';
import { readWorkers } from './workers.ts';

const JOBS_AT_ONCE = 500;

export interface Figures {
  /** What all workers did, ever: at least what they told with each sign of life. */
  readonly counts: Counts;
  readonly workers: number;
  readonly pagesInWork: number;
  /** Entries of the chains of all active jobs. */
  readonly pagesInFlight: number;
  /** Hints that no worker has taken. */
  readonly hints: { readonly waiting: number; readonly delayed: number };
  /** Jobs that are not at their end, by state. */
  readonly jobs: Readonly<Record<string, number>>;
}

/** Reads them. Not of one moment: what is counted meanwhile may be in one figure and not in another. */
export async function readFigures(redis: Redis, queue: PageQueue): Promise<Figures> {
  const [totals, living, hints, chains] = await Promise.all([
    redis.hgetall(sharedKeys.totals),
    readWorkers(redis),
    queue.waiting(),
    readChains(redis),
  ]);
  return {
    counts: Object.fromEntries(Object.entries(totals).map(([name, count]) => [name, Number(count)])),
    workers: living.length,
    pagesInWork: living.reduce((sum, { pagesInWork }) => sum + pagesInWork, 0),
    hints,
    ...chains,
  };
}

async function readChains(redis: Redis): Promise<Pick<Figures, 'jobs' | 'pagesInFlight'>> {
  const jobs: Record<string, number> = { queued: 0, running: 0, paused: 0 };
  let pagesInFlight = 0;
  const ids = await redis.smembers(sharedKeys.active);
  for (let from = 0; from < ids.length; from += JOBS_AT_ONCE) {
    const pipeline = redis.pipeline();
    for (const id of ids.slice(from, from + JOBS_AT_ONCE)) {
      pipeline.hget(jobKeys(id).job, 'state').hlen(jobKeys(id).inFlight);
    }
    const replies = repliesOf(await pipeline.exec());
    for (let index = 0; index < replies.length; index += 2) {
      const state = replies[index] as string | null;
      // It came to its end meanwhile, and was deleted.
      if (state === null) continue;
      jobs[state] = (jobs[state] ?? 0) + 1;
      pagesInFlight += Number(replies[index + 1]);
    }
  }
  return { jobs, pagesInFlight };
}
