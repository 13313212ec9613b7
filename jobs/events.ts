import type { Redis } from 'ioredis';
import type { Logger } from 'pino';
import { Problem } from '../src/errors.ts';
import { isRedisAway } from '../src/redis.ts';
import { eventBytes, EventStream } from './event-stream.ts';
import { sharedKeys } from './store.ts';
import { WakeUpListener, type Change } from './wake-ups.ts';
import { endedAtMs, WatchedJob } from './watched-job.ts';

export type { EventStream };

/** Half of the connections that an API process takes: there is room for calls beside them. */
const STREAMS_MAX = 5000;
const HEARTBEAT_MS = 15_000;
/** Wake-ups may get lost: what was not read for so long is read anyway, but at most so many jobs at a time. */
const RECHECK_MS = 1000;
const RECHECKED_MAX = 200;
/** A job that nobody watches any more is remembered for a while: a late wake-up of it is no news. */
const REMEMBERED_MS = 5000;
const SNAPSHOT_BATCH = 50;

export interface JobEventsParts {
  readonly redis: Redis;
  readonly redisUrl: string;
  readonly logger: Logger;
  readonly heartbeatMs?: number | undefined;
  readonly streamsMax?: number | undefined;
}

/** The streams of events of this process. jobs/README.md has the table of all events. */
export class JobEvents {
  readonly #redis: Redis;
  readonly #logger: Logger;
  readonly #streamsMax: number;
  readonly #wakeUps: WakeUpListener;
  readonly #timers: NodeJS.Timeout[];
  readonly #jobs = new Map<string, WatchedJob>();
  readonly #streams = new Set<EventStream>();
  /** The streams of all jobs, each with the ids of those that it has shown; null: all. */
  readonly #ofAll = new Map<EventStream, Set<string> | null>();

  constructor(parts: JobEventsParts) {
    this.#redis = parts.redis;
    this.#logger = parts.logger;
    this.#streamsMax = parts.streamsMax ?? STREAMS_MAX;
    this.#wakeUps = new WakeUpListener(parts.redisUrl, (id, change) => this.#wake(id, change));
    this.#timers = [
      setInterval(() => this.#beat(), parts.heartbeatMs ?? HEARTBEAT_MS),
      setInterval(() => void this.#recheck().catch(this.#complain), RECHECK_MS),
    ];
  }

  /**
   * The events of one job that exists: it is shown as it is, then whenever it changes, until its end. Null where it is at
   * its end, and an event with the id `lastEventId` has shown that. Throws Problem `unavailable` where there are too many
   * streams, and what ioredis throws.
   */
  async watch(id: string, lastEventId: number | null): Promise<EventStream | null> {
    const watched = this.#job(id);
    await watched.refresh();
    const { latest, isOver } = watched;
    if (latest !== null && isOver && lastEventId !== null && lastEventId > endedAtMs(latest.job)) return null;
    const stream = this.#open();
    if (latest !== null) this.#sendTo(stream, eventBytes('snapshot', latest.eventId, latest.text));
    if (latest !== null && isOver) this.#sendTo(stream, eventBytes('state', latest.eventId, latest.text));
    if (latest === null || isOver) {
      stream.finish();
    } else {
      watched.streams.add(stream);
      stream.once('close', () => watched.streams.delete(stream));
    }
    return stream;
  }

  /** The events of all jobs: each active one is shown as it is, then each whenever it changes. Throws as `watch` does. */
  async watchAll(): Promise<EventStream> {
    const ids = await this.#active();
    const stream = this.#open();
    const shown = new Set<string>();
    this.#ofAll.set(stream, shown);
    stream.once('close', () => this.#ofAll.delete(stream));
    this.#showAll(stream, shown, ids.sort()).catch((error: unknown) => {
      this.#complain(error);
      stream.destroy();
    });
    return stream;
  }

  close(): void {
    for (const timer of this.#timers) clearInterval(timer);
    for (const watched of this.#jobs.values()) watched.close();
    for (const stream of this.#streams) stream.finish();
    this.#wakeUps.close();
  }

  #open(): EventStream {
    if (this.#streams.size >= this.#streamsMax) {
      const detail = `this API process has ${this.#streamsMax} event streams open, the most that may be`;
      throw new Problem('unavailable', detail);
    }
    const stream = new EventStream();
    this.#streams.add(stream);
    stream.once('close', () => this.#streams.delete(stream));
    return stream;
  }

  async #showAll(stream: EventStream, shown: Set<string>, ids: readonly string[]): Promise<void> {
    const show = ({ id, latest, isOver }: WatchedJob): void => {
      if (latest === null || shown.has(id)) return;
      shown.add(id);
      if (!isOver) this.#sendTo(stream, eventBytes('snapshot', latest.eventId, latest.text));
    };
    for (let index = 0; index < ids.length && !stream.destroyed; index += SNAPSHOT_BATCH) {
      const batch = ids.slice(index, index + SNAPSHOT_BATCH).map((id) => this.#job(id));
      await Promise.all(batch.map((watched) => watched.refresh()));
      for (const watched of batch) {
        await stream.room();
        // Nothing, but where that took long.
        await watched.refresh();
        show(watched);
      }
    }
    // Those that came meanwhile; what comes from now on is news.
    for (const watched of this.#jobs.values()) show(watched);
    if (this.#ofAll.has(stream)) this.#ofAll.set(stream, null);
  }

  #job(id: string, isNews = false): WatchedJob {
    const known = this.#jobs.get(id);
    if (known !== undefined) return known;
    const watched = new WatchedJob({
      id,
      redis: this.#redis,
      isNews,
      onEvent: (bytes) => this.#send(watched, bytes),
      onGone: () => this.#forget(watched),
      onError: this.#complain,
    });
    this.#jobs.set(id, watched);
    return watched;
  }

  #forget(watched: WatchedJob): void {
    watched.close();
    if (this.#jobs.get(watched.id) === watched) this.#jobs.delete(watched.id);
  }

  #wake(id: string, change: Change): void {
    if (!this.#jobs.has(id) && (this.#ofAll.size === 0 || change !== 'state')) return;
    this.#job(id, true).wake(change);
  }

  /** To all who watch the job. */
  #send(watched: WatchedJob, bytes: Buffer): void {
    for (const stream of watched.streams) this.#sendTo(stream, bytes);
    for (const [stream, shown] of this.#ofAll) {
      if (shown === null || shown.has(watched.id)) this.#sendTo(stream, bytes);
    }
  }

  #sendTo(stream: EventStream, bytes: Buffer): void {
    if (!stream.send(bytes)) this.#logger.warn('a reader of events is too slow: its stream was cut');
  }

  #beat(): void {
    for (const stream of this.#streams) {
      if (!stream.beat()) this.#logger.warn('a reader of events has stopped reading: its stream was cut');
    }
  }

  async #recheck(): Promise<void> {
    if (this.#ofAll.size > 0) for (const id of await this.#active()) this.#job(id, true);
    const nowMs = performance.now();
    const late: WatchedJob[] = [];
    for (const watched of this.#jobs.values()) {
      const sinceReadMs = nowMs - watched.readAtMs;
      if (watched.streams.size > 0 || (this.#ofAll.size > 0 && !watched.isOver)) {
        if (sinceReadMs >= RECHECK_MS) late.push(watched);
      } else if (sinceReadMs > REMEMBERED_MS && !watched.isBusy) {
        this.#forget(watched);
      }
    }
    late.sort((a, b) => a.readAtMs - b.readAtMs);
    await Promise.all(late.slice(0, RECHECKED_MAX).map((watched) => watched.refresh()));
  }

  #active(): Promise<string[]> {
    return this.#redis.smembers(sharedKeys.active);
  }

  /** What fails because Redis is away is done again a second later. */
  readonly #complain = (error: unknown): void => {
    if (!isRedisAway(error)) this.#logger.error({ err: error }, 'the events of a job could not be read');
  };
}
