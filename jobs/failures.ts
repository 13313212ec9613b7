/** The failures stream of a job: how a failure is kept there, and how failures are read and fetched again. */
import type { Redis } from 'ioredis';
import type { FailureReason } from '../src/errors.ts';
import type { Failure } from '../src/schemas.ts';
import type { SourceFile } from '../src/sources/index.ts';
import { jobKeys, type FailedRange } from './store.ts';

const MESSAGE_CHARACTERS_MAX = 1000;
const BATCH = 500;
/** How much one call looks through for failures that match; the next call goes on from there. */
const BATCHES_MAX = 40;
/** Failures that are fetched again as one page. */
const RANGE_PAGE = 1000;

/** The size that is listed for a file, if one is. `never`: what failed is no file to fetch. */
export type Refetch = number | null | 'never';

/** A failure as it is kept in Redis: short, since there may be a hundred thousand of them, and one line. */
export function packFailure(failure: Failure, refetch: Refetch): string {
  const { name, url, reason, statusCode, attempts, message, at } = failure;
  const packed = [name.toWellFormed(), url, reason, statusCode, attempts, short(message), Date.parse(at), refetch];
  return JSON.stringify(packed);
}

/** What `packFailure` packed. */
export function unpackFailure(packed: string): { failure: Failure; refetch: Refetch } {
  const [name, url, reason, statusCode, attempts, message, at, refetch] = JSON.parse(packed) as [
    string,
    string | null,
    FailureReason,
    number | null,
    number,
    string,
    number,
    Refetch,
  ];
  return { failure: { name, url, reason, statusCode, attempts, message, at: new Date(at).toISOString() }, refetch };
}

type Kept = { readonly id: string } & ReturnType<typeof unpackFailure>;

async function read(redis: Redis, job: string, after: string | null, upTo: string, count: number): Promise<Kept[]> {
  const from = after === null ? '-' : `(${after}`;
  const entries = await redis.xrange(jobKeys(job).failures, from, upTo, 'COUNT', count);
  return entries.map(([id, fields]) => Object.assign(unpackFailure(fields[1] ?? ''), { id }));
}

/** Failures, oldest first. `cursor`: what the page before gave as `nextCursor`, null at the end. */
export async function failuresPage(
  redis: Redis,
  job: string,
  query: { reason?: string; limit: number; cursor?: string },
): Promise<{ failures: Failure[]; nextCursor: string | null }> {
  const failures: Failure[] = [];
  const size = query.reason === undefined ? query.limit + 1 : BATCH;
  let after = query.cursor ?? null;
  for (let batches = 0; batches < BATCHES_MAX; batches += 1) {
    const entries = await read(redis, job, after, '+', size);
    for (const { id, failure } of entries) {
      if (query.reason === undefined || failure.reason === query.reason) {
        if (failures.length === query.limit) return { failures, nextCursor: after };
        failures.push(failure);
      }
      after = id;
    }
    if (entries.length < size) return { failures, nextCursor: null };
  }
  return { failures, nextCursor: after };
}

/** One batch of all failures, oldest first, and where the next begins; null: none is left. */
export async function failuresAfter(
  redis: Redis,
  job: string,
  after: string | null,
): Promise<{ failures: Failure[]; last: string } | null> {
  const entries = await read(redis, job, after, '+', BATCH);
  const last = entries.at(-1)?.id;
  return last === undefined ? null : { failures: entries.map(({ failure }) => failure), last };
}

/** A page of failures that are to be fetched again. */
export interface FailedPage {
  /** The page's own part of the range. */
  readonly own: FailedRange;
  /** What is left of it, null at the end. */
  readonly rest: FailedRange | null;
  readonly items: readonly SourceFile[];
  /** The failures themselves, one for each item. */
  readonly failed: readonly { id: string; reason: FailureReason }[];
}

/**
 * The first page of a range of failures. Those that are no files to fetch are left as they are. The same range gives the same
 * page until its failures are taken out.
 */
export async function readFailed(redis: Redis, job: string, range: FailedRange): Promise<FailedPage> {
  const entries = await read(redis, job, range.after, range.upTo, RANGE_PAGE);
  const last = entries.length < RANGE_PAGE ? range.upTo : (entries.at(-1)?.id ?? range.upTo);
  const items: SourceFile[] = [];
  const failed: { id: string; reason: FailureReason }[] = [];
  for (const { id, failure, refetch } of entries) {
    const { name, url, reason, statusCode } = failure;
    if (refetch === 'never' || url === null) continue;
    if (range.reason !== null && range.reason !== reason) continue;
    if (range.statusCode !== null && range.statusCode !== statusCode) continue;
    const { origin } = new URL(url);
    // Cut, not parsed: it is asked for again exactly as it was.
    items.push({ name, origin, path: url.slice(origin.length), sizeBytes: refetch });
    failed.push({ id, reason });
  }
  return { own: { ...range, upTo: last }, rest: last === range.upTo ? null : { ...range, after: last }, items, failed };
}

/** The failure that was kept last, and where it stands in the stream of failures; null where there is none. */
export async function readNewestFailure(redis: Redis, job: string): Promise<{ at: string; failure: Failure } | null> {
  const [newest] = await redis.xrevrange(jobKeys(job).failures, '+', '-', 'COUNT', 1);
  return newest === undefined ? null : { at: newest[0], failure: unpackFailure(newest[1][1] ?? '').failure };
}

function short(text: string): string {
  return text.slice(0, MESSAGE_CHARACTERS_MAX).toWellFormed();
}
