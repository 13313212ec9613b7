/** A listing in JSON over HTTP, page by page. A token is the URL of a page. */
import { FetchError } from '../errors.ts';
import type { ListingAnswer, Source } from './index.ts';
import { follow, parsePointer } from './json-pointer.ts';
import { nextLink } from './link-header.ts';
import { ItemReader, textOf } from './listing-items.ts';
import {
  checkListing,
  fillListing,
  ListingSourceSchema,
  type ListingRequest,
  type ListingSourceSpec,
} from './listing-spec.ts';

const tokenBytesMax = 16_384;
/** As items in memory, these are many times what they were in the body. */
const namesMax = 1_000_000;
const shownFieldsMax = 10;
const defaultNextFields = ['/NextMarker', '/NextFile'];

/** One page as it was read, for those who look for the next. */
interface Page {
  readonly token: string;
  readonly answer: ListingAnswer;
  readonly content: unknown;
  readonly itemCount: number;
}

export const listing: Source<ListingRequest, ListingSourceSpec> = {
  schema: ListingSourceSchema,
  check: checkListing,
  withDefaults: fillListing,
  asksForPages: true,
  headersOrigin: ({ url }) => new URL(url).origin,
  filesTotal: () => null,

  first({ url, next }) {
    const first = sourceUrl(url);
    if (next.in === 'body' || next.in === 'link') return first;
    return withParam(first, next.param ?? next.in, String(next.first ?? (next.in === 'page' ? 1 : 0)));
  },

  async read(spec, token, get) {
    const reader = readerOf(spec);
    const answer = await get(token);
    const content = parsePage(answer.body);
    const list = listOf(content, spec.namesField);
    if (list.length > namesMax) throw new FetchError('too_large', `the page has more than ${namesMax} names`);
    const items = list.map((item) => reader.read(item, answer.url));
    const next = nextToken(spec, { token, answer, content, itemCount: list.length });
    if (next !== null && next.length > tokenBytesMax) {
      throw bad(`the URL of the next page is longer than ${tokenBytesMax} bytes`);
    }
    return { items, next };
  },
};

const readers = new WeakMap<ListingSourceSpec, ItemReader>();

function readerOf(spec: ListingSourceSpec): ItemReader {
  const known = readers.get(spec);
  if (known !== undefined) return known;
  const reader = new ItemReader(spec);
  readers.set(spec, reader);
  return reader;
}

/** UTF-8 (RFC 8259, section 8.1), with or without a byte-order mark. */
function parsePage(body: Uint8Array): unknown {
  if (body.length === 0) throw new FetchError('not_json', 'the page is empty, not JSON');
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body));
  } catch (error) {
    const start = new TextDecoder().decode(body.subarray(0, 320)).slice(0, 80).toWellFormed();
    throw new FetchError('not_json', `the page is not JSON; it begins with ${JSON.stringify(start)}`, { cause: error });
  }
}

function listOf(content: unknown, namesField: string): readonly unknown[] {
  const list = follow(content, parsePointer(namesField));
  if (Array.isArray(list)) return list;
  // How servers written in Go put an empty list.
  if (list === null && namesField !== '') return [];
  if (namesField === '') throw bad(`the page is ${describe(content)}, not a list`);
  if (list === undefined) throw bad(`the page has no "${namesField}"; it is ${describe(content)}`);
  throw bad(`"${namesField}" is ${describe(list)}, not a list`);
}

/** The token of the page after this one, null where this is the last. */
function nextToken(spec: ListingSourceSpec, page: Page): string | null {
  const { next } = spec;
  if (next.in === 'body') return nextInBody(spec, next.field, page.content);
  if (next.in === 'link') return nextInLink(spec, page.answer);
  if (page.itemCount === 0) return null;
  const param = next.param ?? next.in;
  const current = Number(new URL(page.token).searchParams.get(param));
  return withParam(sourceUrl(spec.url), param, String(current + (next.in === 'page' ? 1 : page.itemCount)));
}

function nextInBody(spec: ListingSourceSpec, field: string | undefined, content: unknown): string | null {
  const fields = field === undefined || field === defaultNextFields[0] ? defaultNextFields : [field];
  for (const name of fields) {
    const value = follow(content, parsePointer(name));
    if (value === undefined || value === null || value === '') continue;
    const marker = textOf(value);
    if (marker === null) throw bad(`"${name}" is ${describe(value)}, not a token`);
    const url = /^https?:\/\//i.test(marker) ? URL.parse(marker) : null;
    if (url !== null && url.origin === new URL(spec.url).origin) return pageUrl(url, spec);
    return withParam(sourceUrl(spec.url), spec.markerParam, marker);
  }
  return null;
}

function nextInLink(spec: ListingSourceSpec, answer: ListingAnswer): string | null {
  const header = [answer.headers['link'] ?? []].flat().join(', ');
  let target: string | null;
  try {
    target = nextLink(header);
  } catch (error) {
    throw bad(error instanceof Error ? error.message : String(error));
  }
  if (target === null) return null;
  const url = URL.parse(target, answer.url);
  if (url === null) throw bad('the next link is not a URL');
  return pageUrl(url, spec);
}

/** A URL that the listing itself gave. The job's headers belong to the source's origin: they go nowhere else. */
function pageUrl(url: URL, spec: ListingSourceSpec): string {
  const { origin } = new URL(spec.url);
  if (url.origin !== origin) throw bad(`the next page is at ${url.origin}, the source at ${origin}`);
  if (url.username !== '' || url.password !== '') throw bad('the URL of the next page holds credentials');
  return sourceUrl(url.href);
}

/** The URL in its normal form, without a fragment. */
function sourceUrl(text: string): string {
  const url = new URL(text);
  url.hash = '';
  return url.href;
}

/**
 * Sets a parameter of the query, in place of what it was. All else stays to the byte: a query may be signed, and
 * URLSearchParams would write it anew.
 */
function withParam(url: string, param: string, value: string): string {
  const [path = '', ...query] = url.split('?');
  const pairs = query.join('?').split('&');
  const others = pairs.filter((pair) => pair !== '' && !new URLSearchParams(pair).has(param));
  if (!value.isWellFormed()) throw bad('the token of the next page holds half a surrogate pair');
  return `${path}?${[...others, `${encodeURIComponent(param)}=${encodeURIComponent(value)}`].join('&')}`;
}

function bad(message: string): FetchError {
  return new FetchError('bad_listing', message);
}

function describe(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value !== 'object') return `a ${typeof value}`;
  const fields = Object.keys(value).slice(0, shownFieldsMax);
  return `an object with ${fields.length === 0 ? 'no fields' : fields.map((name) => `"${name.slice(0, 40)}"`).join(', ')}`;
}
