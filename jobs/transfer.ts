import { FetchError } from '../src/errors.ts';
import type { Answer, Exchange, FetchHandler, FetchRequest } from '../src/fetch-file.ts';
import { retryDelayMs } from '../src/retry.ts';
import type { BodyWriter } from '../src/sinks/index.ts';
import type { JobSpec } from '../src/schemas.ts';
import type { Tally } from '../src/tally.ts';
import type { Condition } from '../src/validators.ts';
import { troubleOf, type Good, type Origin } from './origin.ts';

const REDIRECTS_MAX = 5;
const NO_HEADERS: readonly string[] = [];
/** What tells neither that the origin answers nor that it does not. */
const SAYS_NOTHING: ReadonlySet<string> = new Set(['truncated', 'connection', 'blocked_address']);
const PROBE_BYTES_MAX = 65_536;

/** What a transfer needs of the job it belongs to. */
export interface TransferOwner {
  /** Whether this worker was heard of lately: no other has what it has in flight. */
  readonly mayStore: boolean;
  readonly spec: JobSpec;
  /** The job's headers, flat, and the one origin they may be sent to, null for none. */
  readonly headers: readonly string[];
  readonly headersOrigin: string | null;
  /** What this worker did, over all jobs. */
  readonly tally: Tally;
  /** A request of this transfer ended, whatever its outcome; it no longer counts as in flight. */
  ended(transfer: Transfer): void;
  /** The transfer has another request to make, at once or later. */
  again(transfer: Transfer, delayMs: number): void;
  /** The origin gave an answer that tells of no trouble; `good`: a whole body. */
  answered(transfer: Transfer, good: boolean): void;
  /** The body has begun and is a large one. */
  streams(transfer: Transfer): void;
  /** The origin is in trouble: it is decided there what becomes of the transfer. */
  troubled(transfer: Transfer, error: FetchError, trouble: 'throttled' | 'silent'): void;
}

/** One URL to get: its redirects, its attempts, and what becomes of the body. One request at a time. */
export abstract class Transfer implements FetchRequest, FetchHandler {
  readonly owner: TransferOwner;
  readonly #firstOrigin: string;
  readonly #firstPath: string;
  origin: string;
  path: string;
  headers: readonly string[];
  /** No secret: it goes along to wherever redirects lead. */
  condition: Condition | null = null;
  readonly sizeBytes: number | null;
  timeoutMs: number;
  minBytesPerSecond: number;
  abstract readonly maxBytes: number;
  abstract readonly memoryBytes: number;
  readonly isProbe: boolean = false;
  /** Whether it is a file of the job's that is fetched, rather than a page of its listing. */
  readonly isFile: boolean = false;
  /** Whether it has had no outcome yet, whatever attempts at its page there were; a page of a listing may be listed anew. */
  readonly isNew: boolean = false;
  /** Attempts begun, the running one included. */
  attempts = 1;
  /**
   * How often it was told to come back later, and when first, last, and for when, by a monotonic clock in ms. It is as if first
   * told later where it could not be asked for long.
   */
  throttled = { times: 0, sinceMs: 0, lastMs: 0, dueMs: 0 };
  /** The request in flight. */
  exchange: Exchange | null = null;
  /** Whom it is asked of, its place in InFlight, and whether its body has begun and is a large one; InFlight alone sets them. */
  askedOf: Origin | null = null;
  place = -1;
  isStreaming = false;
  #redirects = 0;
  #resent = false;

  constructor(owner: TransferOwner, origin: string, path: string, sizeBytes: number | null) {
    this.owner = owner;
    this.#firstOrigin = this.origin = origin;
    this.#firstPath = this.path = path;
    this.headers = origin === owner.headersOrigin ? owner.headers : NO_HEADERS;
    this.sizeBytes = sizeBytes;
    this.timeoutMs = owner.spec.limits.timeoutMs;
    this.minBytesPerSecond = owner.spec.limits.minBytesPerSecond;
  }

  /** Where the body is written if it outgrows `memoryBytes`; null: it may not. Throws FetchError. */
  abstract open(): BodyWriter | null;
  /** The whole body is there, or, where there was a condition, the file is not modified (304). Throws FetchError: it could not be stored. */
  protected abstract succeed(answer: Answer): void;
  /** It failed for good. */
  protected abstract fail(error: FetchError): void;
  /** Another request will be made for it. */
  protected abstract retried(): void;
  /** Nobody wants it any more: no further attempt, no outcome. */
  abstract readonly abandoned: boolean;

  onBody(answer: Answer): void {
    this.exchange = null;
    this.owner.answered(this, true);
    if (!this.abandoned) {
      try {
        this.succeed(answer);
      } catch (error) {
        if (!(error instanceof FetchError)) throw error;
        this.charge(error);
      }
    }
    this.owner.ended(this);
  }

  onRedirect(location: string): void {
    this.exchange = null;
    this.owner.answered(this, false);
    if (!this.abandoned) {
      if (this.#redirects === REDIRECTS_MAX) {
        const message = `more than ${REDIRECTS_MAX} redirects, the last to ${location}`;
        this.fail(new FetchError('too_many_redirects', message));
      } else {
        this.#follow(new URL(location));
        this.owner.again(this, 0);
      }
    }
    this.owner.ended(this);
  }

  onError(error: FetchError): void {
    this.exchange = null;
    if (!this.abandoned) {
      // A probe that tells nothing is not made again at once.
      const trouble = this.isProbe && SAYS_NOTHING.has(error.reason) ? 'silent' : troubleOf(error);
      if (error.stale && !this.#resent) {
        // The server had closed an idle connection: this request never reached it.
        this.#resent = true;
        this.owner.again(this, 0);
      } else if ((error.retryable || this.isProbe) && trouble !== null) {
        this.owner.troubled(this, error, trouble);
      } else {
        if (!SAYS_NOTHING.has(error.reason)) this.owner.answered(this, false);
        this.charge(error);
      }
    }
    this.owner.ended(this);
  }

  /** Spends the attempt on this error: another one follows, or the end. */
  charge(error: FetchError): void {
    const { retry } = this.owner.spec;
    if (!error.retryable || this.attempts >= retry.attempts) return this.fail(error);
    this.attempts += 1;
    this.repeat(retryDelayMs(retry, this.attempts - 1, error.retryAfterMs));
  }

  /** Whether it is on the way to where it began, and not where redirects led it. */
  get isAtHome(): boolean {
    return this.origin === this.#firstOrigin;
  }

  /** Fails, whatever attempts there are left. */
  giveUp(error: FetchError): void {
    this.fail(error);
  }

  /** Makes its request again, without spending an attempt. */
  repeat(delayMs = 0): void {
    this.restart();
    this.retried();
    this.owner.tally.retried += 1;
    this.owner.again(this, delayMs);
  }

  /** Back to the URL it began with, as the job is ordered by now. */
  restart(): void {
    this.origin = this.#firstOrigin;
    this.path = this.#firstPath;
    this.headers = this.origin === this.owner.headersOrigin ? this.owner.headers : NO_HEADERS;
    this.timeoutMs = this.owner.spec.limits.timeoutMs;
    this.minBytesPerSecond = this.owner.spec.limits.minBytesPerSecond;
    this.#redirects = 0;
    this.#resent = false;
  }

  #follow(url: URL): void {
    // Once another origin has led the way, the job's headers stay out of it, also on the way back.
    if (url.origin !== this.origin) this.headers = NO_HEADERS;
    this.origin = url.origin;
    this.path = url.pathname + url.search;
    this.#redirects += 1;
  }
}

/** Finds out whether an origin answers, by a URL that it has answered before. What it answers is thrown away. */
export class Probe extends Transfer {
  override readonly isProbe = true;
  override readonly isFile: boolean;
  readonly abandoned = false;
  readonly maxBytes = PROBE_BYTES_MAX;
  readonly memoryBytes = PROBE_BYTES_MAX;

  constructor(owner: TransferOwner, origin: string, { path, isFile }: Good) {
    super(owner, origin, path, null);
    this.isFile = isFile;
  }

  override onRedirect(): void {
    this.exchange = null;
    this.owner.answered(this, false);
    this.owner.ended(this);
  }

  override charge(): void {}
  override giveUp(): void {}
  override repeat(): void {}

  open(): null {
    return null;
  }

  protected succeed(): void {}
  protected fail(): void {}
  protected retried(): void {}
}
