/**
 * Lists of URLs on disk, unpacked: uploads, and the list of each job that has one. They lie in DATA_DIR, which all hosts
 * share, in a folder that no sink's path can lead to. A file that is not whole ends in ".part".
 */
import { closeSync, createReadStream, createWriteStream, openSync, writeSync, type Stats } from 'node:fs';
import { copyFile, link, mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline as connect, type Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { uuidv7 } from 'uuidv7';
import { decoderFor } from './decode.ts';
import { FetchError, systemCode } from './errors.ts';
import { privateFolder } from './names.ts';
import { countRecords, type ListFormat } from './records.ts';
import type { BodyWriter } from './sinks/index.ts';
import { syncPath } from './sync-path.ts';

/** An upload that was not used for so long goes, as does the list of a job that was never stored. */
export const UNUSED_MS_MAX = 24 * 60 * 60 * 1000;
/** Nobody writes to a file any more that did not grow for so long. */
const SILENT_PART_MS_MAX = 60 * 60 * 1000;

/** What an upload holds. */
export interface Upload {
  readonly id: string;
  readonly format: ListFormat;
  /** Unpacked. */
  readonly bytes: number;
  /** Records that are not blank. */
  readonly urls: number;
}

/** Where a body goes that is too large to hold. */
export interface SaveTo {
  readonly maxBytes: number;
  open(): BodyWriter;
}

export class UrlFiles {
  readonly #uploads: string;
  readonly #lists: string;
  readonly #bytesMax: number;
  readonly dataDir: string;

  /** `dataDir`: DATA_DIR; `bytesMax`: of a list, packed or not. */
  constructor({ dataDir, bytesMax }: { dataDir: string; bytesMax: number }) {
    this.dataDir = dataDir;
    this.#uploads = join(dataDir, privateFolder, 'uploads');
    this.#lists = join(dataDir, privateFolder, 'lists');
    this.#bytesMax = bytesMax;
  }

  /** Stores an upload, unpacked. Throws FetchError (`too_large`, `decode`, `sink`), and what `body` fails with. */
  async receive(body: Readable, format: ListFormat): Promise<Upload> {
    await mkdir(this.#uploads, { recursive: true });
    const id = uuidv7();
    const path = join(this.#uploads, id);
    const part = `${path}.part`;
    try {
      const bytes = await unpack(body, part, this.#bytesMax);
      const upload = { id, format, bytes, urls: await countRecords(createReadStream(part), format) };
      await writeFile(`${path}.json`, JSON.stringify(upload), { flush: true });
      await rename(part, path);
      await syncWay(this.#uploads);
      return upload;
    } catch (error) {
      await Promise.all([rm(part, { force: true }), rm(`${path}.json`, { force: true })]);
      throw stored(error);
    }
  }

  /** Gives a job an upload as its list, null where there is no such upload; the upload may go then. Throws FetchError (`sink`). */
  async use(uploadId: string, jobId: string): Promise<Upload | null> {
    const path = join(this.#uploads, uploadId);
    try {
      const upload = JSON.parse(await readFile(`${path}.json`, 'utf8')) as Upload;
      await mkdir(this.#lists, { recursive: true });
      await linkOrCopy(path, this.of(jobId).path);
      await syncWay(this.#lists);
      return upload;
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return null;
      throw stored(error);
    }
  }

  /** A job's own list, which may not be there. */
  of(jobId: string): JobList {
    return new JobList(this.#lists, jobId, this.#bytesMax);
  }

  /** Removes uploads that nobody used for a day, lists of jobs that are not there, and what was never finished. */
  async sweep(nowMs: number, isJob: (id: string) => Promise<boolean>): Promise<void> {
    for (const folder of [this.#uploads, this.#lists]) {
      for (const name of await namesIn(folder)) {
        const stats = await stat(join(folder, name)).catch(() => null);
        if (stats === null || !isOld(name, stats, nowMs)) continue;
        const [id = ''] = name.split('.');
        if (folder === this.#lists && name === id && (await isJob(id))) continue;
        // An upload's description stays as long as what it describes.
        if (name.endsWith('.json') && (await stat(join(folder, id)).catch(() => null)) !== null) continue;
        await rm(join(folder, name), { force: true });
      }
    }
  }
}

/** The file that a job's URLs are listed in. */
export class JobList {
  readonly path: string;
  readonly #folder: string;
  readonly #bytesMax: number;

  constructor(folder: string, jobId: string, bytesMax: number) {
    this.#folder = folder;
    this.path = join(folder, jobId);
    this.#bytesMax = bytesMax;
  }

  /** Makes it of this text. Throws FetchError (`sink`). */
  async write(text: string): Promise<void> {
    await this.#make((part) => writeFile(part, text, { flush: true }));
  }

  /**
   * Makes it, unpacked, of what `fetch` saves, unless it is there. Whole or not at all. Throws FetchError: `fetch`'s,
   * `too_large`, `decode`, `sink`.
   */
  async download(fetch: (into: SaveTo) => Promise<void>): Promise<void> {
    if (await this.isThere()) return;
    const packed = `${this.path}.${uuidv7()}.packed.part`;
    await this.#make(async (part) => {
      try {
        await fetch({ maxBytes: this.#bytesMax, open: () => new PartWriter(packed) });
        // Nothing was opened for an empty body.
        await writeFile(packed, '', { flag: 'a' });
        await unpack(createReadStream(packed), part, this.#bytesMax);
      } finally {
        await rm(packed, { force: true });
      }
    });
  }

  async isThere(): Promise<boolean> {
    return (await stat(this.path).catch(() => null)) !== null;
  }

  async remove(): Promise<void> {
    await rm(this.path, { force: true });
  }

  async #make(write: (part: string) => Promise<void>): Promise<void> {
    const part = `${this.path}.${uuidv7()}.part`;
    try {
      await mkdir(this.#folder, { recursive: true });
      await write(part);
      await publish(part, this.path);
      await syncWay(this.#folder);
    } catch (error) {
      throw stored(error);
    } finally {
      await rm(part, { force: true });
    }
  }
}

/** Writes a body as it comes. */
class PartWriter implements BodyWriter {
  #fd: number | null;

  constructor(path: string) {
    this.#fd = this.#try(() => openSync(path, 'w'));
  }

  write(chunk: Uint8Array): void {
    const fd = this.#fd;
    if (fd === null) throw new FetchError('sink', 'the list was given up');
    this.#try(() => {
      // A write may be short where the disk is nearly full.
      for (let offset = 0; offset < chunk.length;) offset += writeSync(fd, chunk, offset);
    });
  }

  finish(): void {
    this.#try(() => this.#close());
  }

  abort(): void {
    try {
      this.#close();
    } catch {
      // Whoever wanted it removes it.
    }
  }

  #close(): void {
    const fd = this.#fd;
    this.#fd = null;
    if (fd !== null) closeSync(fd);
  }

  #try<T>(action: () => T): T {
    try {
      return action();
    } catch (error) {
      throw stored(error);
    }
  }
}

/** Writes what comes, unpacked if it is packed. Resolves with the bytes written. */
async function unpack(body: Readable, path: string, bytesMax: number): Promise<number> {
  let bytes = 0;
  async function* bounded(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    for await (const chunk of chunks) {
      bytes += chunk.length;
      if (bytes > bytesMax) throw new FetchError('too_large', `the list is larger than ${bytesMax} bytes`);
      yield chunk;
    }
  }
  await pipeline(plain(body), bounded, createWriteStream(path, { flush: true }));
  return bytes;
}

const signatureBytes = 4;

/** Packed or not is told by the first bytes (RFC 1952 section 2.3.1, RFC 8878 sections 3.1.1 and 3.1.2): no text begins so. */
function codingOf(head: Buffer): 'gzip' | 'zstd' | null {
  if (head.readUInt16BE(0) === 0x1f8b) return 'gzip';
  const magic = head.readUInt32LE(0);
  // pzstd begins with a frame that is to be skipped.
  return magic === 0xfd2fb528 || magic >>> 4 === 0x184d2a5 ? 'zstd' : null;
}

async function* plain(body: Readable): AsyncGenerator<Buffer> {
  const chunks = body[Symbol.asyncIterator]() as AsyncIterableIterator<Buffer>;
  let head: Buffer = Buffer.alloc(0);
  while (head.length < signatureBytes) {
    const { value, done } = await chunks.next();
    if (done === true) break;
    head = Buffer.concat([head, value]);
  }
  async function* whole(): AsyncGenerator<Buffer> {
    yield head;
    yield* chunks;
  }
  const coding = head.length < signatureBytes ? null : codingOf(head);
  if (coding === null) {
    yield* whole();
    return;
  }
  try {
    // An error of one ends the other; who reads the second hears of it.
    yield* connect(whole(), decoderFor(coding), () => {}) as AsyncIterable<Buffer>;
  } catch (error) {
    if (!isDamage(error)) throw error;
    const why =
      systemCode(error) === 'ZSTD_error_frameParameter_windowTooLarge'
        ? 'has a window of more than 8 MiB: pack it without --long and --ultra'
        : `is damaged ${coding}: ${error.message}`;
    throw new FetchError('decode', `the list ${why}`, { cause: error });
  }
}

/** zlib's own codes. */
function isDamage(error: unknown): error is Error {
  return error instanceof Error && /^(Z_|ZSTD_|ERR_ZLIB|ERR_TRAILING)/.test(systemCode(error) ?? '');
}

/** The system's errors as what they mean for a list. */
function stored(error: unknown): unknown {
  const code = systemCode(error);
  if (error instanceof FetchError || code === undefined || !/^E[A-Z]+$/.test(code)) return error;
  return new FetchError('sink', `the list of URLs cannot be stored: ${code}`, { cause: error });
}

/**
 * Gives a whole file its name, unless there is one: pages of the first may be in work already when a second worker, which
 * had lost its turn, comes to its end.
 */
async function publish(part: string, path: string): Promise<void> {
  try {
    await link(part, path);
  } catch (error) {
    if (systemCode(error) === 'EEXIST') return;
    // Not every network's file system has hard links.
    await rename(part, path);
  }
}

async function linkOrCopy(from: string, to: string): Promise<void> {
  try {
    await link(from, to);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') throw error;
    await copyFile(from, `${to}.part`);
    await syncPath(`${to}.part`);
    await rename(`${to}.part`, to);
  }
}

/** What was given a name in a folder of lists, and the way there from DATA_DIR on, then survives a loss of power. */
async function syncWay(folder: string): Promise<void> {
  for (const path of [folder, join(folder, '..'), join(folder, '../..')]) {
    try {
      await syncPath(path);
    } catch (error) {
      // Some network's file systems cannot sync folders.
      if (systemCode(error) !== 'EINVAL') throw error;
    }
  }
}

async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return [];
    throw error;
  }
}

/** By the time of its last change, which a new link to it is too. */
function isOld(name: string, { ctimeMs }: Stats, nowMs: number): boolean {
  return nowMs - ctimeMs > (name.endsWith('.part') ? SILENT_PART_MS_MAX : UNUSED_MS_MAX);
}
