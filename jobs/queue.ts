/** BullMQ, and all that knows of its options and errors. A job in it is a hint: "look at entry `seq` of job `job`". */
import type { BaseAdapter } from '@bull-board/api/baseAdapter';
import { DelayedError, Queue, WaitingError, Worker, type Job as BullJob } from 'bullmq';
import type { Redis } from 'ioredis';
import { keyPrefix, type Hints } from './store.ts';

export interface Hint {
  readonly job: string;
  readonly seq: number;
  readonly epoch: number;
}

const QUEUE = 'pages';
/** One check is made for all consumers together, however many there are. */
const STALLED_CHECK_MS_MIN = 250;
/** No hint is put off for longer. */
const DELAY_MS_MAX = 20_000;
/** BullMQ orders delayed jobs by their times in ms, times this. */
const DELAYED_SCORE = 0x1000;
const OVERDUE_MAX = 1000;
/** BullMQ tells of each hint in a stream of events that nobody reads. */
const EVENTS_MAX = 100;

export class PageQueue {
  readonly #queue: Queue<Hint>;
  readonly #redis: Redis;

  constructor(redis: Redis) {
    this.#redis = redis;
    this.#queue = new Queue<Hint>(QUEUE, {
      connection: redis,
      prefix: keyPrefix,
      skipVersionCheck: true,
      streams: { events: { maxLen: EVENTS_MAX } },
    });
    this.#queue.on('error', () => {}); // who adds is told by the rejected promise
  }

  /** Adds a hint for each entry; those that are there already stay as they are. */
  async add(job: string, { epoch, seqs }: Hints): Promise<void> {
    if (seqs.length === 0) return;
    await this.#queue.addBulk(
      seqs.map((seq) => ({
        name: 'page',
        data: { job, seq, epoch },
        // Kept jobs would block every later hint for the same entry.
        opts: { jobId: `${job}_${epoch}_${seq}`, removeOnComplete: true, removeOnFail: true },
      })),
    );
  }

  /**
   * Takes the locks of a consumer that is dead for certain, so that the next check for stalled hints finds what it had
   * in work, long before the locks would have ended by themselves. `consumer`: HintConsumer.id.
   */
  async unlock(consumer: string): Promise<void> {
    const active = await this.#redis.lrange(this.#queue.toKey('active'), 0, -1);
    if (active.length === 0) return;
    const locks = active.map((id) => this.#queue.toKey(`${id}:lock`));
    const holders = await this.#redis.mget(locks);
    const theirs = locks.filter((_, index) => holders[index]?.startsWith(`${consumer}:`));
    if (theirs.length > 0) await this.#redis.del(theirs);
  }

  /** How many hints no worker has taken: those that may be taken, and those that shall come later. */
  async waiting(): Promise<{ waiting: number; delayed: number }> {
    const { wait = 0, prioritized = 0, delayed = 0 } = await this.#queue.getJobCounts('wait', 'prioritized', 'delayed');
    return { waiting: wait + prioritized, delayed };
  }

  /** The queue as bull-board shows it. It may be looked at alone: hints are not for people to retry or remove. */
  async board(): Promise<BaseAdapter> {
    const { BullMQAdapter } = await import('@bull-board/api/bullMQAdapter');
    return new BullMQAdapter(this.#queue, { readOnlyMode: true, description: 'Hints: "look at page n of job x"' });
  }

  /**
   * Takes up hints that are put off for longer than any may be: whoever did that has a clock that is ahead of this one's,
   * and nobody else would look at them before that time. A hint that comes too early is put off again.
   */
  async takeUpOverdue(): Promise<void> {
    const latest = (Date.now() + DELAY_MS_MAX) * DELAYED_SCORE;
    const ids = await this.#redis.zrangebyscore(this.#queue.toKey('delayed'), latest, '+inf', 'LIMIT', 0, OVERDUE_MAX);
    for (const id of ids) {
      const job = await this.#queue.getJob(id);
      // Another worker may have been first.
      await job?.promote().catch(() => {});
    }
  }

  async close(): Promise<void> {
    await this.#queue.close();
  }
}

/** What becomes of a hint. `back`: it waits again at once, for any worker; `later`: after at most 20 s. */
export type HintOutcome = { kind: 'done' } | { kind: 'back' } | { kind: 'later'; delayMs: number };

export interface HintConsumerOptions {
  /** Hints in work at once. */
  readonly concurrency: number;
  /** How long a worker may be silent before its hints go to others. */
  readonly lockMs: number;
  /** Takes one hint. `lost` aborts when another worker may have taken it over. What it throws is reported. */
  readonly take: (hint: Hint, lost: AbortSignal) => Promise<HintOutcome>;
  readonly onError: (error: Error, hint: Hint | null) => void;
}

/** Takes hints off the queue, several at once. */
export class HintConsumer {
  readonly #worker: Worker<Hint>;
  #closing = false;

  constructor(redis: Redis, { concurrency, lockMs, take, onError }: HintConsumerOptions) {
    const locks = new Map<string, AbortController>();
    const process = async (job: BullJob<Hint>, token?: string): Promise<void> => {
      const id = job.id ?? '';
      const lock = new AbortController();
      locks.set(id, lock);
      try {
        // What was on its way here when the end came.
        const outcome = this.#closing ? ({ kind: 'back' } as const) : await take(job.data, lock.signal);
        if (outcome.kind === 'back') {
          await job.moveToWait(token);
          throw new WaitingError();
        }
        if (outcome.kind === 'later') {
          await job.moveToDelayed(Date.now() + outcome.delayMs, token);
          throw new DelayedError();
        }
      } finally {
        if (locks.get(id) === lock) locks.delete(id);
      }
    };
    this.#worker = new Worker<Hint>(QUEUE, process, {
      connection: redis,
      prefix: keyPrefix,
      concurrency,
      lockDuration: lockMs,
      // A worker that reads a huge page answers nobody for some seconds: three quarters of the lock are left for that.
      lockRenewTime: lockMs / 4,
      stalledInterval: Math.max(STALLED_CHECK_MS_MIN, lockMs / 10),
      // A page whose worker died is begun again as often as it takes; pages that kill their workers are told by the
      // chain's own count of tries.
      maxStalledCount: 1_000_000,
      skipVersionCheck: true,
    });
    this.#worker.on('lockRenewalFailed', (ids) => {
      for (const id of ids) locks.get(id)?.abort();
    });
    this.#worker.on('failed', (job, error) => onError(error, job?.data ?? null));
    this.#worker.on('error', (error) => onError(error, null));
  }

  /** How its locks are told from those of others. */
  get id(): string {
    return this.#worker.id;
  }

  /** Takes no more hints, then calls `giveBack`, which makes those in work end soon; resolves when they have ended. */
  async close(giveBack: () => void): Promise<void> {
    this.#closing = true;
    // Paused first: else what is given back would be taken again at once.
    await this.#worker.pause(true);
    giveBack();
    await this.#worker.close();
  }
}
