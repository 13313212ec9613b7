/** Writes the files of one attempt at one page into one shard and its index. */
import { createHash, hash, randomUUID } from 'node:crypto';
import { openSync, renameSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { FetchError } from '../../errors.ts';
import { syncPath } from '../../sync-path.ts';
import type { BodyWriter, FileUrl, PageWriter } from '../index.ts';
import { removeQuietly, storeError, TemporaryWriter, type Temporary } from '../temporary.ts';
import { BLOCK_BYTES, BlockFile, type Compression, type OnBlock } from './block-file.ts';
import type { Layout } from './layout.ts';
import { samplesOf, type Sample } from './samples.ts';

/** What a page's files became. */
export interface Sealed {
  /** Files in the shard; 0: there is no shard, and nothing to publish. */
  readonly members: number;
  /** The size of the shard, without its index. */
  readonly bytes: number;
}

export interface ShardFormat {
  readonly compression: Compression;
  /** Files are on disk before `finish` resolves. */
  readonly sync: boolean;
  /** What ends a shard. */
  readonly end: Uint8Array;
  /** Members of one sample (what WebDataset takes them for) are kept next to each other. */
  readonly keepSamples: boolean;
  layout(): Layout;
}

/** Where the finished files of an attempt lie until they are published. */
export interface MadePaths {
  /** Below the root of the sink. */
  readonly folder: string;
  readonly shard: string;
  readonly index: string;
}

interface Stored {
  readonly name: string;
  readonly url: string;
  readonly atMs: number;
  readonly sha256: string;
  readonly sizeBytes: number;
  /** How often the page lists it. */
  readonly listed: number;
}

/** A member that is not in the shard yet: in memory, or in the temporary file at `path`. */
interface Held extends Stored {
  readonly body: Uint8Array | null;
  readonly path: string;
}

const heldBytesMax = 8 * 1024 * 1024;
const nowhere: FileUrl = { origin: '', path: '' };
/** A line of the index is finished when it is known where in the file its block begins: this stands for it till then. */
const FRAME = '\0';

/** Nothing is stored before `finish` resolved; then, or at any time before, `discard` takes everything back. */
export class ShardWriter implements PageWriter {
  readonly #temporary: Temporary;
  readonly #format: ShardFormat;
  readonly #made: MadePaths;
  readonly #layout: Layout;
  readonly #samples: ReadonlyMap<string, Sample<Held>>;
  /** Whole samples that wait for the end, as a member of theirs is too large to be copied in one go. */
  readonly #later: Sample<Held>[] = [];
  readonly #spools = new Set<string>();
  #heldBytes = 0;
  #shard: BlockFile | null = null;
  #index: BlockFile | null = null;
  #members = 0;
  #over = false;
  readonly #isPacked: boolean;
  #atMs = 0;
  #at = '';

  constructor(temporary: Temporary, format: ShardFormat, made: MadePaths, names: readonly string[]) {
    this.#temporary = temporary;
    this.#format = format;
    this.#made = made;
    this.#layout = format.layout();
    this.#isPacked = format.compression !== 'none';
    this.#samples = format.keepSamples ? samplesOf(names) : new Map();
  }

  /** Always null: whoever runs a page again writes its shard anew. */
  find(): null {
    return null;
  }

  put(name: string, body: Uint8Array, from?: FileUrl): void {
    const url = this.#accept(name, from);
    const sample = this.#samples.get(name);
    const stored = this.#layout.whole(body);
    const sizeBytes = stored.length;
    const isTooMuch = sample !== undefined && this.#heldBytes + sizeBytes > heldBytesMax;
    if (isTooMuch || sizeBytes > BLOCK_BYTES / 2) {
      const spool = this.open(name, from);
      try {
        spool.write(body);
        return spool.finish();
      } catch (error) {
        spool.abort();
        throw error;
      }
    }
    const { listed = 1 } = from ?? nowhere;
    const member = { name, url, atMs: Date.now(), sha256: hash('sha256', stored, 'hex'), sizeBytes, listed };
    if (sample === undefined) return this.#add(member, stored);
    this.#heldBytes += sizeBytes;
    // It may be a view on a buffer that is used again.
    this.#hold({ ...member, body: new Uint8Array(stored), path: '' }, sample);
  }

  /** Large bodies come in pieces, small ones between them: each has a file of its own until it is whole. */
  open(name: string, from?: FileUrl): BodyWriter {
    const url = this.#accept(name, from);
    const path = this.#temporary.path(randomUUID());
    const fd = this.#make(() => openSync(path, 'wx'));
    const digest = createHash('sha256');
    const pieces = this.#layout.pieces();
    let sizeBytes = 0;
    const file = new TemporaryWriter(fd, path, () => {
      const { listed = 1 } = from ?? nowhere;
      const member = { name, url, atMs: Date.now(), sha256: digest.digest('hex'), sizeBytes, listed };
      this.#hold({ ...member, body: null, path }, this.#samples.get(name) ?? { members: 1, held: [] });
    });
    this.#spools.add(path);
    return {
      write: (piece) => {
        const stored = pieces.take(piece);
        digest.update(stored);
        sizeBytes += stored.length;
        file.write(stored);
      },
      finish: () => {
        pieces.end();
        this.#check();
        file.finish();
      },
      abort: () => {
        this.#spools.delete(path);
        file.abort();
      },
    };
  }

  /**
   * Called once, when every file of the page has its outcome. Afterwards the shard lies, whole and with its index, where
   * `publish` finds it. Throws FetchError (`sink`): then it was discarded.
   */
  async finish(): Promise<Sealed> {
    try {
      const unfinished = new Set([...this.#samples.values()].filter(({ held, members }) => held.length < members));
      for (const { held } of [...this.#later, ...unfinished]) {
        for (const member of held) await this.#copy(member);
      }
      this.#check();
      if (this.#shard === null || this.#index === null) return { members: 0, bytes: 0 };
      this.#shard.write(this.#format.end);
      await this.#shard.finish(this.#format.sync);
      await this.#index.finish(this.#format.sync);
      this.#check();
      this.#over = true;
      const [shard, index] = [this.#shard, this.#index];
      this.#temporary.twice(() => {
        this.#temporary.folders.enter(this.#made.folder, true);
        // In this order, a shard that is there has its index.
        renameSync(index.path, this.#made.index);
      });
      renameSync(shard.path, this.#made.shard);
      if (this.#format.sync) await syncPath(this.#temporary.folders.root + this.#made.folder);
      return { members: this.#members, bytes: shard.bytes };
    } catch (error) {
      this.discard();
      throw storeError(error);
    }
  }

  /** Removes what this attempt wrote, its published files excepted. Never throws. */
  discard(): void {
    this.#over = true;
    this.#shard?.discard();
    this.#index?.discard();
    for (const path of [this.#made.shard, this.#made.index, ...this.#spools]) removeQuietly(path);
  }

  /** The member goes into the shard once all of its sample are there. */
  #hold(member: Held, sample: Sample<Held>): void {
    sample.held.push(member);
    if (sample.held.length < sample.members) return;
    if (sample.held.some(({ body }) => body === null)) {
      this.#later.push(sample);
      return;
    }
    for (const member of sample.held) {
      this.#heldBytes -= member.sizeBytes;
      this.#add(member, member.body!);
    }
  }

  #add(member: Stored, body: Uint8Array): void {
    const shard = this.#begin(member, body.length);
    shard.buffer.set(body, shard.used);
    shard.used = this.#layout.tail(shard.buffer, shard.used + body.length, body.length);
  }

  async #copy(member: Held): Promise<void> {
    this.#check();
    if (member.body !== null) return this.#add(member, member.body);
    this.#shard?.flush();
    const shard = this.#begin(member, 0);
    await using file = await open(member.path);
    let left = member.sizeBytes;
    for (let read = -1; read !== 0; left -= read) {
      shard.room(1);
      read = (await file.read(shard.buffer, shard.used, BLOCK_BYTES - shard.used)).bytesRead;
      shard.used += read;
      await shard.written();
    }
    if (left !== 0) throw new FetchError('sink', 'a temporary file was changed', { retryable: true });
    shard.room(BLOCK_BYTES / 4);
    shard.used = this.#layout.tail(shard.buffer, shard.used, member.sizeBytes);
    removeQuietly(member.path);
    this.#spools.delete(member.path);
  }

  /** Writes what stands before a body, in a block that has room for `bodyBytes` more, and its line of the index. */
  #begin({ name, url, sha256, sizeBytes, atMs, listed }: Stored, bodyBytes: number): BlockFile {
    const shard = (this.#shard ??= this.#create());
    shard.room(this.#layout.frameBytesMax(name, url) + bodyBytes);
    shard.used = this.#layout.head(shard, name, url, sizeBytes, Math.floor(atMs / 1000));
    const frame = this.#isPacked ? `"frame":${FRAME},"frameOffset":${shard.position},` : '';
    shard.note +=
      `{"name":${JSON.stringify(name)},"offset":${shard.position + shard.used},${frame}"size":${sizeBytes}` +
      `,"sha256":"${sha256}","url":${JSON.stringify(url)},"at":"${this.#time(atMs)}"` +
      (listed === 1 ? '}\n' : `,"listed":${listed}}\n`);
    this.#members += 1;
    return shard;
  }

  #create(): BlockFile {
    const index = (this.#index ??= this.#newFile(() => {}));
    return this.#newFile((note, fileOffset) => {
      index.write(Buffer.from(this.#isPacked ? note.replaceAll(FRAME, `${fileOffset}`) : note));
    });
  }

  #newFile(onBlock: OnBlock): BlockFile {
    const path = this.#temporary.path(randomUUID());
    return this.#make(() => new BlockFile(path, this.#format.compression, onBlock));
  }

  #make<T>(make: () => T): T {
    try {
      return this.#temporary.twice(make);
    } catch (error) {
      throw storeError(error);
    }
  }

  /** As ISO 8601; many files come in one millisecond. */
  #time(atMs: number): string {
    if (atMs !== this.#atMs) {
      this.#atMs = atMs;
      this.#at = new Date(atMs).toISOString();
    }
    return this.#at;
  }

  /** The file's URL. Throws FetchError (`sink`) where the shard does not take it. */
  #accept(name: string, { origin, path }: FileUrl = nowhere): string {
    this.#check();
    const url = origin + path;
    if (this.#layout.frameBytesMax(name, url) > BLOCK_BYTES / 2) {
      throw new FetchError('sink', 'its name and URL are too long for a shard');
    }
    return url;
  }

  #check(): void {
    if (this.#over) throw new FetchError('sink', 'the shard was given up');
  }
}
