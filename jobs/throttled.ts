import type { Transfer } from './transfer.ts';

const KEPT_MAX = 10_000;
/** A page of a listing that may have been read before, and was throttled no longer ago than this, was not read since. */
const UNREAD_MS = 60_000;
/** So long at least a URL is remembered that was not heard of again: its page may be on its way from worker to worker. */
const REMEMBERED_MS_MIN = 120_000;
/** What counts of the time in which a URL could have been asked for again, but was not: a part of maxOutageMs at most. */
const LATE_PART_MAX = 1 / 4;
/** Of so many URLs others are told. */
const TOLD_MAX = 16;
const TOLD_MS_MIN = 3000;

/**
 * For how many ms it has been throttled. Where nobody could ask, because Redis was away, the origin held all requests back, or
 * its page was on its way to another worker, it says nothing of the URL, so of each such time only a part counts.
 */
export function throttledMs(nowMs: number, { sinceMs, dueMs }: Transfer['throttled'], maxOutageMs: number): number {
  return Math.min(nowMs, dueMs + maxOutageMs * LATE_PART_MAX) - sinceMs;
}

/**
 * Since when URLs of one origin have been throttled, beyond the attempts at their pages: a page that is given back for one
 * would else begin to count its time anew, again and again.
 */
export class ThrottledUrls {
  /** By path. */
  readonly #known = new Map<string, Transfer['throttled']>();
  /** When one was added to them. */
  #addedMs = 0;
  /** Since when others know it of URLs, by path, and when they said so. */
  #others: ReadonlyMap<string, number> = new Map();
  #othersToldMs = 0;

  /** Goes on with what is known of the URL from earlier attempts at its page. */
  remember(nowMs: number, transfer: Transfer, maxOutageMs: number): void {
    let known = this.#known.get(transfer.path);
    const rememberedMs = transfer.isNew ? Math.max(REMEMBERED_MS_MIN, maxOutageMs) : UNREAD_MS;
    if (known !== undefined && nowMs - known.lastMs > rememberedMs) known = undefined;
    const othersMs = this.#others.get(transfer.path);
    if (othersMs !== undefined) {
      known ??= { times: 1, sinceMs: othersMs, lastMs: othersMs, dueMs: this.#othersToldMs };
      known.sinceMs = Math.min(known.sinceMs, othersMs);
    }
    if (known !== undefined && transfer.throttled.times === 0) {
      // Where others are throttled too that were not before, it is the origin that bears no more, and the URL's turn may not have come.
      known.sinceMs = Math.max(known.sinceMs, this.#addedMs);
      transfer.throttled = known;
    }
    this.#known.delete(transfer.path);
    const [oldest] = this.#known;
    // One that did not come back for so long may have had its outcome on another worker.
    const isFull = this.#known.size >= KEPT_MAX;
    if (isFull && oldest !== undefined && nowMs - oldest[1].lastMs > maxOutageMs) this.#known.delete(oldest[0]);
    if (this.#known.size === KEPT_MAX) return;
    this.#known.set(transfer.path, transfer.throttled);
    if (known === undefined) this.#addedMs = nowMs;
  }

  /** Those that have been throttled longest, and for how many ms: what others shall know. */
  longest(nowMs: number, maxOutageMs: number): Record<string, number> {
    const rememberedMs = Math.max(REMEMBERED_MS_MIN, maxOutageMs);
    const lasting = [...this.#known]
      .filter(([, { lastMs }]) => nowMs - lastMs <= rememberedMs)
      .map(([path, throttled]) => [path, Math.floor(throttledMs(nowMs, throttled, maxOutageMs))] as const)
      .filter(([, ms]) => ms >= TOLD_MS_MIN);
    lasting.sort(([, a], [, b]) => b - a);
    return Object.fromEntries(lasting.slice(0, TOLD_MAX));
  }

  /** What others told, at this moment. */
  othersTold(nowMs: number, throttled: Readonly<Record<string, number>>): void {
    this.#others = new Map(Object.entries(throttled).map(([path, ms]) => [path, nowMs - ms]));
    this.#othersToldMs = nowMs;
  }

  forget(path: string): void {
    this.#known.delete(path);
  }
}
