import { createReadStream } from 'node:fs';
import { realpath } from 'node:fs/promises';
import { FetchError, systemCode } from '../errors.ts';
import type { Finding } from '../manifest-schemas.ts';
import { checkName } from '../names.ts';
import { digestOf, withFile } from './digest.ts';
import { manifestFolder, manifestName, type ManifestLine } from './manifest.ts';
import { linesUntilDamage } from './shards/read-shard.ts';
import type { Checked, Stored } from './stored.ts';
import { straysIn } from './strays.ts';

/** They wait for the disk side by side. */
const AT_ONCE = 8;

/** The files of a directory sink that keeps a manifest. */
export class StoredFiles implements Stored {
  readonly #root: string;
  /** Of the manifest, below the root. */
  readonly #folder: string;

  /** `root`: the real path of the sink's folder, and "/". */
  constructor(root: string, jobId: string) {
    this.#root = root;
    this.#folder = `${manifestFolder(jobId)}/`;
  }

  async *lines(seq: number): AsyncGenerator<Buffer> {
    try {
      yield* createReadStream(this.#root + this.#folder + manifestName(seq)) as AsyncIterable<Buffer>;
    } catch (error) {
      if (systemCode(error) !== 'ENOENT') throw error;
    }
  }

  async *check(seq: number, checked: Checked): AsyncGenerator<Finding> {
    const path = this.#folder + manifestName(seq);
    let some: Promise<Finding | null>[] = [];
    for await (const line of linesUntilDamage(this.#root + path, isLine)) {
      if (!(line instanceof Error)) {
        some.push(this.#checkFile(line, checked));
        if (some.length < AT_ONCE) continue;
      } else if (systemCode(line) !== 'ENOENT') {
        checked.partly = true;
        yield { problem: 'index', name: null, path, files: 0, message: line.message };
      }
      yield* found(some);
      some = [];
    }
    yield* found(some);
  }

  strays(pages: number): AsyncGenerator<Finding> {
    return straysIn(this.#root, { folder: this.#folder, begin: '', namesOf: (seq) => [manifestName(seq)], pages });
  }

  async #checkFile(line: ManifestLine, checked: Checked): Promise<Finding | null> {
    const { name } = line;
    checked.filesChecked += 1;
    checked.filesInManifest += line.listed ?? 1;
    const finding = (problem: Finding['problem'], message: string): Finding => {
      return { problem, name, path: name, files: 1, message };
    };
    try {
      const path = await realpath(this.#root + name);
      if (!path.startsWith(this.#root)) return finding('unreadable', 'a symbolic link leads out of the sink');
      const difference = await differenceOf(path, line, checked);
      if (difference === null) checked.filesRight += 1;
      return difference && finding(...difference);
    } catch (error) {
      checked.signal.throwIfAborted();
      const code = systemCode(error);
      if (code === 'ENOENT' || code === 'ENOTDIR') return finding('missing', 'there is no such file');
      if (code !== undefined) return finding('unreadable', code);
      if (error instanceof FetchError) return finding('unreadable', error.message);
      throw error;
    }
  }
}

/** Whether a line says what it must. */
function isLine({ name, sizeBytes, sha256 }: ManifestLine): boolean {
  return checkName(name) === null && Number.isSafeInteger(sizeBytes) && (sha256 === null || sha256.length === 64);
}

async function* found(some: readonly Promise<Finding | null>[]): AsyncGenerator<Finding> {
  for (const finding of await Promise.all(some)) if (finding !== null) yield finding;
}

function differenceOf(
  path: string,
  line: ManifestLine,
  checked: Checked,
): Promise<['size' | 'checksum', string] | null> {
  return withFile(path, async (file, stats) => {
    const since = stats.ctimeMs > checked.endedMs ? ', after the end of the job' : '';
    const changed = `; it was changed at ${stats.ctime.toISOString()}${since}`;
    if (stats.size !== line.sizeBytes) return ['size', `it has ${stats.size} bytes, not ${line.sizeBytes}${changed}`];
    if (line.sha256 === null) return null;
    const { sha256 } = await digestOf(file, stats, (bytes) => {
      checked.bytesRead += bytes;
      checked.signal.throwIfAborted();
    });
    return sha256 === line.sha256 ? null : ['checksum', `its content is another one${changed}`];
  });
}
