/**
 * Wake-ups: by BullMQ job events, whoever changes a job tells those who show it to look at it. They may get lost or come
 * twice: what is shown is always read anew.
 */
import { QueueEvents, QueueEventsProducer, type QueueEventsListener } from 'bullmq';
import type { Redis } from 'ioredis';
import { connectRedis } from '../src/redis.ts';
import { keyPrefix } from './store.ts';

/** What changed: its counts, or what a person or a program waits for. */
export type Change = 'progress' | 'state';

const QUEUE = 'events';
/** Nobody asks for those of the past. */
const KEPT_MAX = 1000;
const PROGRESS_MS = 500;

interface WakeUp {
  readonly job: string;
  readonly change: Change;
}

interface Listener extends QueueEventsListener {
  changed: (wakeUp: WakeUp) => void;
}

/** Tells of changes of jobs: at most twice a second of a job's progress, at once of its state. */
export class WakeUpSender {
  readonly #redis: Redis;
  readonly #producer: QueueEventsProducer;
  /** Jobs whose progress was told of just now; true: there is more to tell. */
  readonly #told = new Map<string, boolean>();

  constructor(redis: Redis) {
    this.#redis = redis;
    this.#producer = new QueueEventsProducer(QUEUE, { connection: redis, prefix: keyPrefix, skipVersionCheck: true });
    this.#producer.on('error', () => {});
  }

  /** Call it after the change is in Redis. It neither waits nor fails. */
  told(job: string, change: Change): void {
    if (change === 'state') this.#send({ job, change });
    else if (this.#told.has(job)) this.#told.set(job, true);
    else this.#tellProgress(job);
  }

  async close(): Promise<void> {
    await this.#producer.close();
  }

  #tellProgress(job: string): void {
    this.#send({ job, change: 'progress' });
    this.#told.set(job, false);
    const rested = (): void => {
      if (this.#told.get(job)) this.#tellProgress(job);
      else this.#told.delete(job);
    };
    setTimeout(rested, PROGRESS_MS).unref();
  }

  #send(wakeUp: WakeUp): void {
    // It would only wait with the others until Redis is back.
    if (this.#redis.status !== 'ready') return;
    this.#producer.publishEvent({ eventName: 'changed', ...wakeUp }, KEPT_MAX).catch(() => {});
  }
}

/** Hears of changes of jobs, over a connection of its own. */
export class WakeUpListener {
  readonly #events: QueueEvents;

  constructor(redisUrl: string, heard: (job: string, change: Change) => void) {
    const connection = connectRedis(redisUrl, { patient: true });
    this.#events = new QueueEvents(QUEUE, { connection, prefix: keyPrefix, skipVersionCheck: true });
    // It blocks on a connection like this one, which it has made for itself.
    connection.disconnect();
    this.#events.on('error', () => {});
    this.#events.on<Listener>('changed', ({ job, change }: WakeUp) => heard(job, change));
  }

  /** It does not wait: where Redis was never reached, BullMQ would. */
  close(): void {
    this.#events.close().catch(() => {});
  }
}
