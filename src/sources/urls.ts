/** Files by their URLs: a list in the order itself, an upload, or a manifest. A page's token is where it begins: "byte line". */
import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { FetchError, systemCode } from '../errors.ts';
import { countRecords, isBlank, linesIn, markBytes, recordEnd, type ListFormat } from '../records.ts';
import type { JobList } from '../url-files.ts';
import type { Source, SourcePage } from './index.ts';
import { fromCsv, fromJson, fromText, type FoundRecord } from './url-records.ts';
import {
  checkUrls,
  fillUrls,
  headersOriginOf,
  prepareUrls,
  UrlsSourceSchema,
  UrlsShownSchema,
  type UrlsRequest,
  type UrlsSpec,
} from './urls-spec.ts';

const firstToken = '0 1';
const [lineFeed, carriageReturn] = [0x0a, 0x0d];
const pageRecords = 1000;
/** What is read for a page; a page ends with the records that are whole in it, of which there is one at least. */
const pageBytes = 262_144;

export const urls: Source<UrlsRequest, UrlsSpec> = {
  schema: UrlsSourceSchema,
  shownSchema: UrlsShownSchema,
  check: checkUrls,
  withDefaults: fillUrls,
  prepare: prepareUrls,
  asksForPages: false,
  headersOrigin: headersOriginOf,
  filesTotal: ({ urls }) => urls ?? null,
  first: () => firstToken,

  async read(spec, token, get, list) {
    const manifest = token === firstToken ? spec.manifestUrl : undefined;
    if (manifest !== undefined) await list.download(async (into) => void (await get(manifest, into)));
    return reading(async () => {
      const page = await readPage(spec, token, list);
      if (manifest === undefined) return page;
      return { ...page, filesTotal: await countRecords(createReadStream(list.path), spec.format) };
    });
  },
};

/** Reads so many bytes of the list from there on, or as many as there are. */
type Read = (from: number, length: number) => Promise<Buffer>;

async function readPage(spec: UrlsSpec, token: string, list: JobList): Promise<SourcePage> {
  const file = await open(list.path);
  try {
    const { size } = await file.stat();
    const read: Read = async (from, length) => {
      const bytes = Buffer.allocUnsafe(Math.min(length, Math.max(0, size - from)));
      for (let at = 0; at < bytes.length;) {
        // On a network's file system it may be less than there is.
        const { bytesRead } = await file.read(bytes, at, bytes.length - at, from + at);
        if (bytesRead === 0) throw new FetchError('bad_listing', 'the list of URLs has become shorter');
        at += bytesRead;
      }
      return bytes;
    };
    return await pageOf(spec, token, size, read);
  } finally {
    await file.close();
  }
}

/** The system's errors as the page's. */
async function reading(work: () => Promise<SourcePage>): Promise<SourcePage> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof FetchError) throw error;
    const message = `the list of URLs cannot be read (${systemCode(error)}); all hosts must share DATA_DIR`;
    throw new FetchError('bad_listing', message, { cause: error });
  }
}

async function pageOf(spec: UrlsSpec, token: string, size: number, read: Read): Promise<SourcePage> {
  const { format } = spec;
  let at = placeOf(token);
  const head = format === 'csv' || at.byte === 0 ? await read(0, pageBytes) : Buffer.alloc(0);
  if (at.byte === 0) at = { byte: markBytes(head), line: 1 };
  let header: Buffer = Buffer.alloc(0);
  if (format === 'csv') {
    const first = recordsIn(head, { byte: markBytes(head), line: 1 }, format, head.length === size, 1);
    header = first.records[0]?.bytes ?? header;
    if (token === firstToken) at = first.end;
  }
  const bytes = await read(at.byte, pageBytes);
  const last = at.byte + bytes.length >= size;
  const { records, end } = recordsIn(bytes, { byte: 0, line: at.line }, format, last, pageRecords);
  const next = at.byte + end.byte < size ? `${at.byte + end.byte} ${end.line}` : null;
  if (format === 'text') return { items: fromText(records), next };
  return { items: format === 'csv' ? fromCsv(records, header, spec) : fromJson(records, spec), next };
}

interface Place {
  readonly byte: number;
  /** From 1. */
  readonly line: number;
}

function placeOf(token: string): Place {
  const [byte = 0, line = 0] = token.split(' ').map(Number);
  return { byte, line };
}

/** The records from a place in these bytes on, at most `most`, and where they end. `last`: no more bytes follow. */
function recordsIn(
  bytes: Buffer,
  from: Place,
  format: ListFormat,
  last: boolean,
  most: number,
): { records: FoundRecord[]; end: Place } {
  const records: FoundRecord[] = [];
  let { byte, line } = from;
  while (byte < bytes.length && records.length < most) {
    const end = recordEnd(bytes, byte, format, last);
    if (end === null) break;
    const whole = bytes.subarray(byte, end);
    if (!isBlank(bytes, byte, end)) records.push({ bytes: withoutBreak(whole), line });
    line += linesIn(whole);
    byte = end;
  }
  return { records, end: { byte, line } };
}

function withoutBreak(record: Buffer): Buffer {
  let end = record.length;
  if (record[end - 1] === lineFeed) end -= 1;
  if (record[end - 1] === carriageReturn) end -= 1;
  return record.subarray(0, end);
}
