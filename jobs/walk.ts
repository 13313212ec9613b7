import { FetchError } from '../src/errors.ts';
import type { Shards } from '../src/sinks/index.ts';
import type { GetListing, SourcePage, sourceOf } from '../src/sources/index.ts';
import type { JobList } from '../src/url-files.ts';
import { Items } from './items.ts';

/** Where files and pages come quickly, several are walked in one go: an entry costs Redis and its worker a millisecond or two. */
const RUN_SECONDS = 0.5;
const RUN_NAMES_MAX = 8192;
const SMALL_RUN_NAMES = 2048;
const RUN_MS_MAX = 100;
const RUN_PAGES_MAX = 256;
const RUN_TOKEN_BYTES_MAX = 65_536;

// Of shards.
const SHARD_NAMES_MAX = 262_144;
const SHARD_SECONDS = 30;
const SHARD_RUN_MS_MAX = 3000;
const SMALL_SHARD_NAMES = 4096;
/** Of files whose size nothing tells: rather a shard that is too small than one that is many times too large. */
const GUESSED_SHARD_NAMES = 1000;
const TYPICAL_FILE_BYTES = 2048;

/** A job ends when its last runs do, and whoever has none of them waits: they are no more than a part of what was done before. */
const RUN_OF_SETTLED = 1 / 8;

/** How much is listed in one go: of one run. */
export interface RunSize {
  /**
   * Takes in the items of the run's next page, and tells whether those so far are enough. The run was begun `ms` ago: a slow
   * listing ends it early, as its files, and other workers, are waiting.
   */
  isEnoughWith(page: SourcePage['items'], ms: number): boolean;
}

/** What a worker knows of a job. */
interface Known {
  /** Files of it that this worker settled. */
  readonly settled: number;
  /** Of this worker; null: not known yet. */
  readonly filesPerSecond: number | null;
}

function share(settled: number, least: number, most: number): number {
  return Math.min(most, Math.max(least, settled * RUN_OF_SETTLED));
}

/**
 * For files on their own: as many pages as a worker fetches in half a second, at least one, and, of many names, no more than
 * an eighth of what it settled of the job.
 */
export function fileRun({ settled, filesPerSecond }: Known): RunSize {
  const names = Math.min(share(settled, SMALL_RUN_NAMES, RUN_NAMES_MAX), (filesPerSecond ?? 0) * RUN_SECONDS);
  let count = 0;
  let firstPage: number | null = null;
  return {
    isEnoughWith: ({ length }, ms) => {
      count += length;
      firstPage ??= length;
      return count + firstPage > names || ms > RUN_MS_MAX;
    },
  };
}

/**
 * For shards: until one is expected to be full, by listed sizes or the job's mean so far, or to take half a minute to fill,
 * or to hold an eighth of what this worker settled of the job. `null`: not known yet.
 */
export function shardRun(
  { shardBytes, bytesOf }: Pick<Shards, 'shardBytes' | 'bytesOf'>,
  { settled, meanBytes, filesPerSecond }: Known & { meanBytes: number | null },
): RunSize {
  const most = share(settled, SMALL_SHARD_NAMES, SHARD_NAMES_MAX);
  const names = Math.min(most, (filesPerSecond ?? Infinity) * SHARD_SECONDS);
  const guess = Math.max(bytesOf(TYPICAL_FILE_BYTES), Math.ceil(shardBytes / GUESSED_SHARD_NAMES));
  const typical = meanBytes === null ? guess : bytesOf(meanBytes);
  let count = 0;
  let bytes = 0;
  return {
    isEnoughWith: (page, ms) => {
      count += page.length;
      for (const item of page) bytes += 'bad' in item ? 0 : item.sizeBytes === null ? typical : bytesOf(item.sizeBytes);
      return count >= names || bytes >= shardBytes || ms > SHARD_RUN_MS_MAX;
    },
  };
}

/**
 * The most pages of a run that is begun for the `tries`th time: one of them may have killed its worker. So each try walks
 * fewer, until the page that does it is an entry by itself.
 */
export function runPagesMax(tries: number): number {
  return Math.ceil(RUN_PAGES_MAX / 4 ** (tries - 1));
}

/** Listing pages that are one entry of the chain. */
export interface Run {
  readonly tokens: readonly string[];
  readonly items: Items;
  readonly next: string | null;
  /** How many files all pages name, where that is known only now. */
  readonly filesTotal?: number | undefined;
}

/**
 * Lists an entry. `open`: it was not handed on, its one token begins a run; else `tokens` are the run, and whatever the
 * pages now say of "next" is ignored: the chain went on after what was heard the first time. At most `pagesMax` pages.
 * Throws FetchError: the entry cannot be listed. A later page of a first walk that fails just ends the run before it.
 */
export async function walk(
  source: ReturnType<typeof sourceOf>,
  tokens: readonly string[],
  open: boolean,
  get: GetListing,
  list: JobList,
  { size, pagesMax }: { size: RunSize; pagesMax: number },
): Promise<Run> {
  const read = (token: string): Promise<SourcePage> => source.read(token, get, list);
  const begun = performance.now();
  const first = await read(tokens[0] ?? '');
  const items = new Items(first.items);
  if (!open) {
    for (const token of tokens.slice(1)) items.add((await read(token)).items);
    return { tokens, items, next: null };
  }
  const walked = [...tokens];
  let last = first;
  let tokenBytes = Buffer.byteLength(tokens[0] ?? '');
  while (last.next !== null && walked.length < pagesMax && !size.isEnoughWith(last.items, performance.now() - begun)) {
    const { next } = last;
    tokenBytes += Buffer.byteLength(next);
    if (tokenBytes > RUN_TOKEN_BYTES_MAX) break;
    try {
      last = await read(next);
    } catch (error) {
      if (error instanceof FetchError) break;
      throw error;
    }
    walked.push(next);
    items.add(last.items);
  }
  return { tokens: walked, items, next: last.next, filesTotal: first.filesTotal };
}
