import { FetchError } from '../src/errors.ts';
import type { Fetcher } from '../src/fetch-file.ts';
import type { JobSpec } from '../src/schemas.ts';
import type { Tally } from '../src/tally.ts';
import { kindOf } from '../src/sources/index.ts';
import { InFlight } from './in-flight.ts';
import { Origin } from './origin.ts';
import { StartTimes } from './start-times.ts';
import { Probe, type Transfer, type TransferOwner } from './transfer.ts';

/** Why a request ends whose page is not this worker's any more. Nobody is told. */
export const ABANDONED = new FetchError('connection', 'the page was given up');

/** Requests that wait for one origin while the pages still give others; more would only take memory. */
const WAITING_MAX = 1000;
/** More than so many origins are remembered only while there is something to remember. */
const ORIGINS_KEPT_MAX = 64;

/**
 * Of more requests than so many the rest begins spread over a tenth of a second. What begins at once is answered at once by a
 * server that takes the same time for each, and begins at once again: the event loop would have nothing to do in between.
 */
const AT_ONCE = 64;
const RISE_MS = 100;
const RISE_STEP_MS = 2;

/** What requests need of the pages they are made for. */
export interface Demand {
  /** The next file of the pages in work; null: none is left; 'later': others shall have the event loop first. */
  nextFile(): Transfer | null | 'later';
  /** All starts that were granted are used, or lost; there may be nothing left to start. */
  outOfStarts(): void;
}

/** One job's requests on this worker: no more in flight, and no sooner, than its shares and its origins allow. */
export class Requests implements TransferOwner {
  spec: JobSpec;
  headers: readonly string[];
  readonly headersOrigin: string | null;
  /** Which part of what was granted may be used, as jobs of higher priority make progress beside it: 1, all of it. */
  share = 1;
  readonly starts = new StartTimes();
  readonly #fetcher: Fetcher;
  readonly #demand: Demand;
  /** To be made before any further file: listings, redirects, retries. */
  readonly #ready: Transfer[] = [];
  readonly #inFlight = new InFlight();
  readonly #delays = new Map<NodeJS.Timeout, Transfer>();
  readonly #origins = new Map<string, Origin>();
  #granted = 0;
  #grantedUntilMs = 0;
  #startUntilMs = 0;
  /** Since when there has been anything in flight. */
  #busySinceMs = 0;
  #timer: NodeJS.Timeout | null = null;
  #timerAtMs = 0;
  #soon: NodeJS.Immediate | null = null;
  #closed = false;

  constructor(spec: JobSpec, fetcher: Fetcher, demand: Demand) {
    this.spec = spec;
    this.headers = Object.entries(spec.headers).flat();
    this.headersOrigin = kindOf(spec.source).headersOrigin(spec.source);
    this.#fetcher = fetcher;
    this.#demand = demand;
  }

  /** The job's order was changed: what is not on its way yet goes by the new one. */
  update(spec: JobSpec): void {
    if (spec.limits.requestsPerSecond !== this.spec.limits.requestsPerSecond) this.starts.clear();
    this.spec = spec;
    this.headers = Object.entries(spec.headers).flat();
    for (const origin of this.#origins.values()) {
      origin.retry = spec.retry;
      for (const transfer of origin.waiting) transfer.restart();
    }
    for (const transfer of [...this.#ready, ...this.#delays.values()]) transfer.restart();
  }

  get tally(): Tally {
    return this.#fetcher.tally;
  }

  get inFlight(): number {
    return this.#inFlight.size;
  }

  /** Requests to be made beside those in flight and the files of the pages, those included that wait for an origin. */
  get pending(): number {
    let pending = this.#ready.length;
    for (const origin of this.#origins.values()) pending += origin.pending;
    return pending;
  }

  get origins(): Origin[] {
    return [...this.#origins.values()];
  }

  /** Those whose trouble is the job's; that of strays is their files' own. */
  get ownOrigins(): Origin[] {
    return this.origins.filter(({ isStray }) => !isStray);
  }

  /** As it is known here; what is not known yet is assumed to be well. */
  origin(name: string): Origin {
    let origin = this.#origins.get(name);
    if (origin === undefined) {
      origin = new Origin(name, this.spec.retry);
      this.#origins.set(name, origin);
    }
    return origin;
  }

  /** The first page of the job's listing was answered, to whichever worker, or else there would be no other. */
  firstPageRead(): void {
    const url = URL.parse(kindOf(this.spec.source).first(this.spec.source));
    if (url !== null) this.origin(url.origin).assumeGood({ path: url.pathname + url.search, isFile: false });
  }

  /** What went wrong before is no longer held against any origin. */
  forgetOrigins(): void {
    for (const { waiting } of this.#origins.values()) this.#ready.push(...waiting.splice(0));
    this.#origins.clear();
  }

  /**
   * No more than `granted` may be in flight, until `untilMs` (of performance.now()); nothing is started after `startUntilMs`:
   * pages may be others' by then.
   */
  grant(granted: number, untilMs: number, startUntilMs = untilMs): void {
    this.#granted = granted;
    this.#grantedUntilMs = untilMs;
    this.#startUntilMs = Math.min(untilMs, startUntilMs);
  }

  /** So many may be in flight. */
  get granted(): number {
    return this.#granted;
  }

  /** No more than `most` of what was granted are used. */
  giveBack(most: number): void {
    this.#granted = Math.min(this.#granted, most);
  }

  get mayStore(): boolean {
    return performance.now() < this.#grantedUntilMs;
  }

  /** Whether what was granted before may be others' by now. */
  lapsed(nowMs: number): boolean {
    return nowMs > this.#grantedUntilMs && this.inFlight > 0;
  }

  /** While it is asked for another grant, no more may be in flight than is: the rest may be others' before the answer. */
  askingForGrant(): void {
    this.giveBack(this.inFlight);
  }

  add(transfer: Transfer): void {
    this.#ready.push(transfer);
    this.pump();
  }

  again(transfer: Transfer, delayMs: number): void {
    if (delayMs === 0) {
      this.#ready.push(transfer);
      return;
    }
    const timer = setTimeout(() => {
      this.#delays.delete(timer);
      this.add(transfer);
    }, delayMs);
    this.#delays.set(timer, transfer);
  }

  answered(transfer: Transfer, good: boolean): void {
    transfer.askedOf?.answered(performance.now(), transfer, good);
  }

  streams(transfer: Transfer): void {
    this.#inFlight.streams(transfer);
  }

  troubled(transfer: Transfer, error: FetchError, trouble: 'throttled' | 'silent'): void {
    transfer.askedOf?.[trouble](performance.now(), transfer, error);
  }

  ended(transfer: Transfer): void {
    const origin = this.#inFlight.remove(transfer);
    if (origin !== null) {
      origin.forget(transfer);
      // A list of URLs may lead to a million of them.
      if (this.#origins.size > ORIGINS_KEPT_MAX && origin.isForgettable(performance.now()))
        this.#origins.delete(origin.name);
    }
    this.pump();
  }

  /** Starts as many requests as there are and as may be. */
  pump(): void {
    for (;;) {
      const now = performance.now();
      const limit = now < this.#startUntilMs ? Math.ceil(this.#granted * this.share) : 0;
      if (this.#closed || this.#inFlight.size >= limit || !this.#fetcher.hasRoom) return;
      if (this.#inFlight.size === 0) this.#busySinceMs = now;
      if (this.#inFlight.size >= AT_ONCE + ((now - this.#busySinceMs) * limit) / RISE_MS) {
        this.#pumpAt(now + RISE_STEP_MS);
        return;
      }
      const limited = this.spec.limits.requestsPerSecond > 0;
      // Before a request is chosen: what is chosen is made, a probe above all.
      if (limited && !this.starts.isDue(now)) {
        const next = this.starts.next();
        if (next === null) this.#demand.outOfStarts();
        else this.#pumpAt(next);
        return;
      }
      const transfer = this.#next(now);
      if (transfer === null) return;
      if (limited) this.starts.take(now);
      this.#inFlight.add(transfer, this.origin(transfer.origin));
      transfer.exchange = this.#fetcher.start(transfer, transfer);
    }
  }

  /** Ends all that belongs to abandoned pages. */
  dropAbandoned(): void {
    for (const [timer, transfer] of this.#delays) {
      if (!transfer.abandoned) continue;
      clearTimeout(timer);
      this.#delays.delete(timer);
    }
    for (const origin of this.#origins.values()) origin.dropAbandoned();
    for (const transfer of this.#inFlight.all()) if (transfer.abandoned) transfer.exchange?.abort(ABANDONED);
  }

  /** Starts nothing more. What is in flight is the pages' to end. */
  close(): void {
    this.#closed = true;
    for (const timer of this.#delays.keys()) clearTimeout(timer);
    for (const transfer of this.#inFlight.all()) if (transfer.isProbe) transfer.exchange?.abort(ABANDONED);
    if (this.#timer !== null) clearTimeout(this.#timer);
    if (this.#soon !== null) clearImmediate(this.#soon);
  }

  #next(now: number): Transfer | null {
    let crowded = false;
    for (const origin of this.#origins.values()) {
      // Waiting ones first: they are the oldest.
      while (origin.waiting.length > 0 && origin.mayAsk(now)) {
        const transfer = origin.waiting.shift();
        if (transfer !== undefined && !transfer.abandoned) return transfer;
      }
      crowded ||= origin.waiting.length >= WAITING_MAX;
    }
    for (;;) {
      const transfer = this.#ready.shift() ?? (crowded ? null : this.#demand.nextFile());
      if (transfer === 'later') {
        this.#soon ??= setImmediate(() => {
          this.#soon = null;
          this.pump();
        });
        return null;
      }
      if (transfer === null) return this.#probe(now, !crowded);
      if (transfer.abandoned) continue;
      const origin = this.origin(transfer.origin);
      origin.isOwn ||= transfer.isAtHome;
      if (origin.mayAsk(now)) return transfer;
      crowded = origin.waiting.push(transfer) >= WAITING_MAX || crowded;
    }
  }

  /** A probe, if an origin is due for one; otherwise sees to it that `pump` is called when one may be asked again. */
  #probe(now: number, idle: boolean): Transfer | null {
    let waitMs = Infinity;
    for (const origin of this.#origins.values()) {
      const probe = origin.probe(now, idle, (name, good) => new Probe(this, name, good));
      if (probe !== null) return probe;
      if (this.#origins.size > ORIGINS_KEPT_MAX && origin.isStray && origin.isForgettable(now))
        this.#origins.delete(origin.name);
      const wait = origin.waitMs(now);
      if (wait > 0) waitMs = Math.min(waitMs, wait);
    }
    if (waitMs !== Infinity) this.#pumpAt(now + waitMs);
    return null;
  }

  #pumpAt(timeMs: number): void {
    if (this.#timer !== null && this.#timerAtMs <= timeMs) return;
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timerAtMs = timeMs;
    this.#timer = setTimeout(
      () => {
        this.#timer = null;
        this.pump();
      },
      Math.max(0, timeMs - performance.now()),
    );
  }
}
