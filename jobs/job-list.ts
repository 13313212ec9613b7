import type { Redis } from 'ioredis';
import { repliesOf } from '../src/redis.ts';
import type { Job, JobState } from '../src/schemas.ts';
import { jobKeys, sharedKeys } from './store.ts';
import { readJobs } from './view.ts';

const BATCH = 500;
/** How much one call looks through for jobs that match; the next call goes on from there. */
const BATCHES_MAX = 40;

/** Jobs, newest first. `cursor`: what the page before gave as `nextCursor`, null at the end. */
export async function jobsPage(
  redis: Redis,
  query: { state?: JobState; limit: number; cursor?: string },
): Promise<{ jobs: Job[]; nextCursor: string | null }> {
  const jobs: Job[] = [];
  let from = query.cursor === undefined ? '+' : `(${query.cursor}`;
  for (let batches = 0; batches < BATCHES_MAX; batches += 1) {
    const size = query.state === undefined ? query.limit : BATCH;
    const ids = await redis.zrevrangebylex(sharedKeys.jobs, from, '-', 'LIMIT', 0, size + 1);
    const matching = query.state === undefined ? ids : await inState(redis, ids, query.state);
    const wanted = matching.slice(0, query.limit - jobs.length);
    for (const job of await readJobs(redis, wanted)) if (job !== null) jobs.push(job);
    const last = matching.length > wanted.length ? wanted.at(-1) : ids.length > size ? ids.at(-1) : undefined;
    if (last === undefined) return { jobs, nextCursor: null };
    if (jobs.length >= query.limit || matching.length > wanted.length) return { jobs, nextCursor: last };
    from = `(${last}`;
  }
  return { jobs, nextCursor: from.slice(1) };
}

async function inState(redis: Redis, ids: readonly string[], state: JobState): Promise<string[]> {
  const pipeline = redis.pipeline();
  for (const id of ids) pipeline.hget(jobKeys(id).job, 'state');
  const states = repliesOf(await pipeline.exec());
  return ids.filter((_, index) => states[index] === state);
}
