import type { FailureReason, FetchError } from '../src/errors.ts';
import type { Answer } from '../src/fetch-file.ts';
import type { BodyWriter } from '../src/sinks/index.ts';
import type { ListingAnswer } from '../src/sources/index.ts';
import type { SaveTo } from '../src/url-files.ts';
import type { PageFiles } from './page-files.ts';
import { ABANDONED } from './requests.ts';
import { Transfer, type TransferOwner } from './transfer.ts';

const LISTING_BYTES_MAX = 104_857_600;
/**
 * Why an attempt at a page ends before its time. `moved`: the job does not run, or another attempt has the page; `lock`:
 * BullMQ may have given it to another worker; `outage`: its origin is in trouble for longer.
 */
export type StopReason = 'moved' | 'lock' | 'shutdown' | 'outage';

/** One attempt at one entry of the chain. */
export interface Attempt {
  readonly seq: number;
  readonly epoch: number;
  readonly nonce: string;
  /** No attempt before it has listed the page. */
  readonly open: boolean;
  readonly stop: AbortController;
  /** The listing request that is waited for, null if none is. */
  listing: ListingTransfer | null;
  /** How often a request of the listing was made again. */
  listingRetries: number;
  /** Null until the page is listed. */
  files: PageFiles | null;
  /** Where the files are earlier failures: those, one for each. */
  failedBefore: readonly { id: string; reason: FailureReason }[];
  /** What was told of it last. */
  toldSettled: number;
}

/** A new attempt at an entry. */
export function newAttempt(of: Pick<Attempt, 'seq' | 'epoch' | 'nonce' | 'open'>): Attempt {
  const stop = new AbortController();
  return { ...of, stop, listing: null, listingRetries: 0, files: null, failedBefore: [], toldSettled: 0 };
}

/** What an attempt adds to the job's counts, by fields of its record. */
export function attemptCounts({ files, listingRetries, failedBefore }: Attempt): Record<string, number> {
  const counts = files?.counts() ?? {};
  const add = (field: string, by: number): void => void (counts[field] = (counts[field] ?? 0) + by);
  add('requestsRetried', listingRetries);
  for (const { reason } of failedBefore.slice(0, files?.settled)) {
    add('filesFailed', -1);
    add(`reason:${reason}`, -1);
  }
  return counts;
}

/** The counts of an attempt, null where nothing was settled since they were told. */
export function news(attempt: Attempt): Record<string, number> | null {
  const settled = attempt.files?.settled ?? 0;
  if (settled === attempt.toldSettled) return null;
  attempt.toldSettled = settled;
  return attemptCounts(attempt);
}

/** Gets one page of a listing, into memory unless it is told where else. */
export class ListingTransfer extends Transfer {
  readonly maxBytes: number;
  readonly memoryBytes: number;
  override readonly isNew: boolean;
  readonly #attempt: Attempt;
  readonly #into: SaveTo | null;
  readonly #answer = Promise.withResolvers<ListingAnswer>();

  constructor(owner: TransferOwner, attempt: Attempt, url: URL, into: SaveTo | null) {
    super(owner, url.origin, url.pathname + url.search, null);
    this.#attempt = attempt;
    this.isNew = attempt.open;
    this.#into = into;
    this.maxBytes = into?.maxBytes ?? LISTING_BYTES_MAX;
    this.memoryBytes = into === null ? LISTING_BYTES_MAX : 0;
  }

  get answer(): Promise<ListingAnswer> {
    return this.#answer.promise;
  }

  get abandoned(): boolean {
    return this.#attempt.stop.signal.aborted;
  }

  /** Whoever waits for it waits no longer. */
  cancel(): void {
    this.#answer.reject(ABANDONED);
  }

  open(): BodyWriter | null {
    return this.#into?.open() ?? null;
  }

  protected succeed({ headers, body }: Answer): void {
    this.#answer.resolve({ url: this.origin + this.path, headers, body: body ?? new Uint8Array() });
  }

  protected fail(error: FetchError): void {
    this.#answer.reject(error);
  }

  protected retried(): void {
    this.#attempt.listingRetries += 1;
  }
}
