/** From the records of a list to files with their URLs. Runs once for each file. */
import { isUtf8 } from 'node:buffer';
import { parse } from 'csv-parse/sync';
import { FetchError } from '../errors.ts';
import { checkName } from '../names.ts';
import { urlCharactersMax } from '../schema-parts.ts';
import { follow, parsePointer } from './json-pointer.ts';
import type { BadItem, SourceFile } from './index.ts';
import { nameOfUrl } from './url-names.ts';

const shownCharactersMax = 200;
const shownColumnsMax = 10;

/** A record as it was found. */
export interface FoundRecord {
  /** Without its line break. */
  readonly bytes: Buffer;
  /** The line it begins on, from 1. */
  readonly line: number;
}

/** Where a record has its URL and its name: a column's name, a member's, or a JSON Pointer. */
export interface RecordFields {
  readonly urlField: string;
  readonly nameField: string;
}

interface Entry {
  readonly url: unknown;
  readonly name: unknown;
}

/** Lines of a URL, or of a URL, a tab and a name. */
export function fromText(records: readonly FoundRecord[]): (SourceFile | BadItem)[] {
  return records.map((record) =>
    itemOf(record, (text) => {
      const [url = '', name] = text.split('\t', 2);
      return { url: url.trim(), name: name?.trim() };
    }),
  );
}

/** Lines of JSON: strings, or objects with a URL and perhaps a name. */
export function fromJson(records: readonly FoundRecord[], fields: RecordFields): (SourceFile | BadItem)[] {
  const [urlAt, nameAt] = [pathOf(fields.urlField), pathOf(fields.nameField)];
  return records.map((record) =>
    itemOf(record, (text) => {
      let value: unknown;
      try {
        value = JSON.parse(text);
      } catch {
        return 'is not JSON';
      }
      if (typeof value === 'string') return { url: value, name: undefined };
      return { url: follow(value, urlAt), name: follow(value, nameAt) };
    }),
  );
}

/** Records of a CSV whose columns `header` names. Throws FetchError (`bad_listing`): it has no column for the URL. */
export function fromCsv(
  records: readonly FoundRecord[],
  header: Buffer,
  fields: RecordFields,
): (SourceFile | BadItem)[] {
  const columns = cellsOf(header) ?? [];
  const [urlAt, nameAt] = [columns.indexOf(fields.urlField), columns.indexOf(fields.nameField)];
  if (urlAt === -1) {
    const found = columns.slice(0, shownColumnsMax).map((name) => JSON.stringify(name.slice(0, 40)));
    throw new FetchError('bad_listing', `the list has no column "${fields.urlField}"; it has ${found.join(', ')}`);
  }
  const rows = rowsOf(records);
  return records.map((record, index) =>
    itemOf(record, () => {
      const cells = rows[index];
      return cells == null ? 'is not CSV (RFC 4180)' : { url: cells[urlAt], name: cells[nameAt] };
    }),
  );
}

/** All rows at once is many times faster; one that cannot be read is then found by itself. */
function rowsOf(records: readonly FoundRecord[]): readonly (string[] | null)[] {
  const all = rowsIn(Buffer.concat(records.flatMap(({ bytes }) => [bytes, Buffer.from('\n')])));
  return all?.length === records.length ? all : records.map(({ bytes }) => cellsOf(bytes));
}

function cellsOf(record: Buffer): string[] | null {
  return rowsIn(record)?.[0] ?? null;
}

function rowsIn(bytes: Buffer): string[][] | null {
  try {
    const how = { relax_column_count: true, skip_empty_lines: true, record_delimiter: ['\r\n', '\n'] };
    return parse(bytes, how);
  } catch {
    return null;
  }
}

function pathOf(field: string): readonly string[] {
  return field.startsWith('/') ? parsePointer(field) : [field];
}

/** `read` gives what a record says, or what is wrong with it. */
function itemOf({ bytes, line }: FoundRecord, read: (text: string) => Entry | string): SourceFile | BadItem {
  const text = bytes.toString();
  const said = isUtf8(bytes) ? read(text) : 'is not UTF-8';
  return typeof said === 'string' ? bad(line, text, said) : (fileOf(said) ?? bad(line, text, problemOf(said)));
}

/** The file of a URL and perhaps a name; null where they are none. */
export function fileOf({ url: text, name: given }: Entry): SourceFile | BadItem | null {
  const url = typeof text === 'string' && text.length <= urlCharactersMax ? URL.parse(text) : null;
  if (url === null || !/^https?:$/.test(url.protocol) || url.username !== '' || url.password !== '') return null;
  if (given !== undefined && given !== null && typeof given !== 'string') return null;
  const name = given || nameOfUrl(url);
  const unsafe = checkName(name);
  if (unsafe !== null) return { name: shown(name), url: url.href, bad: 'unsafe_name', message: unsafe };
  return { name, origin: url.origin, path: url.pathname + url.search, sizeBytes: null };
}

function problemOf({ url, name }: Entry): string {
  if (url === undefined || url === null || url === '') return 'has no URL';
  if (name !== undefined && name !== null && typeof name !== 'string') return 'has a name that is not text';
  return `has no http or https URL without credentials, of at most ${urlCharactersMax} characters`;
}

function bad(line: number, text: string, problem: string): BadItem {
  return { name: shown(text), url: null, bad: 'bad_item', message: `line ${line} ${problem}` };
}

/** The cut may fall into a surrogate pair. */
function shown(text: string): string {
  return text.slice(0, shownCharactersMax).toWellFormed();
}
