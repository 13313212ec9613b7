/** What a process did, counted in plain numbers: this happens for every file, and nothing is looked up for it. */
import type { FailureReason } from './errors.ts';

/** Upper bounds of the histogram of how long requests took, in seconds. */
export const durationBounds: readonly number[] = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
];

/** Kinds of answers; `none`: there was none; `other`: a status that HTTP does not know. */
export const statusClasses = ['none', 'other', '2xx', '3xx', '4xx', '5xx'] as const;

/**
 * Counts by their names, which are a bounded set: `downloaded`, `skipped` and `failed:REASON` (files), `bytes`, `retried`
 * (requests), `status:CLASS` (requests), `within:SECONDS` (requests that took no longer, but longer than the next smaller
 * bound), `micros` (how long all requests took).
 */
export type Counts = Readonly<Record<string, number>>;

export class Tally {
  downloaded = 0;
  skipped = 0;
  bytes = 0;
  retried = 0;
  readonly #failed: Record<string, number> = {};
  readonly #byStatus = statusClasses.map(() => 0);
  readonly #byDuration = [...durationBounds, Infinity].map(() => 0);
  #tookMs = 0;
  #taken: Record<string, number> = {};

  failed(reason: FailureReason, files: number): void {
    this.#failed[reason] = (this.#failed[reason] ?? 0) + files;
  }

  /** `statusCode`: 0 where no answer came. */
  requestEnded(statusCode: number, tookMs: number): void {
    const digit = Math.trunc(statusCode / 100);
    this.#byStatus[digit > 5 ? 1 : digit]! += 1;
    const seconds = tookMs / 1000;
    let index = 0;
    while (index < durationBounds.length && seconds > durationBounds[index]!) index += 1;
    this.#byDuration[index]! += 1;
    this.#tookMs += tookMs;
  }

  /** Everything since the process began; what never happened is left out. */
  counts(): Counts {
    const { downloaded, skipped, bytes, retried } = this;
    const counts: Record<string, number> = { downloaded, skipped, bytes, retried };
    for (const [reason, files] of Object.entries(this.#failed)) counts[`failed:${reason}`] = files;
    for (const [index, name] of statusClasses.entries()) counts[`status:${name}`] = this.#byStatus[index]!;
    for (const [index, requests] of this.#byDuration.entries()) {
      counts[`within:${durationBounds[index] ?? Infinity}`] = requests;
    }
    counts.micros = Math.round(this.#tookMs * 1000);
    return Object.fromEntries(Object.entries(counts).filter(([, count]) => count > 0));
  }

  /** What came since the last call. */
  take(): Counts {
    const news: Record<string, number> = {};
    for (const [name, count] of Object.entries(this.counts())) {
      const more = count - (this.#taken[name] ?? 0);
      if (more > 0) news[name] = more;
    }
    this.#add(news, 1);
    return news;
  }

  /** What was taken could not be told: the next `take` gives it again. */
  putBack(counts: Counts): void {
    this.#add(counts, -1);
  }

  #add(counts: Counts, sign: 1 | -1): void {
    for (const [name, count] of Object.entries(counts)) this.#taken[name] = (this.#taken[name] ?? 0) + sign * count;
  }
}
