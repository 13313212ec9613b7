import { FetchError } from '../src/errors.ts';
import type { JobSpec } from '../src/schemas.ts';
import { sources, type GetListing, type SourcePage } from '../src/sources/index.ts';

/** Pages with fewer names than this are walked several in one go, so that the chain is not the bottleneck. */
const TINY_PAGE_NAMES = 64;
const RUN_NAMES = 1000;
const RUN_PAGES_MAX = 256;
const RUN_TOKEN_BYTES_MAX = 65_536;
/** A slow listing ends a run early: its files, and other workers, are waiting. */
const RUN_MS_MAX = 1000;

/** Listing pages that are one entry of the chain. */
export interface Run {
  readonly tokens: readonly string[];
  readonly items: SourcePage['items'];
  readonly next: string | null;
}

/**
 * Lists an entry. `open`: it was not handed on, its one token begins a run; else `tokens` are the run, and whatever the
 * pages now say of "next" is ignored: the chain went on after what was heard the first time. At most `pagesMax` pages.
 * Throws FetchError: the entry cannot be listed. A later page of a first walk that fails just ends the run before it.
 */
export async function walk(
  spec: JobSpec,
  tokens: readonly string[],
  open: boolean,
  get: GetListing,
  pagesMax = RUN_PAGES_MAX,
): Promise<Run> {
  const read = (token: string): Promise<SourcePage> => sources[spec.source.type].read(spec.source, token, get);
  const first = await read(tokens[0] ?? '');
  let { items } = first;
  if (!open) {
    for (const token of tokens.slice(1)) items = items.concat((await read(token)).items);
    return { tokens, items, next: null };
  }
  const walked = [...tokens];
  let { next } = first;
  let tokenBytes = Buffer.byteLength(tokens[0] ?? '');
  const begun = performance.now();
  const names = items.length < TINY_PAGE_NAMES ? RUN_NAMES : 0;
  while (next !== null && items.length < names && walked.length < pagesMax) {
    tokenBytes += Buffer.byteLength(next);
    if (tokenBytes > RUN_TOKEN_BYTES_MAX || performance.now() - begun > RUN_MS_MAX) break;
    let page: SourcePage;
    try {
      page = await read(next);
    } catch (error) {
      if (error instanceof FetchError) break;
      throw error;
    }
    walked.push(next);
    items = items.concat(page.items);
    next = page.next;
  }
  return { tokens: walked, items, next };
}
