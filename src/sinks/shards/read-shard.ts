/** Reads shards by their indexes: lines of JSON, one for each member, in the order of the shard. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { pipeline } from 'node:stream';
import { promisify } from 'node:util';
import { createGunzip, zstdDecompress } from 'node:zlib';
import { FetchError, systemCode } from '../../errors.ts';
import { BLOCK_BYTES, type Compression } from './block-file.ts';

/** A member of a shard, as a line of its index says. */
export interface Member {
  readonly name: string;
  /** Where the body begins in the shard, decompressed where it is compressed. */
  readonly offset: number;
  /** In a compressed shard: where in the file decompression may begin, and which offset that is. */
  readonly frame?: number;
  readonly frameOffset?: number;
  /** Of the body, in bytes. */
  readonly size: number;
  /** Of the body, in hexadecimal digits. */
  readonly sha256: string;
  readonly url: string;
  /** When it was fetched, ISO 8601. */
  readonly at: string;
  /** How often its page lists it, where that is more than once. */
  readonly listed?: number;
}

/** What is read in one go is also worked through in one go, which should not keep others waiting. */
const readBytes = BLOCK_BYTES;
const LF = 0x0a;
const extensions = { none: '', gzip: '.gz', zstd: '.zst' } as const satisfies Record<Compression, string>;
// ZSTD_COMPRESSBOUND of zstd.h: a block that does not compress grows by less than this.
const frameBytesMax = BLOCK_BYTES + 1024;
// With room for one byte more than a frame holds, decompressing stops at its end; `bytesWritten` tells where that is.
const oneFrame = { info: true, chunkSize: BLOCK_BYTES + 1 };
const unpackFrame = promisify(zstdDecompress) as unknown as (
  frames: Buffer,
  options: typeof oneFrame,
) => Promise<{ buffer: Buffer; engine: { bytesWritten: number } }>;

/** How the names of such shards end. */
export function shardExtension(type: 'tar' | 'ndjson', compression: Compression): string {
  return `.${type}${extensions[compression]}`;
}

/** The path of a shard's index; it is compressed as the shard is. No pattern for shards, such as `*.ndjson`, takes it too. */
export function indexOf(shard: string): string {
  return `${shard}.index${extensions[compressionOf(shard)]}`;
}

function compressionOf(path: string): Compression {
  if (path.endsWith(extensions.gzip)) return 'gzip';
  return path.endsWith(extensions.zstd) ? 'zstd' : 'none';
}

/**
 * What the lines of JSON in a file say, as long as `is` takes it. Never throws: the last is why the rest cannot be read, where
 * it cannot.
 */
export async function* linesUntilDamage<T>(path: string, is: (line: T) => boolean): AsyncGenerator<T | Error> {
  try {
    let at = 0;
    for await (const lines of wholeLines(path)) {
      for (const text of lines.toString().split('\n').slice(0, -1)) {
        at += 1;
        const line = JSON.parse(text) as T;
        if (!is(line)) throw new Error(`line ${at} says something else than it should`);
        yield line;
      }
    }
  } catch (error) {
    yield error instanceof Error ? error : new Error(String(error));
  }
}

/** All members of the shard at that path, in its order. Throws the system's and the decompressors' errors. */
export async function* readIndex(shard: string): AsyncGenerator<Member> {
  for await (const lines of wholeLines(indexOf(shard))) {
    for (const line of lines.toString().split('\n')) {
      if (line !== '') yield JSON.parse(line) as Member;
    }
  }
}

/**
 * The member of that name, null if there is none. It is looked for by its bytes, which took 25 ms among 60,000 (80 ms in a
 * compressed index); the order of the shard is what lets `damagedMembers` read both once, side by side. Throws as `readIndex`.
 */
export async function findMember(shard: string, name: string): Promise<Member | null> {
  const begin = Buffer.from(`{"name":${JSON.stringify(name)},`);
  for await (const lines of wholeLines(indexOf(shard))) {
    // No string holds a raw quote, so these bytes are the begin of a line.
    const at = lines.indexOf(begin);
    if (at !== -1) return JSON.parse(lines.toString('utf8', at, lines.indexOf(LF, at))) as Member;
  }
  return null;
}

/**
 * The body of one member, by reading little else. Throws FetchError (`sink`) after the last bytes where they are not those
 * that were stored, and the system's and the decompressors' errors.
 */
export async function* readMember(shard: string, member: Member): AsyncGenerator<Buffer> {
  const digest = createHash('sha256');
  const { frame = member.offset, frameOffset = member.offset } = member;
  let skip = member.offset - frameOffset;
  let left = member.size;
  if (left > 0) {
    for await (const chunk of decompressed(shard, frame, left)) {
      const piece = chunk.subarray(skip, skip + left);
      skip -= Math.min(skip, chunk.length);
      digest.update(piece);
      left -= piece.length;
      if (piece.length > 0) yield piece;
      if (left === 0) break;
    }
  }
  if (left > 0 || digest.digest('hex') !== member.sha256) {
    throw new FetchError('sink', `"${member.name}" is damaged: the shard does not hold what was stored`);
  }
}

/**
 * The members whose bytes in the shard are not those that were stored, found by reading all of it once. Throws the
 * system's errors, and those of what decompresses the index.
 */
export async function* damagedMembers(shard: string): AsyncGenerator<Member> {
  const chunks = decompressed(shard);
  let chunk: Buffer = Buffer.alloc(0);
  let chunkAt = 0;
  try {
    for await (const member of readIndex(shard)) {
      const digest = createHash('sha256');
      const end = member.offset + member.size;
      for (let at = member.offset; at < end;) {
        const piece = chunk.subarray(at - chunkAt, end - chunkAt);
        digest.update(piece);
        at += piece.length;
        if (at === end) break;
        chunkAt += chunk.length;
        const next = await chunks.next().catch(isDamage);
        if (next.done === true) break;
        chunk = next.value;
      }
      if (digest.digest('hex') !== member.sha256) yield member;
    }
  } finally {
    // What follows the last member is never read: without this the shard stays open.
    await chunks.return(undefined);
  }
}

/** What is compressed and damaged ends there. */
function isDamage(error: unknown): { done: true } {
  if (systemCode(error)?.startsWith('Z') === true) return { done: true };
  throw error;
}

/** A compressed or plain file's bytes from a position on; of a plain one `bytes`. */
export async function* decompressed(path: string, start = 0, bytes = Infinity): AsyncGenerator<Buffer> {
  const compression = compressionOf(path);
  const range = compression === 'none' ? { start, end: start + bytes - 1 } : { start };
  const file = createReadStream(path, { ...range, highWaterMark: readBytes });
  // Errors of the file reach whoever reads what was decompressed.
  const unpacked = compression === 'gzip' ? pipeline(file, createGunzip(), () => {}) : file;
  try {
    yield* compression === 'zstd' ? zstdFrames(file) : (unpacked as AsyncIterable<Buffer>);
  } finally {
    // Also where the reader has enough.
    file.destroy();
    unpacked.destroy();
  }
}

/** Node's own stream ends with the first frame, so each is decompressed by itself. */
async function* zstdFrames(file: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const chunks = file[Symbol.asyncIterator]();
  let rest: Buffer = Buffer.alloc(0);
  for (let isEnd = false; !isEnd || rest.length > 0;) {
    if (!isEnd && rest.length < frameBytesMax) {
      const chunk = await chunks.next();
      if (chunk.done === true) isEnd = true;
      else rest = Buffer.concat([rest, chunk.value]);
    } else {
      const { buffer, engine } = await unpackFrame(rest, oneFrame);
      yield buffer;
      rest = rest.subarray(engine.bytesWritten);
    }
  }
}

/** The file in pieces of whole lines. */
async function* wholeLines(path: string): AsyncGenerator<Buffer> {
  let rest: Buffer = Buffer.alloc(0);
  for await (const chunk of decompressed(path)) {
    const bytes = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    const end = bytes.lastIndexOf(LF) + 1;
    if (end > 0) yield bytes.subarray(0, end);
    rest = bytes.subarray(end);
  }
  if (rest.length > 0) throw new Error('it ends amid a line');
}
