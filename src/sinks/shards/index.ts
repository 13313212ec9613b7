/** Sinks that put the files of each page into one shard, a tar archive or lines of JSON, with an index beside it. */
import { existsSync, readdirSync, renameSync } from 'node:fs';
import { systemCode } from '../../errors.ts';
import { privateFolder } from '../../names.ts';
import type { ShardSinkSpec } from '../../schemas.ts';
import type { Shards, Sink, SinkContext } from '../index.ts';
import { openError, removeQuietly, storeError, syncFolder, Temporary } from '../temporary.ts';
import { lineBytes, NdjsonLayout } from './ndjson.ts';
import { indexOf, shardExtension } from './read-shard.ts';
import { ShardWriter, type MadePaths, type ShardFormat } from './shard-writer.ts';
import { tarBytes, tarEnd, TarLayout } from './tar.ts';

/** One job's sink of shards, opened by one worker process. */
export interface ShardSink extends Sink {
  page(seq: number, nonce: string, names: readonly string[]): ShardWriter;
  readonly shards: Shards;
}

const madeFolder = `${privateFolder}/shards`;
// Enough for a billion files, of which a shard holds ten at the least, in the order of their names.
const seqDigits = 8;

const formats = {
  tar: { end: tarEnd, keepSamples: true, layout: () => new TarLayout(), bytesOf: tarBytes },
  ndjson: { end: new Uint8Array(0), keepSamples: false, layout: () => new NdjsonLayout(), bytesOf: lineBytes },
} as const;

/**
 * `{path}/{job}-{seq}.tar` and the like, each with `….index` (read-shard.ts reads both). The job is part of the name, so
 * that jobs may write to one folder one after the other and none replaces what another stored.
 */
export const shards = {
  async open(spec: ShardSinkSpec, context: SinkContext): Promise<ShardSink> {
    try {
      const temporary = new Temporary(spec.path, context);
      temporary.folders.enter(madeFolder, true);
      return new DiskShards(temporary, spec, context.jobId);
    } catch (error) {
      throw openError(spec.path, error);
    }
  },
};

class DiskShards implements ShardSink, Shards {
  readonly #temporary: Temporary;
  readonly #spec: ShardSinkSpec;
  readonly #jobId: string;
  readonly #format: ShardFormat;
  readonly bytesOf: (sizeBytes: number) => number;

  constructor(temporary: Temporary, spec: ShardSinkSpec, jobId: string) {
    this.#temporary = temporary;
    this.#spec = spec;
    this.#jobId = jobId;
    const { bytesOf, ...format } = formats[spec.type];
    this.#format = { ...format, compression: spec.compression, sync: spec.durability === 'power' };
    this.bytesOf = bytesOf;
  }

  get shards(): Shards {
    return this;
  }

  get shardBytes(): number {
    return this.#spec.shardBytes;
  }

  page(seq: number, nonce: string, names: readonly string[]): ShardWriter {
    return new ShardWriter(this.#temporary, this.#format, this.#made(seq, nonce), names);
  }

  async publish(seq: number, nonce: string): Promise<boolean> {
    const { root } = this.#temporary.folders;
    const published = this.#published(seq);
    const made = this.#made(seq, nonce);
    try {
      // In this order, a shard that is there has its index; killed in between, the next who publishes goes on.
      rename(made.index, indexOf(published));
      const isFirst = rename(made.shard, published);
      if (this.#format.sync) await syncFolder(root);
      // One who comes late knows nothing of who won since.
      if (isFirst) this.#removeMade(seq);
      return existsSync(published);
    } catch (error) {
      throw storeError(error);
    }
  }

  remove(seq: number): void {
    const published = this.#published(seq);
    removeQuietly(published);
    removeQuietly(indexOf(published));
  }

  forget(pages: number): void {
    try {
      this.#removeMade();
      for (const name of readdirSync(this.#temporary.folders.root)) {
        const seq = this.#seqOf(name);
        if (seq !== null && seq >= pages) this.remove(seq);
      }
    } catch {
      // Nothing of it is in the way of anything.
    }
  }

  sweep(alive: ReadonlySet<string>): void {
    this.#temporary.sweep(alive);
  }

  close(): void {
    this.#temporary.close();
  }

  /** Not in a worker's folder: a shard that is finished may be published when its worker is no longer alive. */
  #made(seq: number, nonce: string): MadePaths {
    const path = `${this.#temporary.folders.root}${madeFolder}/${this.#stem(seq)}.${nonce}`;
    return { folder: madeFolder, shard: `${path}.tmp`, index: `${path}.index.tmp` };
  }

  /** Of one page, or of all. */
  #removeMade(seq?: number): void {
    const folder = `${this.#temporary.folders.root}${madeFolder}`;
    const begin = seq === undefined ? `${this.#jobId}-` : `${this.#stem(seq)}.`;
    for (const name of readdirSync(folder)) if (name.startsWith(begin)) removeQuietly(`${folder}/${name}`);
  }

  #published(seq: number): string {
    const { type, compression } = this.#spec;
    return `${this.#temporary.folders.root}${this.#stem(seq)}${shardExtension(type, compression)}`;
  }

  /** Of which page a file is the shard, or its index; null: it is none of this job. */
  #seqOf(name: string): number | null {
    const begin = `${this.#jobId}-`;
    const digits = name.startsWith(begin) ? /^\d+(?=\.)/.exec(name.slice(begin.length)) : null;
    return digits === null ? null : Number(digits[0]);
  }

  #stem(seq: number): string {
    return `${this.#jobId}-${String(seq).padStart(seqDigits, '0')}`;
  }
}

/** False where it was done before. */
function rename(from: string, to: string): boolean {
  try {
    renameSync(from, to);
    return true;
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw error;
    return false;
  }
}
