import type { Redis } from 'ioredis';
import type { Fetcher } from '../src/fetch-file.ts';
import type { JobSpec } from '../src/schemas.ts';
import type { Sink } from '../src/sinks/index.ts';
import type { ListingAnswer } from '../src/sources/index.ts';
import { ABANDONED, ListingTransfer, news, type Attempt, type StopReason } from './attempt.ts';
import type { PageFiles } from './page-files.ts';
import { LEASE_MS, pulse } from './pulse.ts';
import { START_LATE_MS_MAX, StartTimes } from './start-times.ts';
import type { Transfer, TransferOwner } from './transfer.ts';

const PULSE_MS = 250;
/** A worker that needs its share now does not wait for the next pulse, but for this. */
const SOON_MS = 20;

/** One job on this worker: its pages in work, and its requests, no more of them than its shares of the budgets allow. */
export class JobInWork implements TransferOwner {
  readonly id: string;
  readonly spec: JobSpec;
  readonly sink: Sink;
  readonly headers: readonly string[];
  readonly headersOrigin: string;
  readonly #redis: Redis;
  readonly #fetcher: Fetcher;
  readonly #worker: string;
  readonly #attempts = new Set<Attempt>();
  /** Requests to be made before any further file: listings, redirects, retries. */
  readonly #ready: Transfer[] = [];
  readonly #inFlight = new Set<Transfer>();
  readonly #delays = new Map<NodeJS.Timeout, Transfer>();
  readonly #starts = new StartTimes();
  #granted = 0;
  #grantedUntil = 0;
  #timer: NodeJS.Timeout | null = null;
  #pulsing = false;
  #pulseAgain = false;
  #pumpTimer: NodeJS.Timeout | null = null;
  #pumpSoon: NodeJS.Immediate | null = null;
  #settledBefore = 0;
  #bytesBefore = 0;
  #settledEnded = 0;
  #bytesEnded = 0;
  #closed = false;
  readonly #onPulseError: (error: unknown) => void;
  idleSince = performance.now();

  constructor(parts: {
    id: string;
    spec: JobSpec;
    sink: Sink;
    redis: Redis;
    fetcher: Fetcher;
    worker: string;
    onPulseError: (error: unknown) => void;
  }) {
    this.id = parts.id;
    this.spec = parts.spec;
    this.sink = parts.sink;
    this.headers = Object.entries(parts.spec.headers).flat();
    this.headersOrigin = new URL(parts.spec.source.url).origin;
    this.#redis = parts.redis;
    this.#fetcher = parts.fetcher;
    this.#worker = parts.worker;
    this.#onPulseError = parts.onPulseError;
  }

  get pagesInWork(): number {
    return this.#attempts.size;
  }

  /** Files settled by this worker in all. */
  get settled(): number {
    return this.#sum((files) => files.settled) + this.#settledEnded;
  }

  begin(attempt: Attempt): void {
    this.#attempts.add(attempt);
    attempt.stop.signal.addEventListener('abort', () => {
      attempt.listing?.giveUp();
      attempt.files?.abandon();
      this.#dropAbandoned();
    });
    if (this.#closed) attempt.stop.abort('shutdown' satisfies StopReason);
    this.#pulseSoon();
  }

  /** Ends an attempt, whatever became of it: nothing more is requested for it, and no pulse speaks of it. */
  end(attempt: Attempt): void {
    const { files } = attempt;
    if (!this.#attempts.delete(attempt)) return;
    this.idleSince = performance.now();
    if (files === null) return;
    this.#settledEnded += files.settled;
    this.#bytesEnded += files.bytes;
    files.abandon();
    this.#dropAbandoned();
  }

  /** Gets one URL of the listing. Throws FetchError; also when the attempt is stopped. */
  async list(attempt: Attempt, url: string): Promise<ListingAnswer> {
    const transfer = new ListingTransfer(this, attempt, new URL(url));
    attempt.listing = transfer;
    if (transfer.abandoned) transfer.giveUp();
    this.#ready.push(transfer);
    this.pump();
    try {
      return await transfer.answer;
    } finally {
      attempt.listing = null;
    }
  }

  /** Fetches the files of an attempt. Resolves when each has its outcome, or when the attempt is stopped. */
  async fetch(attempt: Attempt, files: PageFiles): Promise<void> {
    attempt.files = files;
    if (attempt.stop.signal.aborted) files.abandon();
    this.pump();
    await files.done;
  }

  ended(transfer: Transfer): void {
    this.#inFlight.delete(transfer);
    this.pump();
  }

  again(transfer: Transfer, delayMs: number): void {
    if (delayMs === 0) {
      this.#ready.push(transfer);
      return;
    }
    const timer = setTimeout(() => {
      this.#delays.delete(timer);
      this.#ready.push(transfer);
      this.pump();
    }, delayMs);
    this.#delays.set(timer, transfer);
  }

  /** Starts as many requests as there are and as may be. */
  pump(): void {
    const limit = performance.now() < this.#grantedUntil ? this.#granted : 0;
    while (this.#inFlight.size < limit && this.#fetcher.hasRoom && !this.#closed) {
      if (this.spec.limits.requestsPerSecond > 0 && !this.#startIsDue()) return;
      const transfer = this.#next();
      if (transfer === null) return;
      this.#inFlight.add(transfer);
      transfer.exchange = this.#fetcher.start(transfer, transfer);
    }
  }

  /** Stops all attempts and gives the shares of the budgets back. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const attempt of this.#attempts) attempt.stop.abort('shutdown' satisfies StopReason);
    if (this.#timer !== null) clearTimeout(this.#timer);
    if (this.#pumpTimer !== null) clearTimeout(this.#pumpTimer);
    if (this.#pumpSoon !== null) clearImmediate(this.#pumpSoon);
    this.sink.close();
    await this.#exchangePulse().catch(this.#onPulseError);
  }

  #next(): Transfer | null {
    for (let transfer = this.#ready.shift(); transfer !== undefined; transfer = this.#ready.shift()) {
      if (!transfer.abandoned) return transfer;
    }
    // The oldest page first: it is committed soonest.
    for (const { files } of this.#attempts) {
      const file = files?.next() ?? null;
      if (file === 'later') {
        this.#pumpSoon ??= setImmediate(() => {
          this.#pumpSoon = null;
          this.pump();
        });
        return null;
      }
      if (file !== null) return file;
    }
    return null;
  }

  /** Whether a request may start now; a slot is used up only where there is something to start. */
  #startIsDue(): boolean {
    if (this.#ready.length === 0 && this.#sum((files) => files.waiting) === 0) return false;
    const now = performance.now();
    if (this.#starts.take(now)) return true;
    const next = this.#starts.next();
    if (next !== null) {
      this.#pumpTimer ??= setTimeout(() => {
        this.#pumpTimer = null;
        this.pump();
      }, next - now);
    }
    return false;
  }

  /** Requests that would be in flight if there were no limit; a page that is about to be listed wants one too. */
  #wanted(): number {
    let unlisted = 0;
    for (const { files } of this.#attempts) if (files === null) unlisted += 1;
    return this.#inFlight.size + Math.max(unlisted, this.#ready.length) + this.#sum((files) => files.waiting);
  }

  #sum(of: (files: PageFiles) => number): number {
    let sum = 0;
    for (const { files } of this.#attempts) if (files !== null) sum += of(files);
    return sum;
  }

  #dropAbandoned(): void {
    for (const [timer, transfer] of this.#delays) {
      if (!transfer.abandoned) continue;
      clearTimeout(timer);
      this.#delays.delete(timer);
    }
    for (const transfer of this.#inFlight) if (transfer.abandoned) transfer.exchange?.abort(ABANDONED);
  }

  #pulseSoon(): void {
    if (this.#pulsing) this.#pulseAgain = true;
    else this.#pulseIn(SOON_MS);
  }

  #pulseIn(delayMs: number): void {
    if (this.#closed) return;
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#pulse(), delayMs);
  }

  async #pulse(): Promise<void> {
    this.#pulsing = true;
    this.#pulseAgain = false;
    try {
      await this.#exchangePulse();
    } catch (error) {
      this.#onPulseError(error);
    }
    this.#pulsing = false;
    this.#pulseIn(this.#pulseAgain ? SOON_MS : PULSE_MS);
    this.pump();
  }

  async #exchangePulse(): Promise<void> {
    const { concurrency, requestsPerSecond } = this.spec.limits;
    // A second may hold slots that are used late beside those that are not: spaced a little wider, never more than the limit.
    const startsPerSecond = requestsPerSecond / (1 + START_LATE_MS_MAX / 1000);
    const { settled } = this;
    const bytes = this.#sum((files) => files.bytes) + this.#bytesEnded;
    const attempts = [...this.#attempts];
    const inFlight = this.#inFlight.size;
    const asked = performance.now();
    // A lease that has lapsed may be others' by now: first all tell what they have in flight.
    const lapsed = asked > this.#grantedUntil && inFlight > 0;
    const wanted = this.#closed ? 0 : lapsed ? inFlight : Math.min(this.#wanted(), this.#fetcher.maxInFlight);
    const soon = Math.ceil((startsPerSecond * (PULSE_MS + 50)) / 1000);
    // What is not claimed now may be others' before the answer is here.
    this.#granted = Math.min(this.#granted, inFlight);
    const answer = await pulse(this.#redis, {
      worker: this.#worker,
      job: this.id,
      wanted,
      inFlight,
      concurrency,
      startsWanted: Math.max(0, Math.min(soon, wanted - inFlight) - this.#starts.left),
      startsPerSecond,
      files: settled - this.#settledBefore,
      bytes: bytes - this.#bytesBefore,
      pages: attempts.map((attempt) => ({ seq: attempt.seq, nonce: attempt.nonce, counts: news(attempt) })),
    });
    this.#settledBefore = settled;
    this.#bytesBefore = bytes;
    this.#granted = answer.granted;
    this.#grantedUntil = asked + LEASE_MS;
    this.#starts.grant(asked, performance.now(), answer.startDelayMs, answer.starts, 1000 / (startsPerSecond || 1));
    const lost = new Set(answer.lost);
    for (const attempt of attempts) {
      const moved = answer.state !== 'running' || answer.epoch !== attempt.epoch || lost.has(attempt.seq);
      if (moved && this.#attempts.has(attempt)) attempt.stop.abort('moved' satisfies StopReason);
    }
  }
}
