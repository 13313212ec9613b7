import type { FetchError } from '../src/errors.ts';
import { retryDelayMs } from '../src/retry.ts';
import type { Retry } from '../src/schemas.ts';
import type { OriginNews } from './pulse.ts';
import { ThrottledUrls, throttledMs } from './throttled.ts';
import type { Transfer } from './transfer.ts';

/** So many requests in a row without an answer, and no further one is made before a probe has told why. */
const UNANSWERED_MAX = 3;
const PROBE_DELAY_MS_MIN = 200;
const PROBE_DELAY_MS_MAX = 15_000;
/** Trouble that nothing was heard of for so long may have ended in between: new trouble begins anew. */
const TROUBLE_REMEMBERED_MS = 120_000;

/** Trouble that is over soon is nobody else's business. */
const TOLD_MS_MIN = 1000;

/** What an error says of the origin rather than of the file. `silent`: it may be down. */
export function troubleOf({ reason, statusCode }: FetchError): 'throttled' | 'silent' | null {
  if (statusCode === 429 || statusCode === 503) return 'throttled';
  const silent = reason === 'connection' || reason === 'timeout' || statusCode === 502 || statusCode === 504;
  return silent ? 'silent' : null;
}

/** A URL of the origin that was fetched: that of a file, or of a page of a listing. */
export interface Good {
  readonly path: string;
  readonly isFile: boolean;
}

/** A request that got no answer, until it is known whose fault that was. */
interface Unanswered {
  readonly transfer: Transfer;
  readonly error: FetchError;
}

/**
 * How one origin fares, as one job on one worker sees it. An origin in trouble costs the job time, not its files their
 * attempts. Pure but for the transfers it keeps; all times are those of one monotonic clock, in ms.
 *
 * - *Throttled* (429, 503): nothing is asked before Retry-After (or a backoff) has passed; the requests in flight halve,
 *   then grow by one for each full window of answers (AIMD, RFC 5681 section 3.1). Then the URL that was fetched last is
 *   asked first: if that is answered, it was the files' own trouble. Where files are throttled, only a file's answer tells
 *   so: a listing may be answered while no file is.
 * - *Silent* (connection errors, time-outs, 502, 504): after three in a row, or when nothing else is left to ask, a single
 *   probe decides. If the origin answers, the silence was the files' own fault; if not, they wait, and further probes follow
 *   with growing pauses.
 */
export class Origin {
  readonly name: string;
  retry: Retry;
  inFlight = 0;
  /** Those in flight that bring a large body: they may take hours, and tell nothing more until then. */
  streaming = 0;
  /** Requests that wait until it may be asked again. */
  waiting: Transfer[] = [];
  /** Whether requests begin here, rather than being led here by redirects alone. */
  isOwn = false;
  #unanswered: Unanswered[] = [];
  #inARow = 0;
  #silentSinceMs: number | null = null;
  #probesFailed = 0;
  #nextProbeMs = 0;
  /** The one request that is made to find out whether it answers. */
  probing: Transfer | null = null;
  /** What was fetched last, a file if there was any. */
  #lastGood: Good | null = null;
  #lastGoodMs = -Infinity;
  #throttledSinceMs: number | null = null;
  /** Whether files are among what was throttled since. */
  #filesThrottled = false;
  readonly #throttledUrls = new ThrottledUrls();
  /** Rounds of requests that were told to come back later, since the last answer. */
  #rounds = 0;
  /** Whether the URL that was fetched last is to be asked before anything else. */
  #doubted = false;
  /** When it was last found throttled, or a probe found it silent. */
  #troubledMs = 0;
  /** When a file was last answered. */
  #wellMs = -Infinity;
  /** Since when others know of its trouble: the page that is in trouble here may come from them. */
  #othersSinceMs = Infinity;
  /** When any sign of trouble was seen last. */
  #signMs = 0;
  #lastError: FetchError | null = null;
  #holdUntilMs = 0;
  #askedForUntilMs = 0;
  #window = Infinity;
  #answersInWindow = 0;

  constructor(name: string, retry: Retry) {
    this.name = name;
    this.retry = retry;
  }

  /** Whether a request may be made now. */
  mayAsk(nowMs: number): boolean {
    return nowMs >= this.#holdUntilMs && this.inFlight < this.#window && !this.#suspected;
  }

  get #suspected(): boolean {
    return this.isDown || this.#doubted || this.#inARow >= UNANSWERED_MAX;
  }

  /** A probe found it silent, and none has found it otherwise since. */
  get isDown(): boolean {
    return this.#probesFailed > 0;
  }

  /** Redirects alone lead here, and nothing ever came of it: its trouble is that of the files that are led here. */
  get isStray(): boolean {
    return !this.isOwn && this.#lastGood === null;
  }

  /** Requests that are kept here until it is well again. */
  get pending(): number {
    return this.waiting.length + this.#unanswered.length;
  }

  /** Whether nothing is known of it that a new one would not assume, but for its pace. */
  isForgettable(nowMs: number): boolean {
    return this.inFlight === 0 && this.pending === 0 && this.#inARow === 0 && this.waitMs(nowMs) === 0 && !this.isDown;
  }

  /**
   * For how long it has been in trouble without a break; 0 if it is not. What others know counts where it is in trouble here, too, but
   * for what was before it was well here.
   */
  troubleMs(nowMs: number): number {
    if (this.#isForgotten(nowMs)) return 0;
    const since = Math.min(
      this.isDown ? (this.#silentSinceMs ?? Infinity) : Infinity,
      this.#throttledSinceMs ?? Infinity,
    );
    if (since === Infinity) return 0;
    return Math.max(0, nowMs - Math.min(since, Math.max(this.#othersSinceMs, this.#wellMs)));
  }

  /**
   * For how long it is known to have been in trouble: until it was last found so, or asks to be left alone. Others may know
   * better by now.
   */
  outageMs(nowMs: number): number {
    return this.troubleMs(Math.max(this.#troubledMs, Math.min(nowMs, this.#askedForUntilMs)));
  }

  /** How long until it may be asked (or probed) again; 0: now. */
  waitMs(nowMs: number): number {
    return Math.max(0, this.#holdUntilMs - nowMs, this.isDown ? this.#nextProbeMs - nowMs : 0);
  }

  /** What others shall know of it. What they told is not in it. */
  news(nowMs: number): Omit<OriginNews, 'goodFile'> {
    const holdMs = Math.ceil(this.#askedForUntilMs - nowMs);
    // What others know ended, even if it is in trouble again.
    const isOver = this.#othersSinceMs < this.#wellMs;
    const troubleMs = isOver ? 0 : Math.ceil(this.troubleMs(nowMs));
    const isNews = !this.isStray && (isOver || troubleMs >= TOLD_MS_MIN);
    const throttled = this.#throttledUrls.longest(nowMs, this.retry.maxOutageMs);
    return {
      ...(holdMs > 0 && { holdMs }),
      ...(isNews && { troubleMs }),
      ...(Object.keys(throttled).length > 0 && { throttled }),
    };
  }

  /** What others told between these two moments. */
  othersTold(askedMs: number, heardMs: number, { holdMs, troubleMs, throttled }: OriginNews): void {
    if (holdMs !== undefined) this.#holdUntilMs = Math.max(this.#holdUntilMs, heardMs + holdMs);
    const isNew = troubleMs !== undefined && this.#othersSinceMs === Infinity;
    this.#othersSinceMs = troubleMs === undefined ? Infinity : askedMs - troubleMs;
    if (isNew) this.#doubt();
    this.#throttledUrls.othersTold(askedMs, throttled ?? {});
  }

  /** A file that was fetched from there, by this worker as far as it knows; null: none was. */
  get goodFile(): string | null {
    return this.#lastGood?.isFile === true ? this.#lastGood.path : null;
  }

  /** Whether a file that others fetched would tell if it is the origin that is in trouble. */
  get wantsGoodFile(): boolean {
    const isThrottled = this.#throttledSinceMs !== null && this.#filesThrottled;
    return this.goodFile === null && (isThrottled || this.#othersSinceMs < Infinity);
  }

  /** What to probe with until something was fetched here: others had an answer from there. */
  assumeGood(good: Good): void {
    if (this.#lastGood !== null && (!good.isFile || this.#lastGood.isFile)) return;
    this.#lastGood = good;
    this.#doubt();
  }

  /** Asks for a file that was fetched before anything else, where others have trouble: that may be their files' own. */
  #doubt(): void {
    if (this.goodFile !== null && this.#othersSinceMs < Infinity && this.#wellMs < this.#othersSinceMs)
      this.#doubted = true;
  }

  /** Something came back that tells of no trouble; `isGood`: a whole file or page. */
  answered(nowMs: number, { path, isFile }: Good, isGood: boolean): void {
    if (isGood) {
      if (isFile || this.goodFile === null) this.#lastGood = { path, isFile };
      this.#throttledUrls.forget(path);
    }
    // A page of a listing says nothing to others, where files may be in trouble.
    if (isFile) this.#wellMs = nowMs;
    if (isFile || !this.#filesThrottled) {
      if (isGood) this.#lastGoodMs = nowMs;
      this.#throttledSinceMs = null;
      this.#filesThrottled = false;
      this.#rounds = 0;
    }
    this.#doubted = false;
    this.#grow();
    this.#heard();
  }

  /**
   * A request was told to come back later. It will, after a backoff of its own; or fails, if it alone has been told so for
   * `maxOutageMs`.
   */
  throttled(nowMs: number, transfer: Transfer, error: FetchError): void {
    this.#heard();
    if (this.#isForgotten(nowMs)) {
      this.#throttledSinceMs = null;
      this.#filesThrottled = false;
    }
    this.#troubledMs = this.#signMs = nowMs;
    this.#lastError = error;
    this.#filesThrottled ||= transfer.isFile;
    const { maxOutageMs } = this.retry;
    if (!transfer.isProbe) this.#throttledUrls.remember(nowMs, transfer, maxOutageMs);
    const { throttled } = transfer;
    const alone = throttled.times > 0 && this.#lastGoodMs > throttled.lastMs;
    throttled.sinceMs = nowMs - (throttled.times === 0 ? 0 : throttledMs(nowMs, throttled, maxOutageMs));
    throttled.times += 1;
    throttled.lastMs = nowMs;
    if (nowMs - throttled.sinceMs >= maxOutageMs && this.#lastGoodMs > throttled.sinceMs) {
      this.#throttledUrls.forget(transfer.path);
      transfer.giveUp(error);
      return;
    }
    const delayMs = retryDelayMs(this.retry, Math.max(throttled.times, this.#rounds + 1), error.retryAfterMs);
    throttled.dueMs = nowMs + delayMs;
    if (!alone) this.#slowDown(nowMs, delayMs, transfer.isProbe);
    if (error.retryAfterMs !== null) this.#leaveAlone(nowMs + delayMs);
    transfer.repeat(delayMs);
  }

  /** A request got no answer. */
  silent(nowMs: number, transfer: Transfer, error: FetchError): void {
    if (this.#isForgotten(nowMs)) this.#silentSinceMs = null;
    this.#signMs = nowMs;
    this.#lastError = error;
    this.#inARow += 1;
    this.#silentSinceMs ??= nowMs;
    if (this.probing === transfer) {
      this.probing = null;
      this.#troubledMs = nowMs;
      this.#probesFailed += 1;
      const ceiling = Math.min(PROBE_DELAY_MS_MAX, PROBE_DELAY_MS_MIN * 2 ** this.#probesFailed);
      this.#nextProbeMs = nowMs + ceiling * (0.5 + Math.random() / 2);
    }
    if (!transfer.isProbe) this.#unanswered.push({ transfer, error });
  }

  /**
   * The request to make as a probe now, null if none is due: one that `make` gives for the path that was fetched last, or
   * else one of those that wait. `idle`: there is nothing else to ask.
   */
  probe(nowMs: number, idle: boolean, make: (origin: string, good: Good) => Transfer): Transfer | null {
    const suspected = this.#suspected || (idle && this.#unanswered.length > 0);
    if (!suspected || this.probing !== null || this.waitMs(nowMs) > 0) return null;
    // What is in flight may tell, but a long download shall not keep all other files back.
    if (this.inFlight > this.streaming && !this.#doubted) return null;
    this.dropAbandoned();
    const first = this.#unanswered[0]?.transfer ?? this.waiting[0];
    if (first === undefined) return null;
    if (this.#lastGood !== null) return (this.probing = make(this.name, this.#lastGood));
    const unanswered = this.#unanswered.shift();
    if (unanswered !== undefined && !first.isAtHome) {
      // It would begin elsewhere, and may be led to yet another origin, again and again.
      if (this.pending === 0 && !this.isDown) this.#inARow = 0;
      first.charge(unanswered.error);
      return null;
    }
    if (unanswered === undefined) this.waiting.shift();
    else first.restart();
    return (this.probing = first);
  }

  /** Fails all that waits for it to be well again. */
  giveUp(): void {
    const error = this.#lastError;
    if (error === null) return;
    const given = [...this.#unanswered.splice(0).map(({ transfer }) => transfer), ...this.waiting.splice(0)];
    for (const transfer of given) if (!transfer.abandoned) transfer.giveUp(error);
  }

  /** Forgets requests that nobody wants any more. */
  dropAbandoned(): void {
    this.waiting = this.waiting.filter((transfer) => !transfer.abandoned);
    this.#unanswered = this.#unanswered.filter(({ transfer }) => !transfer.abandoned);
  }

  /** A probe that ended without telling anything is none. */
  forget(transfer: Transfer): void {
    if (this.probing === transfer) this.probing = null;
  }

  /** The origin answers: what got no answer was the files' own fault, unless a probe got none either. */
  #heard(): void {
    const innocent = this.isDown;
    const settled = this.#unanswered;
    this.#inARow = 0;
    this.probing = null;
    this.#probesFailed = 0;
    this.#silentSinceMs = null;
    if (settled.length === 0) return;
    this.#unanswered = [];
    for (const { transfer, error } of settled) {
      if (transfer.abandoned) continue;
      if (innocent) transfer.repeat();
      else transfer.charge(error);
    }
  }

  /** One round of requests is one sign, however many of them come back. */
  #slowDown(nowMs: number, delayMs: number, byProbe: boolean): void {
    this.#throttledSinceMs ??= nowMs;
    if (nowMs < this.#holdUntilMs) return;
    this.#rounds += 1;
    // In turns: else a URL that alone is in trouble by now would keep all others from being asked.
    this.#doubted = this.#lastGood !== null && !byProbe;
    this.#window = Math.max(1, Math.floor(Math.min(this.#window, this.inFlight) / 2));
    this.#answersInWindow = 0;
    this.#leaveAlone(nowMs + delayMs);
  }

  /** Whether what is known of its trouble is too old to say anything. */
  #isForgotten(nowMs: number): boolean {
    return nowMs - Math.max(this.#signMs, this.#holdUntilMs) > TROUBLE_REMEMBERED_MS;
  }

  #leaveAlone(untilMs: number): void {
    this.#askedForUntilMs = Math.max(this.#askedForUntilMs, untilMs);
    this.#holdUntilMs = Math.max(this.#holdUntilMs, untilMs);
  }

  #grow(): void {
    if (this.#window === Infinity) return;
    this.#answersInWindow += 1;
    if (this.#answersInWindow < this.#window) return;
    this.#answersInWindow = 0;
    this.#window += 1;
  }
}
