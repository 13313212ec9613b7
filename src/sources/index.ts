import type { TSchema } from 'typebox';
import type { FailureReason, FieldError } from '../errors.ts';
import type { AddressPolicy } from '../ssrf.ts';
import type { JobList, SaveTo, UrlFiles } from '../url-files.ts';
import { filtered, type Filter } from './filter.ts';
import { listing } from './listing.ts';
import { range } from './range.ts';
import { urls } from './urls.ts';

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
  /** How many files all pages name, where that is known only now. */
  readonly filesTotal?: number;
}

/** A whole answer to a listing request: status 200, decoded, at most 100 MiB. `url` is where redirects ended. */
export interface ListingAnswer {
  readonly url: string;
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  /** Empty where it was saved. */
  readonly body: Uint8Array;
}

/**
 * Gets one URL of a listing, with the job's limits and retries, and its headers where they may go. `into`: the body is
 * written there instead of being held. Throws FetchError.
 */
export type GetListing = (url: string, into?: SaveTo) => Promise<ListingAnswer>;

/**
 * A kind of source: where a job's files are listed, page by page. A page is named by a token: a well-formed string of at
 * most 16 KiB that is all a worker needs to list that page, on any host, at any later time. No two pages of a job have
 * the same one. `Request`: how it is ordered; `Spec`: how it is stored and shown.
 */
export interface Source<Request extends { type: string }, Spec extends { type: string }> {
  readonly schema: TSchema;
  /** The schema of `Spec`, where it is not that of `Request`. */
  readonly shownSchema?: TSchema;
  /** What the schema cannot say; the pointers lead into the source. */
  check(request: Request, mayReach: AddressPolicy): Iterable<FieldError>;
  /** With every default. Pure. */
  withDefaults(request: Request): Spec;
  /**
   * What is to be done before a job is stored; gives what is to be stored. What it leaves in `files` for a job that is not
   * stored after all is removed. Throws Problem.
   */
  prepare?(request: Request, jobId: string, files: UrlFiles): Promise<Spec>;
  /** Whether each page is a request to a server. */
  readonly asksForPages: boolean;
  /** The one origin that the job's headers may be sent to, null where there is none. */
  headersOrigin(spec: Spec): string | null;
  /** How many files there are, null where only the pages tell. */
  filesTotal(spec: Spec): number | null;
  /** The first page's token. Pure. */
  first(spec: Spec): string;
  /**
   * Lists the page that `token` names. May run any number of times for one token, also at once on several workers; what
   * it returns may differ if the remote listing changed meanwhile. `list`: the job's own file. Throws FetchError: the page
   * cannot be listed.
   */
  read(spec: Spec, token: string, get: GetListing, list: JobList): Promise<SourcePage>;
}

/** Has the compiler check that each kind is listed under its own type. */
function kinds<T extends { [K in keyof T]: Source<{ type: K & string }, { type: K & string }> }>(all: T): T {
  return all;
}

/** Every kind there is. */
export const sources = kinds({ listing, range, urls });

type Kinds = typeof sources;
export type SourceRequest = { [K in keyof Kinds]: Parameters<Kinds[K]['check']>[0] }[keyof Kinds];
export type SourceSpec = { [K in keyof Kinds]: ReturnType<Kinds[K]['withDefaults']> }[keyof Kinds];

/** The kind of a source. */
export function kindOf({ type }: { type: keyof Kinds }): Source<SourceRequest, SourceSpec> {
  return sources[type];
}

/** A job's source, with what its filter leaves of it. */
export function sourceOf({ source, filter }: { source: SourceSpec; filter: Filter }) {
  const kind = kindOf(source);
  return filtered(filter, {
    filesTotal: kind.filesTotal(source),
    first: () => kind.first(source),
    read: (token: string, get: GetListing, list: JobList) => kind.read(source, token, get, list),
  });
}
