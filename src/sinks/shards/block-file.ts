/** Writes one file in blocks, each compressed on its own, so that reading can begin at any of them. */
import { closeSync, fdatasync, openSync } from 'node:fs';
import { promisify } from 'node:util';
import { constants, gzip, gzipSync, zstdCompress, zstdCompressSync } from 'node:zlib';
import { FetchError } from '../../errors.ts';
import { removeQuietly, storeError, writeWhole } from '../temporary.ts';

/** Larger ones hardly compress better, and to read one small member a whole block must be read. */
export const BLOCK_BYTES = 262_144;

const packingMax = 4;

type Packed = (error: Error | null, block: Uint8Array) => void;

// Gzip's has one of its own.
const withChecksum = { params: { [constants.ZSTD_c_checksumFlag]: 1 } };

/** Gzip members and zstd frames in a row are one stream (RFC 1952 section 2.2, RFC 8878 section 3): tools read the whole. */
const codecs = {
  none: null,
  gzip: {
    pack: (block: Uint8Array, done: Packed): void => gzip(block, done),
    packNow: (block: Uint8Array): Uint8Array => gzipSync(block),
  },
  zstd: {
    pack: (block: Uint8Array, done: Packed): void => zstdCompress(block, withChecksum, done),
    packNow: (block: Uint8Array): Uint8Array => zstdCompressSync(block, withChecksum),
  },
} as const;

export type Compression = keyof typeof codecs;

/** Is called for each block in order, once it was written: with its `note`, and where in the file it begins. */
export type OnBlock = (note: string, fileOffset: number) => void;

interface Packing {
  readonly note: string;
  packed: Uint8Array | null;
}

/** Memory is flat: at most a few blocks are held, whatever the size of the file. */
export class BlockFile {
  /** The block in the making, `used` bytes of it. Callers may write here themselves, once they have made `room`. */
  buffer: Buffer = Buffer.allocUnsafeSlow(BLOCK_BYTES);
  used = 0;
  /** What the caller wants to remember of the block in the making. */
  note = '';
  /** Of the file, so far. */
  bytes = 0;
  /** Where the block in the making begins in what the blocks hold, compression aside. */
  position = 0;
  readonly path: string;
  readonly #codec: (typeof codecs)[Compression];
  readonly #onBlock: OnBlock;
  #fd: number | null;
  #error: unknown = null;
  readonly #packings: Packing[] = [];
  readonly #spare: Buffer[] = [];
  #whenPacked = Promise.withResolvers<void>();

  /** Makes the file. Throws the system's errors. */
  constructor(path: string, compression: Compression, onBlock: OnBlock) {
    this.path = path;
    this.#codec = codecs[compression];
    this.#onBlock = onBlock;
    this.#fd = openSync(path, 'wx');
  }

  /** Makes room for so many bytes (at most BLOCK_BYTES) in one block. Throws FetchError (`sink`). */
  room(bytes: number): void {
    if (this.used + bytes > BLOCK_BYTES) this.flush();
  }

  /** Throws FetchError (`sink`). */
  write(bytes: Uint8Array): void {
    for (let from = 0; from < bytes.length;) {
      if (this.used === BLOCK_BYTES) this.flush();
      const piece = bytes.subarray(from, from + BLOCK_BYTES - this.used);
      this.buffer.set(piece, this.used);
      this.used += piece.length;
      from += piece.length;
    }
  }

  /**
   * Ends the block. Other threads compress it; where they are too far behind, this one does, so that no more pile up than
   * bodies arrive in one turn of the event loop. Throws FetchError (`sink`).
   */
  flush(): void {
    this.#check();
    if (this.used === 0) return;
    const block = this.buffer.subarray(0, this.used);
    const { note } = this;
    this.position += this.used;
    this.used = 0;
    this.note = '';
    if (this.#codec === null) return this.#append(note, block);
    const packing: Packing = { note, packed: null };
    this.#packings.push(packing);
    if (this.#packings.length > packingMax) {
      packing.packed = this.#codec.packNow(block);
      return;
    }
    const full = this.buffer;
    this.buffer = this.#spare.pop() ?? Buffer.allocUnsafeSlow(BLOCK_BYTES);
    this.#codec.pack(block, (error, packed) => {
      this.#spare.push(full);
      this.#error ??= error;
      packing.packed = packed;
      this.#appendPacked();
    });
  }

  /** Resolves when every block so far was written. Throws FetchError (`sink`). */
  async written(): Promise<void> {
    while (this.#packings.length > 0 && this.#error === null) await this.#whenPacked.promise;
    this.#check();
  }

  /** Ends the file; with `sync` it then survives a loss of power. Throws FetchError (`sink`). */
  async finish(sync: boolean): Promise<void> {
    this.flush();
    await this.written();
    try {
      const fd = this.#fd!;
      if (sync) await promisify(fdatasync)(fd);
      this.#fd = null;
      // Some file systems tell only here that the disk is full.
      closeSync(fd);
    } catch (error) {
      throw storeError(error);
    }
  }

  /** Removes the file, at any time. Never throws. */
  discard(): void {
    this.#error ??= new FetchError('sink', 'the shard was given up');
    this.#packings.length = 0;
    this.#wake();
    try {
      if (this.#fd !== null) closeSync(this.#fd);
    } catch {
      // The file goes anyway.
    }
    this.#fd = null;
    removeQuietly(this.path);
  }

  #appendPacked(): void {
    try {
      for (let first = this.#packings[0]; first?.packed && this.#error === null; first = this.#packings[0]) {
        this.#packings.shift();
        this.#append(first.note, first.packed);
      }
    } catch {
      // It is kept, and thrown by the next call.
    }
    this.#wake();
  }

  #append(note: string, block: Uint8Array): void {
    try {
      const { bytes } = this;
      writeWhole(this.#fd!, block);
      this.bytes += block.length;
      this.#onBlock(note, bytes);
    } catch (error) {
      this.#error = error;
      throw storeError(error);
    }
  }

  #wake(): void {
    this.#whenPacked.resolve();
    this.#whenPacked = Promise.withResolvers();
  }

  #check(): void {
    if (this.#error !== null) throw storeError(this.#error);
  }
}
