import type { FailureReason } from '../errors.ts';
import type { SourceSpec } from '../schemas.ts';
import { listing } from './listing.ts';

/** A file that a page of a source names. `origin` + `path` is its URL (`path` starts with "/" and holds the query). */
export interface SourceFile {
  readonly name: string;
  readonly origin: string;
  readonly path: string;
  /** What the listing says of its size, null where it says nothing. */
  readonly sizeBytes: number | null;
}

/** An item that is no file to fetch; it counts as listed and failed. */
export interface BadItem {
  /** What the item says, shortened to at most 200 characters. */
  readonly name: string;
  readonly url: string | null;
  readonly bad: FailureReason;
  readonly message: string;
}

export interface SourcePage {
  readonly items: readonly (SourceFile | BadItem)[];
  /** The token of the next page, null at the end. */
  readonly next: string | null;
}

/** A whole answer to a listing request: status 200, decoded, at most 100 MiB. `url` is where redirects ended. */
export interface ListingAnswer {
  readonly url: string;
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: Uint8Array;
}

/** Gets one URL of a listing, with the job's headers, limits and retries. Throws FetchError. */
export type GetListing = (url: string) => Promise<ListingAnswer>;

/**
 * Where a job's files are listed, page by page. A page is named by a token: a well-formed string of at most 16 KiB that is all a
 * worker needs to list that page, on any host, at any later time.
 */
export interface Source<Spec> {
  /** The first page's token. Pure. */
  first(spec: Spec): string;
  /**
   * Lists the page that `token` names. May run any number of times for one token, also at once on several workers; what
   * it returns may differ if the remote listing changed meanwhile. Throws FetchError: the page cannot be listed.
   */
  read(spec: Spec, token: string, get: GetListing): Promise<SourcePage>;
}

export const sources = { listing } satisfies { [K in SourceSpec['type']]: Source<Extract<SourceSpec, { type: K }>> };
