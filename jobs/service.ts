import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import type { Logger } from 'pino';
import { uuidv7 } from 'uuidv7';
import { checkPatched, fillDefaults, patchJob } from '../src/check-job.ts';
import { badRequest, FetchError, Problem } from '../src/errors.ts';
import { failpoint } from '../src/failpoint.ts';
import type { ListFormat } from '../src/records.ts';
import { connectRedis, isRedisAway } from '../src/redis.ts';
import type { Failure, Job, JobPatch, JobRequest, JobSpec, JobState, WorkerInfo } from '../src/schemas.ts';
import { kindOf, sourceOf } from '../src/sources/index.ts';
import type { Upload, UrlFiles } from '../src/url-files.ts';
import { JobEvents, type EventStream } from './events.ts';
import { failuresAfter, failuresPage } from './failures.ts';
import { readFigures, type Figures } from './figures.ts';
import { jobsPage } from './job-list.ts';
import { Manifests } from './manifest.ts';
import { answerTo, pagesInFlightMax, statesFor, type Verb } from './model.ts';
import { LEASE_MS } from './pulse.ts';
import { PageQueue } from './queue.ts';
import { digestOf } from './request-digest.ts';
import { SharedReads } from './shared-reads.ts';
import { ChainStore, jobKeys, type Hints, type Refused } from './store.ts';
import { readJobs } from './view.ts';
import { WakeUpSender, type Change } from './wake-ups.ts';
import { readWorkers } from './workers.ts';

/** How often a call is tried anew whose job changed meanwhile; each time later, by up to so much, as others try too. */
const TURNS_MAX = 20;
const TURN_MS = 20;

/** A worker that is not heard of has no lease any more after this. */
const LEAVING_MS_MAX = LEASE_MS + 1000;
const LEAVING_POLL_MS = 50;
/** When a place among the active jobs may be free again is not known: seldom enough for many who wait. */
const FULL_RETRY_SECONDS = 10;

interface ServiceParts {
  readonly redisUrl: string;
  /** How many jobs may be not at their end. */
  readonly activeJobsMax: number;
  readonly urlFiles: UrlFiles;
  readonly logger: Logger;
  /** How often a stream of events says that it is there; default: 15 s. */
  readonly heartbeatMs?: number;
  /** How many streams of events may be open; default: 5,000. */
  readonly streamsMax?: number;
}

/**
 * What the API can do with jobs. It keeps nothing that another one on the same Redis would need. Every method throws
 * Problem: `unavailable` where Redis does not answer in time.
 */
class RedisJobService {
  readonly #redis: Redis;
  readonly #store: ChainStore;
  readonly #queue: PageQueue;
  readonly #wakeUps: WakeUpSender;
  readonly #events: JobEvents;
  readonly #activeJobsMax: number;
  readonly #urlFiles: UrlFiles;
  readonly #manifests: Manifests;
  readonly #logger: Logger;
  /** Many may watch the same job. */
  readonly #shown = new SharedReads((id) => this.#read(id));

  constructor({ redisUrl, activeJobsMax, urlFiles, logger, heartbeatMs, streamsMax }: ServiceParts) {
    this.#redis = connectRedis(redisUrl, { patient: false });
    this.#store = new ChainStore(this.#redis);
    this.#queue = new PageQueue(this.#redis);
    this.#wakeUps = new WakeUpSender(this.#redis);
    this.#events = new JobEvents({ redis: this.#redis, redisUrl, logger, heartbeatMs, streamsMax });
    this.#activeJobsMax = activeJobsMax;
    this.#urlFiles = urlFiles;
    this.#manifests = new Manifests(this.#redis, urlFiles.dataDir);
    this.#logger = logger;
  }

  /**
   * Accepts a job. With an idempotency key, the same key and request within 24 h give the first job again (`replayed`).
   * Throws Problem: `conflict` (sink path in use), `idempotency_conflict`, `too_many_requests` (jobs that are active).
   */
  create(request: JobRequest, idempotencyKey: string | null): Promise<{ job: Job; replayed: boolean }> {
    return this.#reach(async () => {
      const id = uuidv7();
      const spec = await this.#prepare(request, id);
      const source = sourceOf(spec);
      const newJob = {
        id,
        spec,
        firstToken: source.first(),
        filesTotal: source.filesTotal,
        cap: pagesInFlightMax(1, spec.limits.concurrency, Infinity),
        activeJobsMax: this.#activeJobsMax,
        idempotency: idempotencyKey === null ? null : { key: digestOf(idempotencyKey), digest: digestOf(request) },
      };
      const created = await oncePathIsLeft(() => this.#store.create(newJob));
      if (created.kind !== 'ok') await this.#urlFiles.of(id).remove();
      if (created.kind === 'full' || 'user' in created) throw this.#refused(created);
      if (created.kind === 'other_request') {
        throw new Problem('idempotency_conflict', 'this Idempotency-Key came with another body before: use a new one');
      }
      if (created.kind !== 'ok') return { job: await this.#read(created.first), replayed: true };
      failpoint('created');
      this.#told(id, 'state');
      await this.#hint(id, created);
      return { job: await this.#read(id), replayed: false };
    });
  }

  /**
   * Stores a list of URLs. Throws Problem: `body_too_large`, `bad_request` (damaged, or no URL in it), `unavailable` (it
   * cannot be stored); and what `body` fails with.
   */
  async upload(body: Readable, format: ListFormat): Promise<Upload> {
    return orProblem(() => this.#urlFiles.receive(body, format));
  }

  /** Throws Problem `not_found`. */
  get(id: string): Promise<Job> {
    return this.#reach(() => this.#shown.get(id));
  }

  /** Newest first. `cursor`: what the page before gave as `nextCursor`, null at the end. */
  list(query: {
    state?: JobState;
    limit: number;
    cursor?: string;
  }): Promise<{ jobs: Job[]; nextCursor: string | null }> {
    return this.#reach(() => jobsPage(this.#redis, query));
  }

  /**
   * Does as a person asks, or nothing where the job is already so. Every worker knows within a second. Throws Problem:
   * `not_found`, `conflict` where its state does not allow it.
   */
  steer(id: string, verb: 'pause' | 'resume' | 'cancel'): Promise<Job> {
    return this.#asAllowed(id, verb, async () => {
      if (verb === 'cancel') return this.#store.cancel(id);
      if (verb === 'pause') return this.#pause(id);
      const hints = await this.#store.resume(id);
      if (hints !== null) await this.#hint(id, hints);
      return hints !== null;
    });
  }

  /**
   * Fetches again what failed for this reason and with this status (null: any), and goes on with the listing where it could
   * not be read. Throws Problem: `not_found`, `conflict` (it did not fail, its sink path is in use), `too_many_requests`.
   */
  retry(id: string, which: { reason: string | null; statusCode: number | null }): Promise<Job> {
    return this.#asAllowed(id, 'retry', async () => {
      const wanted = { ...which, activeJobsMax: this.#activeJobsMax };
      const outcome = await oncePathIsLeft(() => this.#store.retry(id, wanted));
      if (outcome.kind === 'full' || 'user' in outcome) throw this.#refused(outcome);
      if (outcome.kind === 'ok') await this.#hint(id, outcome);
      return outcome.kind === 'ok';
    });
  }

  /** Changes a job that runs or may run again. Throws Problem: `not_found`, `conflict`, `bad_request`. */
  change(id: string, patch: JobPatch): Promise<Job> {
    return this.#asAllowed(id, 'change', async () => {
      const order = await this.#store.order(id);
      if (order === null) throw unknownJob(id);
      const spec = patchJob(order.spec, patch);
      const errors = checkPatched(spec);
      if (errors.length > 0) throw badRequest(errors);
      return (await this.#store.patch(id, { ...order, spec })) === 'ok';
    });
  }

  /** Removes a finished job's record; its files stay. Throws Problem: `not_found`, `conflict` while it is active. */
  delete(id: string): Promise<void> {
    return this.#reach(async () => {
      const outcome = await this.#store.delete(id);
      if (outcome === 'unknown') throw unknownJob(id);
      if (outcome === 'conflict')
        throw new Problem('conflict', 'the job is not at its end yet: only a finished job can go');
      this.#told(id, 'state');
      await this.#urlFiles.of(id).remove();
    });
  }

  /** Failures, oldest first. `cursor`: what the page before gave as `nextCursor`, null at the end. */
  failures(
    id: string,
    query: { reason?: string; limit: number; cursor?: string },
  ): Promise<{ failures: Failure[]; nextCursor: string | null }> {
    return this.#reach(async () => {
      await this.#mustExist(id);
      return failuresPage(this.#redis, id, query);
    });
  }

  /** All failures, oldest first, in batches, with flat memory. Throws Problem `not_found` before the first batch. */
  async *allFailures(id: string, { reason }: { reason?: string }): AsyncIterable<Failure[]> {
    await this.#reach(() => this.#mustExist(id));
    let batch = await this.#reach(() => failuresAfter(this.#redis, id, null));
    while (batch !== null) {
      const { failures, last } = batch;
      yield failures.filter((failure) => reason === undefined || failure.reason === reason);
      batch = await this.#reach(() => failuresAfter(this.#redis, id, last));
    }
  }

  /** As `Manifests.of`; throws Problem `not_found` too. */
  manifest(id: string): Promise<Readable> {
    return this.#reach(async () => this.#manifests.of(await this.#read(id)));
  }

  /** As `Manifests.verify`; throws Problem `not_found` too. */
  verify(id: string): Promise<Readable> {
    return this.#reach(async () => this.#manifests.verify(await this.#read(id)));
  }

  /**
   * The job's events until its end; null where it is at its end and the event `lastEventId` has shown that. Whoever reads
   * too slowly is cut off. Throws Problem: `not_found`; `unavailable` also where too many streams are open.
   */
  watch(id: string, lastEventId: number | null): Promise<EventStream | null> {
    return this.#reach(async () => {
      await this.#mustExist(id);
      return this.#events.watch(id, lastEventId);
    });
  }

  /** The events of all jobs, without end. Throws as `watch` does. */
  watchAll(): Promise<EventStream> {
    return this.#reach(() => this.#events.watchAll());
  }

  /** Every worker that gave a sign of life in the last seconds, oldest first. */
  workers(): Promise<WorkerInfo[]> {
    return this.#reach(async () => {
      const living = await readWorkers(this.#redis);
      return living
        .map(({ place: _place, consumer: _consumer, ...shown }) => shown)
        .sort((a, b) => (a.id < b.id ? -1 : 1));
    });
  }

  /** How the whole service fares. */
  figures(): Promise<Figures> {
    return this.#reach(() => readFigures(this.#redis, this.#queue));
  }

  /** The queue as bull-board shows it, to look at alone. */
  board(): ReturnType<PageQueue['board']> {
    return this.#queue.board();
  }

  /** Resolves where Redis answers. */
  ping(): Promise<void> {
    return this.#reach(async () => {
      await this.#redis.ping();
    });
  }

  async close(): Promise<void> {
    this.#events.close();
    await this.#wakeUps.close().catch(() => {});
    await this.#queue.close().catch(() => {});
    this.#redis.disconnect();
  }

  /** The job after `work` was done, which gives false where the job's state changed meanwhile. */
  #asAllowed(id: string, verb: Verb, work: () => Promise<boolean>): Promise<Job> {
    return this.#reach(async () => {
      for (let turns = 0; turns < TURNS_MAX; turns += 1) {
        const job = await this.#read(id);
        const answer = answerTo(verb, job.state);
        if (answer === 'done') return job;
        if (answer === 'refused') {
          throw new Problem('conflict', `the job is ${job.state}; this is for one that is ${statesFor(verb)}`);
        }
        if (await work()) {
          this.#told(id, 'state');
          return this.#read(id);
        }
        await sleep(Math.random() * TURN_MS * turns);
      }
      throw new Problem('conflict', 'the job is being changed again and again by others; try again');
    });
  }

  /** The epoch is read first: a pause that comes late must not undo a resume. */
  async #pause(id: string): Promise<boolean> {
    const epoch = await this.#redis.hget(jobKeys(id).job, 'epoch');
    return epoch !== null && this.#store.pause(id, 'user', Number(epoch));
  }

  #refused(refused: Refused): Problem {
    if (refused.kind !== 'full') {
      const what = refused.kind === 'path_in_use' ? 'active job' : 'job that was cancelled just now,';
      return new Problem('conflict', `the ${what} ${refused.user} writes to the same sink path, or above or below it`);
    }
    const detail = `there are ${this.#activeJobsMax} active jobs, the most that may be`;
    return new Problem('too_many_requests', detail, { retryAfterSeconds: FULL_RETRY_SECONDS });
  }

  /** The job as it is to be stored. */
  async #prepare(request: JobRequest, id: string): Promise<JobSpec> {
    const spec = fillDefaults(request, id);
    const source = await orProblem(async () => kindOf(request.source).prepare?.(request.source, id, this.#urlFiles));
    return source === undefined ? spec : { ...spec, source };
  }

  async #read(id: string): Promise<Job> {
    const [job] = await readJobs(this.#redis, [id]);
    if (job == null) throw unknownJob(id);
    return job;
  }

  async #mustExist(id: string): Promise<void> {
    if ((await this.#redis.exists(jobKeys(id).job)) === 0) throw unknownJob(id);
  }

  /** Call it after whatever changed a job: those who watch it are shown it. */
  #told(id: string, change: Change): void {
    this.#wakeUps.told(id, change);
  }

  /** A hint that does not arrive is put back by the workers' sweeper: the job is accepted all the same. */
  async #hint(id: string, hints: Hints): Promise<void> {
    try {
      await this.#queue.add(id, hints);
    } catch (error) {
      this.#logger.warn({ err: error, job: id }, 'the hint was not added; a worker will');
    }
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

/** Tries again while the path's last user was cancelled, but not all workers have let go of it: a fraction of a second. */
async function oncePathIsLeft<T extends { kind: string }>(attempt: () => Promise<T>): Promise<T> {
  const deadline = performance.now() + LEAVING_MS_MAX;
  for (;;) {
    const outcome = await attempt();
    if (outcome.kind !== 'path_leaving' || performance.now() > deadline) return outcome;
    await sleep(LEAVING_POLL_MS);
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

/** What keeping a list failed with, as a Problem. */
async function orProblem<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof FetchError)) throw error;
    const kinds = { too_large: 'body_too_large', decode: 'bad_request' } as const;
    throw new Problem(kinds[error.reason as keyof typeof kinds] ?? 'unavailable', error.message);
  }
}
