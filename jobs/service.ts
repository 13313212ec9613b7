import { createHash } from 'node:crypto';
import type { Redis } from 'ioredis';
import type { Logger } from 'pino';
import { uuidv7 } from 'uuidv7';
import { fillDefaults } from '../src/check-job.ts';
import { Problem } from '../src/errors.ts';
import { connectRedis, isRedisAway } from '../src/redis.ts';
import type { Failure, Job, JobRequest, JobState, WorkerInfo } from '../src/schemas.ts';
import { sources } from '../src/sources/index.ts';
import { unpackFailure } from './failures.ts';
import { answerTo, pagesInFlightMax } from './model.ts';
import { PageQueue } from './queue.ts';
import { ChainStore, jobKeys, sharedKeys, type Hints } from './store.ts';
import { readJobs } from './view.ts';
import { beat } from './workers.ts';

const SCAN_BATCH = 500;
/** How much one request looks through for entries that match; the next request goes on from there. */
const SCAN_BATCHES_MAX = 40;

/** When a place among the active jobs may be free again is not known: seldom enough for many who wait. */
const FULL_RETRY_SECONDS = 10;

interface ServiceParts {
  readonly redisUrl: string;
  /** How many jobs may be not at their end. */
  readonly activeJobsMax: number;
  readonly logger: Logger;
}

/**
 * What the API can do with jobs. It keeps nothing that another one on the same Redis would need. Every method throws
 * Problem: `unavailable` where Redis does not answer in time.
 */
class RedisJobService {
  readonly #redis: Redis;
  readonly #store: ChainStore;
  readonly #queue: PageQueue;
  readonly #activeJobsMax: number;
  readonly #logger: Logger;

  constructor({ redisUrl, activeJobsMax, logger }: ServiceParts) {
    this.#redis = connectRedis(redisUrl, { patient: false });
    this.#store = new ChainStore(this.#redis);
    this.#queue = new PageQueue(this.#redis);
    this.#activeJobsMax = activeJobsMax;
    this.#logger = logger;
  }

  /**
   * Accepts a job. With an idempotency key, the same key and request within 24 h give the first job again (`replayed`).
   * Throws Problem: `conflict` (sink path in use), `idempotency_conflict`, `too_many_requests` (jobs that are active).
   */
  create(request: JobRequest, idempotencyKey: string | null): Promise<{ job: Job; replayed: boolean }> {
    return this.#reach(async () => {
      const id = uuidv7();
      const spec = fillDefaults(request, id);
      const created = await this.#store.create({
        id,
        spec,
        firstToken: sources[spec.source.type].first(spec.source),
        cap: pagesInFlightMax(1, spec.limits.concurrency, Infinity),
        activeJobsMax: this.#activeJobsMax,
        idempotency:
          idempotencyKey === null ? null : { key: digest(idempotencyKey), digest: digest(canonical(request)) },
      });
      if (created.kind === 'full') {
        throw new Problem('too_many_requests', `there are ${this.#activeJobsMax} active jobs, the most that may be`, {
          retryAfterSeconds: FULL_RETRY_SECONDS,
        });
      }
      if (created.kind === 'path_in_use') {
        throw new Problem('conflict', `the active job ${created.user} writes to the sink path ${spec.sink.path}`);
      }
      if (created.kind === 'other_request') {
        throw new Problem('idempotency_conflict', 'this Idempotency-Key came with another body before: use a new one');
      }
      if (created.kind !== 'ok') return { job: await this.#read(created.first), replayed: true };
      await this.#hint(id, created);
      return { job: await this.#read(id), replayed: false };
    });
  }

  /** Throws Problem `not_found`. */
  get(id: string): Promise<Job> {
    return this.#reach(() => this.#read(id));
  }

  /** Newest first. `cursor`: what the page before gave as `nextCursor`, null at the end. */
  list(query: {
    state?: JobState;
    limit: number;
    cursor?: string;
  }): Promise<{ jobs: Job[]; nextCursor: string | null }> {
    return this.#reach(async () => {
      const jobs: Job[] = [];
      let from = query.cursor === undefined ? '+' : `(${query.cursor}`;
      for (let batches = 0; batches < SCAN_BATCHES_MAX; batches += 1) {
        const size = query.state === undefined ? query.limit : SCAN_BATCH;
        const ids = await this.#redis.zrevrangebylex(sharedKeys.jobs, from, '-', 'LIMIT', 0, size + 1);
        const matching = query.state === undefined ? ids : await this.#inState(ids, query.state);
        const wanted = matching.slice(0, query.limit - jobs.length);
        for (const job of await readJobs(this.#redis, wanted)) if (job !== null) jobs.push(job);
        const last = matching.length > wanted.length ? wanted.at(-1) : ids.length > size ? ids.at(-1) : undefined;
        if (last === undefined) return { jobs, nextCursor: null };
        if (jobs.length >= query.limit || matching.length > wanted.length) return { jobs, nextCursor: last };
        from = `(${last}`;
      }
      return { jobs, nextCursor: from.slice(1) };
    });
  }

  /** Throws Problem: `not_found`, `conflict` where its state does not allow it. */
  resume(id: string): Promise<Job> {
    return this.#reach(async () => {
      const hints = await this.#store.resume(id);
      if (hints !== null) await this.#hint(id, hints);
      const job = await this.#read(id);
      if (hints === null && answerTo('resume', job.state) === 'refused') {
        throw new Problem('conflict', `the job is ${job.state}: only a paused job can be resumed`);
      }
      return job;
    });
  }

  /** Removes a finished job's record; its files stay. Throws Problem: `not_found`, `conflict` while it is active. */
  delete(id: string): Promise<void> {
    return this.#reach(async () => {
      const outcome = await this.#store.delete(id);
      if (outcome === 'unknown') throw unknownJob(id);
      if (outcome === 'conflict')
        throw new Problem('conflict', 'the job is not at its end yet: only a finished job can go');
    });
  }

  /** Failures, oldest first. `cursor`: what the page before gave as `nextCursor`, null at the end. */
  failures(
    id: string,
    query: { reason?: string; limit: number; cursor?: string },
  ): Promise<{ failures: Failure[]; nextCursor: string | null }> {
    return this.#reach(async () => {
      await this.#mustExist(id);
      const failures: Failure[] = [];
      const size = query.reason === undefined ? query.limit + 1 : SCAN_BATCH;
      let after = query.cursor ?? null;
      for (let batches = 0; batches < SCAN_BATCHES_MAX; batches += 1) {
        const entries = await this.#failuresAfter(id, after, size);
        for (const { at, failure } of entries) {
          if (query.reason !== undefined && failure.reason !== query.reason) {
            after = at;
          } else if (failures.length === query.limit) {
            return { failures, nextCursor: after };
          } else {
            failures.push(failure);
            after = at;
          }
        }
        if (entries.length < size) return { failures, nextCursor: null };
      }
      return { failures, nextCursor: after };
    });
  }

  /** All failures, oldest first, in batches, with flat memory. Throws Problem `not_found` before the first batch. */
  async *allFailures(id: string, { reason }: { reason?: string }): AsyncIterable<Failure[]> {
    await this.#reach(() => this.#mustExist(id));
    let entries = await this.#reach(() => this.#failuresAfter(id, null, SCAN_BATCH));
    for (let last = entries.at(-1); last !== undefined; last = entries.at(-1)) {
      const { at } = last;
      yield entries
        .map(({ failure }) => failure)
        .filter((failure) => reason === undefined || failure.reason === reason);
      entries = await this.#reach(() => this.#failuresAfter(id, at, SCAN_BATCH));
    }
  }

  /** Every worker that gave a sign of life in the last seconds, oldest first. */
  workers(): Promise<WorkerInfo[]> {
    return this.#reach(async () => {
      const { living } = await beat(this.#redis, null);
      return living
        .map(({ place: _place, consumer: _consumer, ...shown }) => shown)
        .sort((a, b) => (a.id < b.id ? -1 : 1));
    });
  }

  /** Resolves where Redis answers. */
  ping(): Promise<void> {
    return this.#reach(async () => {
      await this.#redis.ping();
    });
  }

  async close(): Promise<void> {
    await this.#queue.close().catch(() => {});
    this.#redis.disconnect();
  }

  async #read(id: string): Promise<Job> {
    const [job] = await readJobs(this.#redis, [id]);
    if (job == null) throw unknownJob(id);
    return job;
  }

  async #mustExist(id: string): Promise<void> {
    if ((await this.#redis.exists(jobKeys(id).job)) === 0) throw unknownJob(id);
  }

  /** A hint that does not arrive is put back by the workers' sweeper: the job is accepted all the same. */
  async #hint(id: string, hints: Hints): Promise<void> {
    try {
      await this.#queue.add(id, hints);
    } catch (error) {
      this.#logger.warn({ err: error, job: id }, 'the hint was not added; a worker will');
    }
  }

  async #inState(ids: readonly string[], state: JobState): Promise<string[]> {
    const pipeline = this.#redis.pipeline();
    for (const id of ids) pipeline.hget(jobKeys(id).job, 'state');
    const replies = (await pipeline.exec()) ?? [];
    return ids.filter((_, index) => replies[index]?.[1] === state);
  }

  async #failuresAfter(id: string, after: string | null, count: number): Promise<{ at: string; failure: Failure }[]> {
    const entries = await this.#redis.xrange(
      jobKeys(id).failures,
      after === null ? '-' : `(${after}`,
      '+',
      'COUNT',
      count,
    );
    return entries.map(([at, fields]) => ({ at, failure: unpackFailure(fields[1] ?? '') }));
  }

  async #reach<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      if (!isRedisAway(error)) throw error;
      throw new Problem('unavailable', 'Redis does not answer; nothing is lost, try again in a moment');
    }
  }
}

export type JobService = Pick<RedisJobService, keyof RedisJobService>;

/** A service on the Redis at `redisUrl`. It connects by itself and again whenever the connection is lost. */
export function createJobService(parts: ServiceParts): JobService {
  return new RedisJobService(parts);
}

function unknownJob(id: string): Problem {
  return new Problem('not_found', `there is no job ${id}`);
}

function digest(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

/** JSON with the keys of every object in order, so that the same body gives the same text. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  );
}
