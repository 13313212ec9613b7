/** Members of a tar archive: POSIX.1-2024, pax, "ustar Interchange Format" and "pax Header Block". */
import type { BlockFile } from './block-file.ts';
import type { Layout } from './layout.ts';

const BLOCK = 512;
const [NAME_BYTES, PREFIX_AT, PREFIX_BYTES] = [100, 345, 155];
const [SIZE_AT, TIME_AT, SUM_AT, TYPE_AT] = [124, 136, 148, 156];
const sizeInHeaderMax = 8 ** 11 - 1;
const PAX_NAME = 'PaxHeaders/member';
// A name holds no NUL.
const plain = /^\p{ASCII}*$/u;

/** Two blocks of zeros. */
export const tarEnd = Buffer.alloc(2 * BLOCK);

/** The bytes that a body of this size takes in an archive, most names given. */
export function tarBytes(sizeBytes: number): number {
  return BLOCK + sizeBytes + padding(sizeBytes);
}

function padding(sizeBytes: number): number {
  return (BLOCK - (sizeBytes % BLOCK)) % BLOCK;
}

const same = { take: (piece: Uint8Array): Uint8Array => piece, end: (): void => {} };

export class TarLayout implements Layout {
  /** All that most headers have in common: whose the file is says nothing here, so it is root's, to be read by all. */
  readonly #common = Buffer.alloc(BLOCK);
  #seconds = 0;
  /** The sum of its bytes. */
  #sum = 0;

  constructor() {
    this.#common.write('0000644\x000000000\x000000000\x00', NAME_BYTES, 'latin1');
    this.#common.write('        0', SUM_AT, 'latin1');
    this.#common.write('ustar\x0000', 257, 'latin1');
    this.#setTime(0);
  }

  frameBytesMax(name: string): number {
    // Three bytes of UTF-8 for a unit of UTF-16 at most.
    return name.length <= NAME_BYTES && plain.test(name) ? 2 * BLOCK : 5 * BLOCK + 3 * name.length;
  }

  head(
    file: Pick<BlockFile, 'buffer' | 'used'>,
    name: string,
    _url: string,
    sizeBytes: number,
    seconds: number,
  ): number {
    if (seconds !== this.#seconds) this.#setTime(seconds);
    const { buffer } = file;
    let at = file.used;
    const isPlain = plain.test(name);
    if (isPlain && name.length <= NAME_BYTES && sizeBytes <= sizeInHeaderMax) {
      return this.#header(buffer, at, name, '', sizeBytes, '0');
    }
    const slash = isPlain ? name.indexOf('/', name.length - NAME_BYTES - 1) : -1;
    if (slash > 0 && slash <= PREFIX_BYTES && slash < name.length - 1 && sizeBytes <= sizeInHeaderMax) {
      return this.#header(buffer, at, name.slice(slash + 1), name.slice(0, slash), sizeBytes, '0');
    }
    const records = Buffer.from(paxRecord('path', name) + paxRecord('size', `${sizeBytes}`));
    at = this.#header(buffer, at, PAX_NAME, '', records.length, 'x');
    records.copy(buffer, at);
    at = this.tail(buffer, at + records.length, records.length);
    return this.#header(buffer, at, PAX_NAME, '', Math.min(sizeBytes, sizeInHeaderMax), '0');
  }

  tail(buffer: Buffer, at: number, sizeBytes: number): number {
    const end = at + padding(sizeBytes);
    buffer.fill(0, at, end);
    return end;
  }

  whole(body: Uint8Array): Uint8Array {
    return body;
  }

  pieces(): typeof same {
    return same;
  }

  #setTime(seconds: number): void {
    this.#seconds = seconds;
    writeOctal(this.#common, TIME_AT, 11, seconds);
    this.#sum = 0;
    for (const byte of this.#common) this.#sum += byte;
  }

  /** `name` and `prefix` are ASCII. The sum is counted from the bytes that differ from the common ones alone. */
  #header(buffer: Buffer, at: number, name: string, prefix: string, sizeBytes: number, type: '0' | 'x'): number {
    buffer.set(this.#common, at);
    let sum = this.#sum + writeAscii(buffer, at, name) + writeAscii(buffer, at + PREFIX_AT, prefix);
    sum += writeOctal(buffer, at + SIZE_AT, 11, sizeBytes);
    if (type === 'x') {
      buffer[at + TYPE_AT] = 0x78;
      sum += 0x78 - 0x30;
    }
    writeOctal(buffer, at + SUM_AT, 6, sum);
    buffer[at + SUM_AT + 6] = 0;
    return at + BLOCK;
  }
}

/** Returns the sum of the bytes. */
function writeAscii(buffer: Buffer, at: number, text: string): number {
  let sum = 0;
  for (let index = 0; index < text.length; index += 1) {
    const code = text.charCodeAt(index);
    buffer[at + index] = code;
    sum += code;
  }
  return sum;
}

/** Returns the sum of the digits' bytes. */
function writeOctal(buffer: Buffer, at: number, digits: number, value: number): number {
  let sum = 0;
  let rest = value;
  for (let index = digits - 1; index >= 0; index -= 1) {
    const digit = 0x30 + (rest % 8);
    buffer[at + index] = digit;
    sum += digit;
    rest = Math.floor(rest / 8);
  }
  return sum;
}

/** "LENGTH keyword=value\n", where LENGTH counts its own digits. */
function paxRecord(keyword: string, value: string): string {
  const rest = ` ${keyword}=${value}\n`;
  const restBytes = Buffer.byteLength(rest);
  let bytes = restBytes + 1;
  while (bytes !== restBytes + `${bytes}`.length) bytes = restBytes + `${bytes}`.length;
  return bytes + rest;
}
