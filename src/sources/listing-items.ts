/** From the items of a listing's page to files with their URLs. Runs once for each file. */
import { randomUUID } from 'node:crypto';
import { FetchError, type FailureReason } from '../errors.ts';
import { checkName } from '../names.ts';
import { urlCharactersMax } from '../schema-parts.ts';
import type { BadItem, SourceFile } from './index.ts';
import { follow, parsePointer, type JsonPointer } from './json-pointer.ts';
import type { ListingSourceSpec } from './listing-spec.ts';

const shownCharactersMax = 200;
const nameCharactersMax = 4096;

// Nearly every name is of this form: safe to store and the same in a URL. Whatever is not takes the long way.
const plain = /^[\w-][\w.~-]{0,254}(?:\/[\w-][\w.~-]{0,254})*$/;

interface Fields {
  readonly name: JsonPointer | null;
  readonly size: JsonPointer | null;
  readonly url: JsonPointer | null;
}

/** Reads the items of one source. */
export class ItemReader {
  readonly #origin: string;
  /** The path of `fileUrl`, split where the name goes. */
  readonly #pieces: readonly string[];
  readonly #fields: Fields;

  /** Throws FetchError (`bad_listing`) where `fileUrl` gives no URL with the name in its path or query. */
  constructor(spec: ListingSourceSpec) {
    const mark = randomUUID();
    const url = URL.parse(spec.fileUrl.replaceAll('{name}', mark), spec.url);
    this.#origin = url?.origin ?? '';
    this.#pieces = url === null ? [] : `${url.pathname}${url.search}`.split(mark);
    if (this.#pieces.length < 2) throw new FetchError('bad_listing', 'fileUrl has no {name} in its path or query');
    this.#fields = {
      name: optionalPointer(spec.nameField),
      size: optionalPointer(spec.sizeField),
      url: optionalPointer(spec.urlField),
    };
  }

  /** The file that an item names. `pageUrl`: where the page came from, for URLs relative to it. */
  read(item: unknown, pageUrl: string): SourceFile | BadItem {
    if (typeof item === 'string' && plain.test(item) && item.length <= nameCharactersMax) return this.#file(item, item);
    const text = textOf(item);
    if (text !== null) return this.#named(text, null);
    if (typeof item !== 'object' || item === null || this.#fields.name === null) {
      return bad('bad_item', item, 'the item is neither a name nor an object with one');
    }
    const name = textOf(follow(item, this.#fields.name));
    if (name === null) return bad('bad_item', item, 'the item has no name');
    const sizeBytes = this.#fields.size === null ? null : sizeOf(follow(item, this.#fields.size));
    if (sizeBytes === undefined) return bad('bad_item', item, 'the size is not a whole number of bytes');
    if (this.#fields.url === null) return this.#named(name, sizeBytes);
    const unsafe = checkName(name);
    if (unsafe !== null) return bad('unsafe_name', name, unsafe);
    const url = fileUrlOf(follow(item, this.#fields.url), pageUrl);
    if (url === null) return bad('bad_item', item, 'the URL is not one that a file can be fetched from');
    return { name, origin: url.origin, path: `${url.pathname}${url.search}`, sizeBytes };
  }

  #named(name: string, sizeBytes: number | null): SourceFile | BadItem {
    const unsafe = checkName(name);
    if (unsafe !== null) return bad('unsafe_name', name, unsafe);
    return this.#file(name, name.split('/').map(encodeURIComponent).join('/'), sizeBytes);
  }

  #file(name: string, encoded: string, sizeBytes: number | null = null): SourceFile {
    return { name, origin: this.#origin, path: this.#pieces.join(encoded), sizeBytes };
  }
}

function optionalPointer(text: string | undefined): JsonPointer | null {
  return text === undefined ? null : parsePointer(text);
}

/** A string or a number as text; null for all else, and for a number whose digits JSON.parse has already lost. */
export function textOf(value: unknown): string | null {
  if (typeof value === 'string') return value;
  if (typeof value !== 'number' || !Number.isFinite(value)) return null;
  return Number.isInteger(value) && !Number.isSafeInteger(value) ? null : String(value);
}

/** Null where the listing says nothing of the size, undefined where it says nonsense. */
function sizeOf(value: unknown): number | null | undefined {
  if (value === undefined || value === null) return null;
  const size = typeof value === 'string' && /^\d+$/.test(value) ? Number(value) : value;
  return typeof size === 'number' && Number.isSafeInteger(size) && size >= 0 ? size : undefined;
}

function fileUrlOf(value: unknown, pageUrl: string): URL | null {
  if (typeof value !== 'string' || value.length > urlCharactersMax) return null;
  const url = URL.parse(value, pageUrl);
  if (url === null || (url.protocol !== 'http:' && url.protocol !== 'https:')) return null;
  return url.username === '' && url.password === '' ? url : null;
}

function bad(reason: FailureReason, item: unknown, message: string): BadItem {
  // The cut may fall into a surrogate pair.
  const name = jsonText(item).slice(0, shownCharactersMax).toWellFormed();
  return { name, url: null, bad: reason, message };
}

function jsonText(item: unknown): string {
  if (typeof item === 'string') return item;
  try {
    return JSON.stringify(item);
  } catch {
    // JSON.parse goes deeper into lists of lists than JSON.stringify.
    return 'an item that is nested too deeply';
  }
}
