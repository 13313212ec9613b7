import type { Redis } from 'ioredis';
import type { Job } from '../src/schemas.ts';
import { eventBytes, type EventStream } from './event-stream.ts';
import { readNewestFailure } from './failures.ts';
import { isActive } from './model.ts';
import { readJob } from './view.ts';
import type { Change } from './wake-ups.ts';

/** No job is read more often because of its progress, and none is shown that was read longer ago. */
const READ_MS = 500;
const FAILURE_MS = 1000;

/** A job as it was read, and the id of the events that show it so. */
interface Reading {
  readonly job: Job;
  readonly text: string;
  readonly eventId: number;
}

export interface WatchedJobParts {
  readonly id: string;
  readonly redis: Redis;
  /** It came up while all jobs were watched: that it is there is an event. */
  readonly isNews: boolean;
  /** Takes each event for all who watch the job. */
  readonly onEvent: (bytes: Buffer) => void;
  /** The job does not exist any more. */
  readonly onGone: () => void;
  /** A read that was not waited for has failed; the job is read again when it is woken. */
  readonly onError: (error: unknown) => void;
}

/** A job that is watched: it is read once for all who watch it, and what changed since becomes events. */
export class WatchedJob {
  /** Those that watch this job alone. */
  readonly streams = new Set<EventStream>();
  /** As it was read last; null where it was not yet, or is gone. */
  latest: Reading | null = null;
  readAtMs = -Infinity;
  readonly #parts: WatchedJobParts;
  #shown: Reading | null = null;
  #shownAtMs = -Infinity;
  /** Where the newest failure stands in the stream of failures: '' where there is none, null where nobody looked. */
  #failureAt: string | null = null;
  #failureAtMs = -Infinity;
  #reading: Promise<void> | null = null;
  #timer: NodeJS.Timeout | null = null;

  constructor(parts: WatchedJobParts) {
    this.#parts = parts;
  }

  get id(): string {
    return this.#parts.id;
  }

  get isOver(): boolean {
    return this.latest !== null && !isActive(this.latest.job.state);
  }

  /** Whether it is read now, or will be soon. */
  get isBusy(): boolean {
    return this.#reading !== null || this.#timer !== null;
  }

  /** Reads it, unless that was done just now. Throws what ioredis throws. */
  async refresh(): Promise<void> {
    // One at its end may have been made to go on, and whoever did that shall not be told that it is over.
    if (this.isOver || performance.now() - this.readAtMs >= READ_MS) await this.#readOnce();
  }

  /** Reads it soon, because it has changed. */
  wake(change: Change): void {
    this.#readIn(change === 'state' ? 0 : this.readAtMs + READ_MS - performance.now());
  }

  /** Ends its streams; it is woken no more. */
  close(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    for (const stream of this.streams) stream.finish();
  }

  #readIn(delayMs: number): void {
    if (this.#timer !== null) {
      if (delayMs > 0) return;
      clearTimeout(this.#timer);
    }
    this.#timer = setTimeout(() => void this.#readAgain(), Math.max(0, Math.ceil(delayMs))).unref();
  }

  async #readAgain(): Promise<void> {
    this.#timer = null;
    try {
      // One that is under way may have begun before the change.
      await this.#reading;
      await this.#readOnce();
    } catch (error) {
      this.#parts.onError(error);
    }
  }

  #readOnce(): Promise<void> {
    this.#reading ??= this.#read().finally(() => {
      this.#reading = null;
    });
    return this.#reading;
  }

  async #read(): Promise<void> {
    const nowMs = performance.now();
    const read = await readJob(this.#parts.redis, this.id);
    if (read === null) {
      this.latest = null;
      this.#parts.onGone();
      return;
    }
    const { job, atMs } = read;
    const failure = await this.#newFailure(job, nowMs);
    const eventId = isActive(job.state) ? atMs : Math.max(atMs, endedAtMs(job) + 1);
    this.readAtMs = nowMs;
    this.latest = { job, text: JSON.stringify(job), eventId };
    // Not the new id: who has seen no more than this has not seen the state.
    if (failure !== null && this.#shown !== null) {
      this.#parts.onEvent(eventBytes('failure', this.#shown.eventId, failure));
    }
    this.#show(this.latest, nowMs);
  }

  /** Makes an event of what was read, if it is one and one is due. */
  #show(latest: Reading, nowMs: number): void {
    const shown = this.#shown;
    let event: 'state' | 'progress' | null = 'progress';
    if (shown === null) {
      event = this.#parts.isNews || !this.isOver ? 'state' : null;
    } else if (shown.job.state !== latest.job.state || shown.job.pausedReason !== latest.job.pausedReason) {
      event = 'state';
    } else if (shown.text === latest.text) {
      return;
    } else if (nowMs - this.#shownAtMs < READ_MS) {
      this.#readIn(this.#shownAtMs + READ_MS - nowMs);
      return;
    }
    this.#shown = latest;
    this.#shownAtMs = nowMs;
    if (event !== null) this.#parts.onEvent(eventBytes(event, latest.eventId, latest.text));
    if (this.isOver) for (const stream of this.streams) stream.finish();
  }

  /** The newest failure as JSON; null where it is known already, or too soon after another one. */
  async #newFailure(job: Job, nowMs: number): Promise<string | null> {
    if (job.progress.filesFailed === 0) {
      this.#failureAt = '';
      return null;
    }
    if (nowMs - this.#failureAtMs < FAILURE_MS) return null;
    const newest = await readNewestFailure(this.#parts.redis, this.id);
    const before = this.#failureAt;
    this.#failureAt = newest?.at ?? '';
    // Where the newest was fetched again, an older one is left: that is no news.
    if (newest === null || before === null || !isLater(newest.at, before)) return null;
    this.#failureAtMs = nowMs;
    return JSON.stringify(newest.failure);
  }
}

/** When a job came to its end, in ms since 1970. */
export function endedAtMs({ finishedAt, createdAt }: Job): number {
  return Date.parse(finishedAt ?? createdAt);
}

/** Of ids of a Redis stream: ms since 1970, a number within that ms. '' is before all. */
function isLater(one: string, other: string): boolean {
  const [ms = 0, number = 0] = one.split('-').map(Number);
  const [otherMs = 0, otherNumber = -1] = other === '' ? [] : other.split('-').map(Number);
  return ms > otherMs || (ms === otherMs && number > otherNumber);
}
