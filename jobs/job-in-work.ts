import type { Redis } from 'ioredis';
import type { Fetcher } from '../src/fetch-file.ts';
import type { JobSpec, JobState } from '../src/schemas.ts';
import type { Sink } from '../src/sinks/index.ts';
import { sourceOf, type ListingAnswer } from '../src/sources/index.ts';
import type { JobList, SaveTo } from '../src/url-files.ts';
import { ListingTransfer, news, type Attempt, type StopReason } from './attempt.ts';
import { IdleLooks } from './idle-looks.ts';
import { isActive, placesOfListing } from './model.ts';
import type { PageFiles } from './page-files.ts';
import { LEASE_MS, pulse, type PulseAnswer } from './pulse.ts';
import { PulseTimer } from './pulse-timer.ts';
import { Requests } from './requests.ts';
import type { Order } from './store.ts';
import { fileRun, shardRun, type RunSize } from './walk.ts';
import { START_LATE_MS_MAX } from './start-times.ts';
import { ToldOrigins } from './told-origins.ts';

/** What is left to others comes back at once where they are not waiting for it. */
const LEAVE_MS_MIN = 50;
/** How long a job counts as making progress after a file was settled. */
const PROGRESS_MS = 2000;
/** After so many files, or so long, their rate says something. */
const RATE_FILES_MIN = 100;
const RATE_MS_MIN = 1000;

export interface JobParts {
  readonly id: string;
  readonly order: Order;
  readonly sink: Sink;
  /** Where its URLs are listed, if its source is such a list. */
  readonly urlList: JobList;
  readonly openSink: () => Promise<Sink>;
  readonly redis: Redis;
  readonly fetcher: Fetcher;
  readonly worker: string;
  /** How long it may be silent before its pages go to others. */
  readonly lockMs: number;
  /** Pauses the job, if it still runs in that epoch. */
  readonly pause: (reason: string, epoch: number) => Promise<unknown>;
  /** The order as it is by now; null where there is no such job any more. */
  readonly readOrder: () => Promise<Order | null>;
  /** How many workers live. */
  readonly workers: () => number;
  /** The highest priority of the jobs that make progress on this worker; 0: none does. */
  readonly highestPriority: () => number;
  /** Is called when Redis was told of files that are done. */
  readonly onProgress: () => void;
  readonly onPulseError: (error: unknown) => void;
}

/** One job on this worker: its pages in work, and what it tells and asks Redis about them a few times a second. */
export class JobInWork {
  readonly id: string;
  sink: Sink;
  readonly urlList: JobList;
  readonly source: ReturnType<typeof sourceOf>;
  readonly requests: Requests;
  readonly #origins: ToldOrigins;
  readonly #parts: JobParts;
  readonly #attempts = new Set<Attempt>();
  #version: number;
  #epoch = 0;
  readonly #timer = new PulseTimer(() => this.#pulse());
  readonly #looks = new IdleLooks(() =>
    this.#attempts.size === 0 ? null : this.requests.pending === 0 && this.#waiting === 0,
  );
  /** Whether the last pulse got all that was asked for, so that more could be had. */
  #isSated = true;
  #startsGranted = false;
  #progressMs = -Infinity;
  #settledBefore = 0;
  #bytesBefore = 0;
  #settledEnded = 0;
  #bytesEnded = 0;
  #leftMs = -Infinity;
  #closed = false;
  #state: JobState | null = null;
  readonly #openedMs = performance.now();
  idleSince = performance.now();

  constructor(parts: JobParts) {
    this.#parts = parts;
    this.id = parts.id;
    this.#version = parts.order.version;
    this.sink = parts.sink;
    this.urlList = parts.urlList;
    this.source = sourceOf(parts.order.spec);
    this.requests = new Requests(parts.order.spec, parts.fetcher, {
      nextFile: () => this.#nextFile(),
      outOfStarts: () => this.#outOfStarts(),
    });
    this.#origins = new ToldOrigins(this.requests);
  }

  get spec(): JobSpec {
    return this.requests.spec;
  }

  /** Whether files of it were settled here of late. */
  get makesProgress(): boolean {
    return performance.now() - this.#progressMs < PROGRESS_MS;
  }

  /** How much is listed in one go. */
  get runSize(): RunSize {
    const { shards } = this.sink;
    const { settled, bytes } = this;
    const ms = performance.now() - this.#openedMs;
    const filesPerSecond = settled < RATE_FILES_MIN && ms < RATE_MS_MIN ? null : (settled * 1000) / ms;
    const known = { settled, filesPerSecond };
    if (shards === undefined) return fileRun(known);
    return shardRun(shards, { ...known, meanBytes: settled === 0 ? null : bytes / settled });
  }

  /** Whether the job is at its end, as far as is known here. */
  get isOver(): boolean {
    return this.#state !== null && !isActive(this.#state);
  }

  get pagesInWork(): number {
    return this.#attempts.size;
  }

  /**
   * Whether a further page is left to another worker, which may have less to do: there is one in work here, and another one
   * whose turn comes then. But seldom, as others may have as many.
   */
  leavesToOthers(): boolean {
    const now = performance.now();
    if (now - this.#leftMs < LEAVE_MS_MIN) return false;
    let untouched = 0;
    for (const { files } of this.#attempts) if (files !== null && files.settled === 0) untouched += 1;
    const leaves = untouched > 0 && this.#attempts.size > untouched;
    if (leaves) this.#leftMs = now;
    return leaves;
  }

  /** Files settled by this worker in all. */
  get settled(): number {
    return this.#sum((files) => files.settled) + this.#settledEnded;
  }

  /** Bytes downloaded by this worker in all. */
  get bytes(): number {
    return this.#sum((files) => files.bytes) + this.#bytesEnded;
  }

  /** Whether this worker remembers something of the job's origins that its next page here must know. */
  get inTrouble(): boolean {
    return this.#origins.inTrouble;
  }

  /**
   * To be called before a page of this epoch is begun. After a pause or a retry origins are given another chance, and the order
   * is read anew: what was wrong with it may have been changed.
   */
  async enterEpoch(epoch: number): Promise<void> {
    if (epoch <= this.#epoch) return;
    this.#epoch = epoch;
    this.requests.forgetOrigins();
    await this.#reread();
  }

  /** How long it makes no sense to begin a page, in ms; 0: begin now. */
  get comeBackInMs(): number {
    return this.#origins.outlasted ? this.#origins.waitMs : 0;
  }

  begin(attempt: Attempt): void {
    this.#attempts.add(attempt);
    attempt.stop.signal.addEventListener('abort', () => {
      attempt.listing?.cancel();
      attempt.files?.abandon();
      this.requests.dropAbandoned();
    });
    if (this.#closed) attempt.stop.abort('shutdown' satisfies StopReason);
    if (this.requests.granted === 0) this.#timer.due('atOnce');
    else if (this.#isSated || this.spec.limits.requestsPerSecond > 0) this.#timer.due('soon');
  }

  /** Another worker lacks its share of the concurrency, and nobody's is larger than this. */
  called(share: number): void {
    if (this.requests.granted <= share) return;
    this.requests.giveBack(share);
    this.#timer.due('givenBack');
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
    this.requests.dropAbandoned();
  }

  /** Tries again where the sink could not be opened: the disk may have room by now. */
  async openSink(): Promise<void> {
    if (this.sink.broken !== undefined) this.sink = await this.#parts.openSink();
  }

  /** Gets one URL of the listing, as GetListing says. Throws FetchError; also when the attempt is stopped. */
  async list(attempt: Attempt, url: string, into?: SaveTo): Promise<ListingAnswer> {
    const transfer = new ListingTransfer(this.requests, attempt, new URL(url), into ?? null);
    attempt.listing = transfer;
    if (transfer.abandoned) transfer.cancel();
    this.requests.add(transfer);
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
    if (this.#isSated && this.#wanted() > this.requests.granted) this.#timer.due('atOnce');
    this.requests.pump();
    await files.done;
  }

  /** Stops all attempts and gives the shares of the budgets back. */
  async close(): Promise<void> {
    this.#closed = true;
    // Before the pages are stopped: else what ends of one would begin what the next one has.
    this.requests.close();
    this.#stopAll('shutdown');
    this.#timer.close();
    this.#looks.close();
    this.sink.close();
    await this.#exchangePulse().catch(this.#parts.onPulseError);
  }

  #nextFile(): ReturnType<PageFiles['next']> {
    // The oldest page first: it is committed soonest.
    for (const { files } of this.#attempts) {
      const file = files?.next() ?? null;
      if (file !== null) return file;
    }
    return null;
  }

  /** Requests that would be in flight if there were no limit; a page that is about to be listed wants one too. */
  #wanted(): number {
    const { inFlight, pending } = this.requests;
    return inFlight + Math.max(this.#unlisted, pending) + this.#waiting;
  }

  /** Pages that are about to be listed. */
  get #unlisted(): number {
    return [...this.#attempts].filter(({ files }) => files === null).length;
  }

  /** Files of the pages that nobody began yet. */
  get #waiting(): number {
    return this.#sum((files) => files.waiting);
  }

  #sum(of: (files: PageFiles) => number): number {
    let sum = 0;
    for (const { files } of this.#attempts) if (files !== null) sum += of(files);
    return sum;
  }

  /** Before the pages are stopped: else what ends of one would begin what the next one has. */
  #startNothing(): void {
    this.requests.giveBack(0);
    this.requests.forgetOrigins();
  }

  #stopAll(reason: StopReason): void {
    for (const attempt of this.#attempts) attempt.stop.abort(reason);
  }

  /** Gives pages back that wait for an origin, and pauses the job when that took too long. */
  async #checkOrigins(): Promise<void> {
    await this.#origins.findGoodFiles(this.#parts.redis, this.id);
    const now = performance.now();
    const outlasting = this.requests.origins.filter((origin) => origin.outageMs(now) >= this.spec.retry.maxOutageMs);
    for (const origin of outlasting) if (origin.isStray) origin.giveUp();
    if (outlasting.some(({ isStray }) => !isStray)) {
      await this.#parts.pause('outage', this.#epoch);
      this.#startNothing();
      this.#stopAll('moved');
    } else if (this.requests.inFlight === 0 && this.comeBackInMs > 0) {
      this.#stopAll('outage');
    }
  }

  /** Who asked for few starts, as it did not know of more to make, and has used them, asks again. */
  #outOfStarts(): void {
    if (!this.#startsGranted) return;
    this.#startsGranted = false;
    this.#timer.due('atOnce');
  }

  async #pulse(): Promise<void> {
    try {
      await this.#exchangePulse();
      await this.#checkOrigins();
    } catch (error) {
      this.#parts.onPulseError(error);
    }
    this.requests.pump();
  }

  async #exchangePulse(): Promise<void> {
    const { requests } = this;
    const { concurrency, requestsPerSecond } = this.spec.limits;
    // A second may hold slots that are used late beside those that are not: spaced a little wider, never more than the limit.
    const startsPerSecond = requestsPerSecond / (1 + START_LATE_MS_MAX / 1000);
    const { settled, bytes } = this;
    const attempts = [...this.#attempts];
    const { inFlight } = requests;
    const asked = performance.now();
    // A lease that has lapsed may be others' by now: first all tell what they have in flight.
    const most = this.#closed ? 0 : requests.lapsed(asked) ? inFlight : this.#parts.fetcher.maxInFlight;
    const wanted = Math.min(this.#wanted(), most);
    const soon = Math.ceil((startsPerSecond * (PulseTimer.regularMs + 50)) / 1000);
    requests.askingForGrant();
    const answer = await pulse(this.#parts.redis, {
      worker: this.#parts.worker,
      job: this.id,
      wanted,
      inFlight,
      concurrency,
      // Whoever is to list now and has nothing else in flight may take it.
      leftToListing: inFlight === 0 && this.#unlisted > 0 ? 0 : placesOfListing(this.spec, this.#parts.workers()),
      startsWanted: Math.max(0, Math.min(soon, wanted - inFlight) - requests.starts.left),
      startsPerSecond,
      files: settled - this.#settledBefore,
      bytes: bytes - this.#bytesBefore,
      origins: this.#origins.news(asked),
      epoch: this.#epoch,
      ...this.#looks.take(),
      pages: attempts.map((attempt) => ({ seq: attempt.seq, nonce: attempt.nonce, counts: news(attempt) })),
    });
    const heard = performance.now();
    if (settled > this.#settledBefore) {
      this.#progressMs = heard;
      this.#parts.onProgress();
    }
    this.#settledBefore = settled;
    this.#bytesBefore = bytes;
    if (answer.version !== this.#version) await this.#reread();
    requests.share = Math.min(1, this.spec.priority / this.#parts.highestPriority());
    this.#isSated = answer.granted >= wanted;
    // Somebody waits: this one for what others hold, or they for what this one has in flight.
    this.#timer.sharesChange(answer.granted < Math.max(answer.share, inFlight));
    // A lock is renewed each quarter of its life: more than half of it is left.
    requests.grant(answer.granted, asked + LEASE_MS, asked + this.#parts.lockMs / 2);
    this.#startsGranted = answer.starts > 0;
    // Not where it was asked for by another limit.
    if (this.spec.limits.requestsPerSecond === requestsPerSecond) {
      requests.starts.grant(asked, heard, answer.startDelayMs, answer.starts, 1000 / (startsPerSecond || 1));
    }
    this.#origins.othersTold(asked, heard, answer.origins);
    this.#stopLost(attempts, answer);
  }

  /** The job's order was changed. */
  async #reread(): Promise<void> {
    const order = await this.#parts.readOrder();
    if (order === null) return;
    this.#version = order.version;
    this.requests.update(order.spec);
  }

  #stopLost(attempts: readonly Attempt[], { state, epoch, lost }: PulseAnswer): void {
    this.#state = state === 'gone' ? null : state;
    if (state !== 'running') this.#startNothing();
    for (const attempt of attempts) {
      const moved = state !== 'running' || epoch !== attempt.epoch || lost.includes(attempt.seq);
      if (moved && this.#attempts.has(attempt)) attempt.stop.abort('moved' satisfies StopReason);
    }
  }
}
