import { createReadStream } from 'node:fs';
import type { Piscina } from 'piscina';
import { systemCode } from '../errors.ts';
import type { Finding } from '../manifest-schemas.ts';
import { checkName } from '../names.ts';
import type { Comparison } from './compare-files.ts';
import { manifestFolder, manifestName, type ManifestLine } from './manifest.ts';
import { linesUntilDamage } from './shards/read-shard.ts';
import type { Checked, Stored } from './stored.ts';
import { straysIn } from './strays.ts';

/** Of each comparison: they wait for the disk side by side. */
const THREADS = 4;
/** Of all comparisons in this process. */
const THREADS_MAX = 8;
/** So many that handing them over costs next to nothing. */
const FILES_AT_ONCE = 100;

type Threads = Piscina<Comparison, Finding[]>;
let threads: Promise<Threads> | undefined;

/** A worker compares nothing, and starts sooner without what makes threads. */
async function makeThreads(): Promise<Threads> {
  const { Piscina } = await import('piscina');
  return new Piscina({
    filename: new URL('compare-files.ts', import.meta.url).href,
    name: 'compareFiles',
    minThreads: 0,
    maxThreads: THREADS_MAX,
    idleTimeout: 10_000,
    recordTiming: false,
  });
}

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
    const running: Promise<Finding[]>[] = [];
    for await (const some of batches(linesUntilDamage(this.#root + path, isLine))) {
      if (!(some instanceof Error)) {
        const findings = this.#compare(some, checked);
        // Its error is thrown when its turn comes, if it comes.
        findings.catch(() => {});
        running.push(findings);
        if (running.length >= THREADS) yield* (await running.shift()) ?? [];
      } else if (systemCode(some) !== 'ENOENT') {
        checked.partly = true;
        yield { problem: 'index', name: null, path, files: 0, message: some.message };
      }
    }
    for (const findings of running) yield* await findings;
  }

  strays(pages: number): AsyncGenerator<Finding> {
    return straysIn(this.#root, { folder: this.#folder, begin: '', namesOf: (seq) => [manifestName(seq)], pages });
  }

  async #compare(files: readonly ManifestLine[], checked: Checked): Promise<Finding[]> {
    checked.filesChecked += files.length;
    for (const { listed } of files) checked.filesInManifest += listed ?? 1;
    const { endedMs, bytes, signal } = checked;
    const comparison: Comparison = { root: this.#root, files, endedMs, bytes };
    threads ??= makeThreads();
    const findings = await (await threads).run(comparison, { signal });
    checked.filesRight += files.length - findings.length;
    return findings;
  }
}

/** Whether a line says what it must. */
function isLine({ name, sizeBytes, sha256 }: ManifestLine): boolean {
  return checkName(name) === null && Number.isSafeInteger(sizeBytes) && (sha256 === null || sha256.length === 64);
}

async function* batches(lines: AsyncIterable<ManifestLine | Error>): AsyncGenerator<ManifestLine[] | Error> {
  let files: ManifestLine[] = [];
  for await (const line of lines) {
    if (line instanceof Error) {
      yield line;
    } else if (files.push(line) === FILES_AT_ONCE) {
      yield files;
      files = [];
    }
  }
  if (files.length > 0) yield files;
}
