import { stat } from 'node:fs/promises';
import { systemCode } from '../../errors.ts';
import type { Finding, ManifestFile } from '../../manifest-schemas.ts';
import type { ShardSinkSpec } from './shard-specs.ts';
import type { Checked, Stored } from '../stored.ts';
import { straysIn } from '../strays.ts';
import { checkShard, isMember } from './check-shard.ts';
import { formats, shardName } from './index.ts';
import { indexOf, linesUntilDamage, readIndex } from './read-shard.ts';

/** Lines that go out in one piece. */
const LINES = 100;

/** The files of a sink of shards: their indexes are the manifest. */
export class StoredShards implements Stored {
  readonly #root: string;
  readonly #spec: ShardSinkSpec;
  readonly #jobId: string;

  /** `root`: the real path of the sink's folder, and "/". */
  constructor(root: string, spec: ShardSinkSpec, jobId: string) {
    this.#root = root;
    this.#spec = spec;
    this.#jobId = jobId;
  }

  async *lines(seq: number): AsyncGenerator<string> {
    const shard = shardName(this.#spec, this.#jobId, seq);
    let some: string[] = [];
    try {
      for await (const { name, url, size, sha256, at, listed } of readIndex(this.#root + shard)) {
        const outcome = 'downloaded';
        const file: ManifestFile = { name, url, sizeBytes: size, sha256, outcome, at, shard };
        some.push(`${JSON.stringify(listed === undefined ? file : { ...file, listed })}\n`);
        if (some.length < LINES) continue;
        yield some.join('');
        some = [];
      }
    } catch (error) {
      if (systemCode(error) !== 'ENOENT') throw error;
    }
    if (some.length > 0) yield some.join('');
  }

  async *check(seq: number, checked: Checked): AsyncGenerator<Finding> {
    const shard = shardName(this.#spec, this.#jobId, seq);
    const index = indexOf(shard);
    const [hasShard, hasIndex] = await Promise.all([shard, index].map((name) => isThere(this.#root + name)));
    if (hasShard && hasIndex) {
      yield* checkShard(this.#root, shard, formats[this.#spec.type], checked);
    } else if (hasShard) {
      checked.partly = true;
      yield missing(index, 0);
    } else if (hasIndex) {
      let files = 0;
      for await (const member of linesUntilDamage(this.#root + index, isMember)) {
        if (member instanceof Error) {
          checked.partly = true;
          continue;
        }
        files += 1;
        checked.filesChecked += 1;
        checked.filesInManifest += member.listed ?? 1;
      }
      yield missing(shard, files);
    }
  }

  strays(pages: number): AsyncGenerator<Finding> {
    const namesOf = (seq: number): string[] => {
      const shard = shardName(this.#spec, this.#jobId, seq);
      return [shard, indexOf(shard)];
    };
    return straysIn(this.#root, { folder: '', begin: `${this.#jobId}-`, namesOf, pages });
  }
}

function missing(path: string, files: number): Finding {
  return { problem: 'missing', name: null, path, files, message: 'there is no such file' };
}

async function isThere(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isFile();
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw error;
    return false;
  }
}
