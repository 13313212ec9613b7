/** Sinks that put the files of each page into one shard, a tar archive or lines of JSON, with an index beside it. */
import { existsSync, renameSync } from 'node:fs';
import { systemCode } from '../../errors.ts';
import { privateFolder } from '../../names.ts';
import { syncPath } from '../../sync-path.ts';
import type { ShardSinkSpec } from './shard-specs.ts';
import type { Shards, Sink, SinkContext } from '../index.ts';
import { filesFrom, MadeFiles, removerOf, seqName } from '../made.ts';
import { openError, removeQuietly, storeError, Temporary } from '../temporary.ts';
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

export const formats = {
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
      const sink = new DiskShards(temporary, spec, context.jobId);
      if (spec.durability === 'power') await temporary.syncFolders();
      return sink;
    } catch (error) {
      throw openError(spec.path, error);
    }
  },
};

class DiskShards implements ShardSink, Shards {
  readonly #temporary: Temporary;
  readonly #spec: ShardSinkSpec;
  readonly #jobId: string;
  readonly #made: MadeFiles;
  readonly #format: ShardFormat;
  readonly bytesOf: (sizeBytes: number) => number;

  constructor(temporary: Temporary, spec: ShardSinkSpec, jobId: string) {
    this.#temporary = temporary;
    this.#spec = spec;
    this.#jobId = jobId;
    this.#made = new MadeFiles(temporary, madeFolder, jobId);
    const { bytesOf, ...format } = formats[spec.type];
    this.#format = { ...format, compression: spec.compression, sync: spec.durability === 'power' };
    this.bytesOf = bytesOf;
  }

  get shards(): Shards {
    return this;
  }

  get publisher(): Shards {
    return this;
  }

  get shardBytes(): number {
    return this.#spec.shardBytes;
  }

  page(seq: number, nonce: string, names: readonly string[]): ShardWriter {
    return new ShardWriter(this.#temporary, this.#format, this.#madePaths(seq, nonce), names);
  }

  async publish(seq: number, nonce: string): Promise<boolean> {
    const { root } = this.#temporary.folders;
    const published = this.#published(seq);
    const made = this.#madePaths(seq, nonce);
    try {
      // In this order, a shard that is there has its index; killed in between, the next who publishes goes on.
      rename(made.index, indexOf(published));
      const isFirst = rename(made.shard, published);
      if (this.#format.sync) await syncPath(root);
      // One who comes late knows nothing of who won since.
      if (isFirst) this.#made.remove(seq);
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

  leftovers(pages: number): (() => void) | null {
    const published = filesFrom(pages, this.#temporary.folders.root, `${this.#jobId}-`);
    return removerOf([...this.#made.all(), ...published]);
  }

  sweep(alive: ReadonlySet<string>): void {
    this.#temporary.sweep(alive);
  }

  close(): void {
    this.#temporary.close();
  }

  #published(seq: number): string {
    return this.#temporary.folders.root + shardName(this.#spec, this.#jobId, seq);
  }

  #madePaths(seq: number, nonce: string): MadePaths {
    const path = this.#made.path(seq, nonce);
    return { folder: madeFolder, shard: `${path}.tmp`, index: `${path}.index.tmp` };
  }
}

/** The name of a page's shard in the folder of the sink. */
export function shardName({ type, compression }: ShardSinkSpec, jobId: string, seq: number): string {
  return `${jobId}-${seqName(seq)}${shardExtension(type, compression)}`;
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
