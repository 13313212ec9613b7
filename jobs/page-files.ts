import { FetchError } from '../src/errors.ts';
import { SMALL_BODY_BYTES, type Answer } from '../src/fetch-file.ts';
import type { Failure } from '../src/schemas.ts';
import { withoutSecrets } from '../src/secrets.ts';
import type { BodyWriter, FileUrl, PageWriter } from '../src/sinks/index.ts';
import type { BadItem, SourceFile } from '../src/sources/index.ts';
import { conditionOf, confirms, noteOf, subjectOf, type Condition } from '../src/validators.ts';
import { packFailure, type Refetch } from './failures.ts';
import type { Items } from './items.ts';
import { Transfer, type TransferOwner } from './transfer.ts';

/** How many files that need no request are settled in one go before others get the event loop. */
const SETTLED_AT_ONCE_MAX = 256;
const TWO_URLS = 'the page lists this name with two URLs';

/** No fault of the file's: it is asked for again. */
const TOO_LATE = new FetchError('sink', 'the worker was not heard of for too long to store anything', {
  retryable: true,
});

/** The files of one page: which are still to be fetched, and what became of the others. */
export class PageFiles {
  readonly items: Items;
  readonly #owner: TransferOwner;
  readonly #writer: PageWriter;
  readonly #done = Promise.withResolvers<void>();
  readonly #copies: ReadonlyMap<number, number>;
  #cursor = 0;
  #unsettled: number;
  #abandoned = false;
  readonly #counts = {
    filesDownloaded: 0,
    filesSkipped: 0,
    filesFailed: 0,
    bytesDownloaded: 0,
    requestsRetried: 0,
  };
  readonly #reasons: Record<string, number> = {};
  /** As they are kept in the failures stream. */
  readonly failures: string[] = [];

  constructor(owner: TransferOwner, writer: PageWriter, items: Items) {
    this.#owner = owner;
    this.#writer = writer;
    this.items = items;
    this.#unsettled = items.length;
    this.#copies = sameNames(items);
    if (items.length === 0) this.#done.resolve();
  }

  /** Resolves when every file has its outcome, or when the page is abandoned. */
  get done(): Promise<void> {
    return this.#done.promise;
  }

  get abandoned(): boolean {
    return this.#abandoned;
  }

  /** Files not begun yet. */
  get waiting(): number {
    return this.items.length - this.#cursor;
  }

  /** What the page adds to the job's counts, by fields of its record. */
  counts(): Record<string, number> {
    return { ...this.#counts, ...this.#reasons };
  }

  get settled(): number {
    return this.items.length - this.#unsettled;
  }

  get bytes(): number {
    return this.#counts.bytesDownloaded;
  }

  /** The next file that needs a request. `null`: none is left. `later`: ask again when others had the event loop. */
  next(): FileTransfer | null | 'later' {
    for (let settled = 0; settled < SETTLED_AT_ONCE_MAX; settled += 1) {
      const item = this.items.at(this.#cursor);
      if (item === undefined) return null;
      const index = this.#cursor;
      this.#cursor += 1;
      const copies = this.#copies.get(index);
      if (copies === 0) continue; // counted with the first of its name and URL
      if ('bad' in item) {
        this.fail(item, new FetchError(item.bad, item.message), 0, { refetch: 'never' });
      } else if (copies === -1) {
        this.fail(item, new FetchError('name_conflict', TWO_URLS), 0, { refetch: 'never' });
      } else {
        const weight = copies ?? 1;
        if (!this.#isThere(item, weight)) return new FileTransfer(this.#owner, this, this.#writer, item, weight);
      }
    }
    return 'later';
  }

  abandon(): void {
    this.#abandoned = true;
    this.#cursor = this.items.length;
    this.#done.resolve();
  }

  downloaded(bytes: number, weight: number): void {
    this.#counts.filesDownloaded += weight;
    this.#counts.bytesDownloaded += bytes;
    this.#settle(weight);
  }

  skipped(weight: number): void {
    this.#counts.filesSkipped += weight;
    this.#owner.tally.skipped += weight;
    this.#settle(weight);
  }

  retried(): void {
    this.#counts.requestsRetried += 1;
  }

  fail(
    item: SourceFile | BadItem,
    error: FetchError,
    attempts: number,
    { weight = 1, refetch }: { weight?: number; refetch: Refetch },
  ): void {
    this.#counts.filesFailed += weight;
    const field = `reason:${error.reason}`;
    this.#reasons[field] = (this.#reasons[field] ?? 0) + weight;
    this.#owner.tally.failed(error.reason, weight);
    const failure: Failure = {
      name: item.name,
      url: 'bad' in item ? item.url : item.origin + item.path,
      reason: error.reason,
      statusCode: error.statusCode,
      attempts,
      message: withoutSecrets(error.message, this.#owner.spec.headers),
      at: new Date().toISOString(),
    };
    const packed = packFailure(failure, refetch);
    for (let copy = 0; copy < weight; copy += 1) this.failures.push(packed);
    this.#settle(weight);
  }

  /** Whether the file need not be fetched; it is counted then. A file that this job stored counts as downloaded. */
  #isThere(item: SourceFile, weight: number): boolean {
    if (this.#owner.spec.dryRun) {
      this.skipped(weight);
      return true;
    }
    try {
      const found = this.#writer.find(item.name);
      if (found === null) return false;
      if (item.sizeBytes !== null && item.sizeBytes !== found.sizeBytes) return false;
      const { existing } = this.#owner.spec;
      const isToAsk = existing === 'overwrite' || (existing === 'update' && item.sizeBytes === null);
      if (found.whose === 'theirs' && isToAsk) return false;
      this.#writer.keep?.(item.name, found, listedFrom(item, weight));
      if (found.whose === 'ours') this.downloaded(found.sizeBytes, weight);
      else this.skipped(weight);
    } catch (error) {
      if (!(error instanceof FetchError)) throw error;
      this.fail(item, error, 0, { weight, refetch: item.sizeBytes });
    }
    return true;
  }

  #settle(weight: number): void {
    this.#unsettled -= weight;
    if (this.#unsettled === 0) this.#done.resolve();
  }
}

/** Gets one file and stores it. */
export class FileTransfer extends Transfer {
  override readonly isNew = true;
  override readonly isFile = true;
  readonly page: PageFiles;
  readonly #writer: PageWriter;
  readonly #item: SourceFile;
  /** How often the page lists it. */
  readonly #weight: number;
  /** What is asked for, where the server alone knows whether that changed; else null. */
  readonly #subject: string | null;
  readonly maxBytes: number;
  readonly memoryBytes = SMALL_BODY_BYTES;

  constructor(owner: TransferOwner, page: PageFiles, writer: PageWriter, item: SourceFile, weight: number) {
    super(owner, item.origin, item.path, item.sizeBytes);
    this.page = page;
    this.#writer = writer;
    this.#item = item;
    this.#weight = weight;
    this.maxBytes = owner.spec.limits.maxFileBytes;
    const asks = owner.spec.existing === 'update' && item.sizeBytes === null;
    this.#subject = asks ? subjectOf(item.origin + item.path, this.headers) : null;
    if (this.#subject !== null) this.condition = conditionOf(this.#subject, writer.noted?.(item.name) ?? null);
  }

  get abandoned(): boolean {
    return this.page.abandoned;
  }

  get #from(): FileUrl {
    return listedFrom(this.#item, this.#weight);
  }

  open(): BodyWriter {
    this.owner.streams(this);
    const writer = this.#writer.open(this.#item.name, this.#from);
    return {
      write: (chunk) => writer.write(chunk),
      finish: () => {
        this.#checkLease();
        writer.finish();
      },
      abort: () => writer.abort(),
    };
  }

  override charge(error: FetchError): void {
    if (error === TOO_LATE) this.repeat();
    else super.charge(error);
  }

  /** Others may have the page by now, or another job the folder. */
  #checkLease(): void {
    if (!this.owner.mayStore) throw TOO_LATE;
  }

  protected succeed(answer: Answer): void {
    if (this.condition !== null && answer.statusCode === 304) return this.#notModified(this.condition, answer);
    if (answer.body !== null) {
      this.#checkLease();
      this.#writer.put(this.#item.name, answer.body, this.#from);
    }
    const note = this.#subject === null ? null : noteOf(this.#subject, answer);
    if (note !== null) this.#writer.note?.(this.#item.name, note);
    this.page.downloaded(answer.bytes, this.#weight);
    this.owner.tally.downloaded += this.#weight;
    this.owner.tally.bytes += answer.bytes;
  }

  #notModified(condition: Condition, { headers }: Answer): void {
    const found = this.#writer.find(this.#item.name);
    if (found !== null && confirms(condition, headers)) {
      this.#writer.keep?.(this.#item.name, { ...found, whose: 'theirs' }, this.#from);
      return this.page.skipped(this.#weight);
    }
    this.condition = null;
    this.repeat();
  }

  protected fail(error: FetchError): void {
    this.page.fail(this.#item, error, this.attempts, { weight: this.#weight, refetch: this.#item.sizeBytes });
  }

  protected retried(): void {
    this.page.retried();
  }
}

function listedFrom(item: SourceFile, weight: number): FileUrl {
  return weight === 1 ? item : { origin: item.origin, path: item.path, listed: weight };
}

/**
 * What names that a page lists more than once mean, by index: n > 1: the first of n with one URL; 0: a later one of them;
 * -1: another URL under a name that an earlier item has. Names that are listed once are not in it.
 */
function sameNames(items: Items): ReadonlyMap<number, number> {
  const names = items.names();
  const copies = new Map<number, number>();
  if (areInOrder(names)) return copies;
  const first = new Map<string, number>();
  for (const [index, name] of names.entries()) {
    if (name === null) continue;
    const earlier = first.get(name);
    if (earlier === undefined) {
      first.set(name, index);
      continue;
    }
    const [one, other] = [items.at(earlier) as SourceFile, items.at(index) as SourceFile];
    const same = one.path === other.path && one.origin === other.origin;
    copies.set(index, same ? 0 : -1);
    if (same) copies.set(earlier, (copies.get(earlier) ?? 1) + 1);
  }
  return copies;
}

/**
 * Whether each name comes after the one before it, by its text or by its length and then its text: none is there twice then. Most
 * listings are in one of these orders, and a table of tens of thousands of names costs more than all else that is done for a page.
 */
function areInOrder(names: readonly (string | null)[]): boolean {
  let byText = true;
  let byLength = true;
  let before = '';
  for (const name of names) {
    if (name === null) continue;
    const isAfter = before < name;
    byText &&= isAfter;
    byLength &&= before.length < name.length || (isAfter && before.length === name.length);
    if (!byText && !byLength) return false;
    before = name;
  }
  return true;
}
