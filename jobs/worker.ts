import { hostname } from 'node:os';
import type { Redis } from 'ioredis';
import type { Logger } from 'pino';
import { uuidv7 } from 'uuidv7';
import type { Config } from '../src/config.ts';
import { dataIdOf } from '../src/data-id.ts';
import { FetchError } from '../src/errors.ts';
import { Fetcher } from '../src/fetch-file.ts';
import { openGuardedConnector } from '../src/guard.ts';
import { connectionLimit, HttpAgent } from '../src/http.ts';
import { connectRedis } from '../src/redis.ts';
import { brokenSink, openSink, type Sink } from '../src/sinks/index.ts';
import type { JobSpec } from '../src/schemas.ts';
import { addressPolicy, type AddressPolicy } from '../src/ssrf.ts';
import { UrlFiles } from '../src/url-files.ts';
import { Company } from './company.ts';
import { DataFolder } from './data-folder.ts';
import { JobInWork } from './job-in-work.ts';
import { takePage } from './page.ts';
import { HintConsumer, PageQueue } from './queue.ts';
import { ShareCalls } from './share-calls.ts';
import { ChainStore } from './store.ts';
import { WakeUpSender } from './wake-ups.ts';
import type { ShownWorker, WorkerFigures } from './worker-server.ts';
import {
  BEAT_MS,
  beat,
  holdMs,
  isDead,
  leave,
  place,
  readWorkers,
  type BeatAnswer,
  type WorkerSign,
} from './workers.ts';

/** Pages in work at once, of all jobs together; most of them wait for their job's turn. */
const PAGES_AT_ONCE = 128;
const SWEEP_MS = 2000;
const SWEEPERS_MAX = 16;
/** A job without pages here is kept open for its next page, but not for long. */
const JOB_IDLE_MS = 3000;
const URL_FILES_SWEEP_MS = 600_000;

export interface WorkerOptions {
  readonly redisUrl: string;
  readonly dataDir: string;
  readonly uploadBytesMax: number;
  readonly logger: Logger;
  /** How long this worker may be silent before its pages go to others. */
  readonly lockMs: number;
  /** Addresses that files and listings may be fetched from. */
  readonly mayReach: AddressPolicy;
}

/** One worker process: takes pages of all jobs, several at once, over one set of connections. */
export class DownloadWorker implements ShownWorker {
  readonly id = uuidv7();
  workers = 1;
  readonly store: ChainStore;
  readonly queue: PageQueue;
  readonly logger: Logger;
  readonly company = new Company(PAGES_AT_ONCE);
  readonly wakeUps: WakeUpSender;
  readonly folder: DataFolder;
  readonly #startedAt = new Date().toISOString();
  readonly #place = place();
  readonly #dataDir: string;
  readonly #lockMs: number;
  readonly #urlFiles: UrlFiles;
  readonly #redis: Redis;
  readonly #agent: HttpAgent;
  readonly #fetcher: Fetcher;
  readonly #jobs = new Map<string, Promise<JobInWork | null>>();
  readonly #opened = new Map<string, JobInWork>();
  readonly #shareCalls: ShareCalls;
  readonly #consumer: HintConsumer;
  readonly #timers: NodeJS.Timeout[];
  #settledEnded = 0;
  #settledBefore = 0;
  #beatBefore = performance.now();
  #toldAtMs = -Infinity;

  constructor({ redisUrl, dataDir, uploadBytesMax, logger, lockMs, mayReach }: WorkerOptions) {
    this.#dataDir = dataDir;
    this.#lockMs = lockMs;
    this.#urlFiles = new UrlFiles({ dataDir, bytesMax: uploadBytesMax });
    this.logger = logger.child({ worker: this.id });
    const { connections, openFilesLimit } = connectionLimit();
    this.#agent = new HttpAgent({ maxConnections: connections, connector: openGuardedConnector(mayReach) });
    this.#fetcher = new Fetcher(this.#agent);
    this.logger.info({ connections, openFilesLimit }, 'worker started');
    this.#redis = connectRedis(redisUrl, { patient: true });
    this.store = new ChainStore(this.#redis);
    this.queue = new PageQueue(this.#redis);
    this.wakeUps = new WakeUpSender(this.#redis);
    this.#shareCalls = new ShareCalls(redisUrl, (job, share) => this.#opened.get(job)?.called(share));
    this.folder = new DataFolder({ id: dataIdOf(dataDir), path: dataDir, store: this.store, logger: this.logger });
    this.#consumer = new HintConsumer(this.#redis, {
      concurrency: PAGES_AT_ONCE,
      lockMs,
      take: (hint, lost) => takePage(this, hint, lost),
      onError: (error, hint) =>
        this.logger.error({ err: error, job: hint?.job, page: hint?.seq }, 'a page could not be worked on'),
    });
    this.#timers = [
      this.#every(BEAT_MS, () => this.#beat()),
      this.#every(SWEEP_MS, () => this.#sweep()),
      this.#every(JOB_IDLE_MS, () => this.#closeIdle()),
      this.#every(URL_FILES_SWEEP_MS, () => this.#sweepUrlFiles()),
    ];
    this.#try(this.#beat());
  }

  /** The job, opened once; null where there is no such job any more. */
  job(id: string): Promise<JobInWork | null> {
    let job = this.#jobs.get(id);
    if (job === undefined) {
      job = this.#open(id);
      this.#jobs.set(id, job);
      job.then(
        (opened) => (opened === null ? this.#jobs.delete(id) : this.#opened.set(id, opened)),
        () => this.#jobs.delete(id),
      );
    }
    return job;
  }

  /** Whether another worker shall have the job's next page. */
  leavesToOthers(job: string): boolean {
    return this.workers > 1 && this.#opened.get(job)?.leavesToOthers() === true;
  }

  /** How long ago it last reached Redis, in ms. */
  get silentMs(): number {
    return performance.now() - this.#toldAtMs;
  }

  figures(): WorkerFigures {
    return {
      counts: this.#fetcher.tally.counts(),
      jobs: this.#opened.size,
      pagesInWork: sum(this.#opened.values(), (job) => job.pagesInWork),
      requestsInFlight: this.#fetcher.inFlight,
    };
  }

  /** The workers that may still hold a page, and have files of it half done. */
  async living(): Promise<ReadonlySet<string>> {
    const living = await readWorkers(this.#redis, holdMs(this.#lockMs));
    return new Set(living.filter((worker) => !isDead(worker, this.#place)).map(({ id }) => id)).add(this.id);
  }

  /** Gives all pages back and ends. What is in flight is aborted. */
  async close(): Promise<void> {
    for (const timer of this.#timers) clearInterval(timer);
    await this.#consumer.close(() => {
      for (const job of this.#opened.values()) void job.close();
    });
    await Promise.allSettled([this.#tell(null), leave(this.#redis, this.id, [])]);
    await this.queue.close();
    await this.wakeUps.close();
    this.#shareCalls.close();
    this.#fetcher.close();
    this.#agent.close();
    this.#redis.disconnect();
  }

  async #open(id: string): Promise<JobInWork | null> {
    const order = await this.store.order(id);
    if (order === null) return null;
    const { spec } = order;
    const { concurrency } = spec.limits;
    const { maxConnections } = this.#agent;
    if (concurrency > maxConnections) {
      const remedy = 'raise the limit of open files (ulimit -n) of the workers, or run more of them';
      this.logger.warn({ job: id, concurrency, maxConnections }, `fewer connections than the job may have: ${remedy}`);
    }
    const open = (): Promise<Sink> => this.#openSink(id, spec);
    const sink = await open();
    if (sink.broken !== undefined && !spec.dryRun)
      this.logger.error({ err: sink.broken, job: id }, 'the sink cannot be opened');
    this.#shareCalls.listen(id);
    return new JobInWork({
      id,
      order,
      sink,
      openSink: open,
      urlList: this.#urlFiles.of(id),
      redis: this.#redis,
      fetcher: this.#fetcher,
      worker: this.id,
      lockMs: this.#lockMs,
      pause: async (reason, epoch) => {
        if (await this.store.pause(id, reason, epoch)) this.wakeUps.told(id, 'state');
      },
      onProgress: () => this.wakeUps.told(id, 'progress'),
      readOrder: () => this.store.order(id),
      workers: () => this.workers,
      highestPriority: () => this.#highestPriority(),
      onPulseError: (error) => this.logger.error({ err: error, job: id }, 'progress could not be told'),
    });
  }

  #highestPriority(): number {
    let highest = 0;
    for (const job of this.#opened.values()) if (job.makesProgress) highest = Math.max(highest, job.spec.priority);
    return highest;
  }

  /** A sink that cannot be opened makes each file of a page fail with its reason: the job tells, and never hangs. */
  async #openSink(jobId: string, spec: JobSpec): Promise<Sink> {
    if (spec.dryRun) return brokenSink(new FetchError('sink', 'a dry run writes nothing'));
    try {
      return await openSink(spec.sink, { dataDir: this.#dataDir, jobId, workerId: this.id });
    } catch (error) {
      if (!(error instanceof FetchError)) throw error;
      return brokenSink(error);
    }
  }

  async #beat(): Promise<void> {
    const settled = this.#settledEnded + sum(this.#opened.values(), (job) => job.settled);
    const now = performance.now();
    const { living, folders, neighbours } = await this.#tell({
      id: this.id,
      host: hostname(),
      pid: process.pid,
      startedAt: this.#startedAt,
      pagesInWork: sum(this.#opened.values(), (job) => job.pagesInWork),
      filesPerSecond: Math.round(((settled - this.#settledBefore) * 1000) / Math.max(1, now - this.#beatBefore)),
      memoryBytes: process.memoryUsage.rss(),
      dataId: this.folder.id,
      place: this.#place,
      consumer: this.#consumer.id,
    });
    this.#settledBefore = settled;
    this.#beatBefore = now;
    this.workers = living;
    this.folder.living = folders;
    const dead = neighbours.filter((worker) => isDead(worker, this.#place));
    if (dead.length === 0) return;
    const jobs = await this.store.active();
    for (const { id, consumer } of dead) {
      this.logger.warn({ dead: id }, 'a worker died: its pages go to others');
      await this.queue.unlock(consumer);
      await leave(this.#redis, id, jobs);
    }
  }

  /** Gives a sign of life, and tells what was done since the last one. */
  async #tell(sign: WorkerSign | null): Promise<BeatAnswer> {
    const done = this.#fetcher.tally.take();
    try {
      const answer = await beat(this.#redis, sign, done, holdMs(this.#lockMs));
      this.#toldAtMs = performance.now();
      return answer;
    } catch (error) {
      this.#fetcher.tally.putBack(done);
      throw error;
    }
  }

  /**
   * Puts back hints that got lost, or were put off by a wrong clock. Part of correctness: everything that adds hints may be killed
   * before it does. Where there are many workers, some of them at a time are enough, whichever they are.
   */
  async #sweep(): Promise<void> {
    if (Math.random() * this.workers > SWEEPERS_MAX) return;
    for (const id of await this.store.active()) await this.queue.add(id, await this.store.todo(id));
    await this.queue.takeUpOverdue();
  }

  async #sweepUrlFiles(): Promise<void> {
    await this.#urlFiles.sweep(Date.now(), async (id) => (await this.store.order(id)) !== null);
  }

  async #closeIdle(): Promise<void> {
    if (![...this.#opened.values()].some(isIdle)) return;
    const living = await this.living();
    for (const [id, job] of this.#opened) {
      if (!isIdle(job)) continue;
      this.#settledEnded += job.settled;
      this.#opened.delete(id);
      this.#jobs.delete(id);
      this.#shareCalls.leave(id);
      job.sink.sweep(living);
      if (job.isOver) this.#try(this.forgetMade(job));
      void job.close();
    }
  }

  /** What is not of the job's shards or manifest stays no longer than the job. */
  async forgetMade({ id, sink }: JobInWork): Promise<void> {
    if (sink.publisher === undefined) return;
    const pages = await this.store.pagesAtEnd(id);
    const remove = pages === null ? null : sink.publisher.leftovers(pages);
    // A retry may have begun before the look, and even be over: it had pages more.
    if (remove !== null && (await this.store.pagesAtEnd(id)) === pages) remove();
  }

  /** Not while the last one lasts: commands to a Redis that is away wait for it. */
  #every(ms: number, work: () => Promise<void>): NodeJS.Timeout {
    let isAtWork = false;
    return setInterval(() => {
      if (isAtWork) return;
      isAtWork = true;
      this.#try(work().finally(() => (isAtWork = false)));
    }, ms);
  }

  #try(work: Promise<void>): void {
    work.catch((error: unknown) => this.logger.error({ err: error }, 'Redis did not do as asked'));
  }
}

/** Starts a worker with the settings of this process. */
export function startWorker(config: Config, redisUrl: string, logger: Logger): DownloadWorker {
  const mayReach = addressPolicy(config.allowedNetworks);
  const { dataDir, uploadBytesMax, pageLockMs: lockMs } = config;
  return new DownloadWorker({ redisUrl, dataDir, uploadBytesMax, lockMs, mayReach, logger });
}

function sum<T>(of: Iterable<T>, number: (one: T) => number): number {
  let total = 0;
  for (const one of of) total += number(one);
  return total;
}

function isIdle(job: JobInWork): boolean {
  return job.pagesInWork === 0 && !job.inTrouble && performance.now() - job.idleSince >= JOB_IDLE_MS;
}
