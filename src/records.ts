/** Records in a list of URLs: where each ends, whatever it says. Nothing here holds more than one of them. */

export const listFormats = ['text', 'csv', 'ndjson'] as const;
/** `text`: a record is a line. `csv`: also a line, or several where a field in quotes has line breaks (RFC 4180). */
export type ListFormat = (typeof listFormats)[number];

/** A longer record is cut there: none that is so long can be of use. */
const recordBytesMax = 65_536;

const [quote, comma, lineFeed, space] = [0x22, 0x2c, 0x0a, 0x20];

/**
 * Where the record that begins at `start` ends, its line break included; null: it goes on beyond these bytes. `last`: no
 * more follow. It does not depend on how many bytes there are behind it.
 */
export function recordEnd(bytes: Buffer, start: number, format: ListFormat, last: boolean): number | null {
  const whole = last || bytes.length - start >= recordBytesMax;
  const limit = Math.min(bytes.length, start + recordBytesMax);
  const line = bytes.indexOf(lineFeed, start);
  const lineEnd = line === -1 || line >= limit ? null : line + 1;
  if (format !== 'csv' || !bytes.subarray(start, lineEnd ?? limit).includes(quote)) {
    return lineEnd ?? (whole ? limit : null);
  }
  // A quote that is never closed spoils its own line, not all that follow.
  return quotedEnd(bytes, start, limit) ?? (whole ? (lineEnd ?? limit) : null);
}

/** The end of a CSV record with quotes in it; a quote counts at the begin of a field, and a pair of them is one inside. */
function quotedEnd(bytes: Buffer, start: number, limit: number): number | null {
  let inside = false;
  let fieldStart = true;
  for (let at = start; at < limit; at += 1) {
    const byte = bytes[at];
    if (inside) {
      if (byte !== quote) continue;
      if (bytes[at + 1] === quote) at += 1;
      else inside = false;
    } else if (byte === lineFeed) {
      return at + 1;
    } else {
      inside = byte === quote && fieldStart;
    }
    fieldStart = byte === comma;
  }
  return null;
}

/** Whether a record says nothing at all. */
export function isBlank(bytes: Buffer, start: number, end: number): boolean {
  for (let at = start; at < end; at += 1) if ((bytes[at] ?? 0) > space) return false;
  return true;
}

/** Lines that a record takes: 0 for one that was cut before its line break. */
export function linesIn(record: Buffer): number {
  let lines = 0;
  for (let at = record.indexOf(lineFeed); at !== -1; at = record.indexOf(lineFeed, at + 1)) lines += 1;
  return lines;
}

/** Bytes of a byte-order mark (UTF-8) that the list begins with. */
export function markBytes(head: Buffer): number {
  return head[0] === 0xef && head[1] === 0xbb && head[2] === 0xbf ? 3 : 0;
}

/** How many records there are that are not blank; neither a mark nor the header of a CSV is one. `chunks` are of any size. */
export async function countRecords(chunks: AsyncIterable<Buffer>, format: ListFormat): Promise<number> {
  let count = format === 'csv' ? -1 : 0;
  let rest: Buffer = Buffer.alloc(0);
  let isBegin = true;
  const take = (bytes: Buffer, last: boolean): void => {
    let start = isBegin ? markBytes(bytes) : 0;
    for (let end = recordEnd(bytes, start, format, last); end !== null && start < bytes.length;) {
      if (!isBlank(bytes, start, end)) count += 1;
      start = end;
      end = recordEnd(bytes, start, format, last);
    }
    isBegin &&= start === 0;
    rest = bytes.subarray(start);
  };
  for await (const chunk of chunks) take(rest.length === 0 ? chunk : Buffer.concat([rest, chunk]), false);
  take(rest, true);
  return Math.max(0, count);
}
