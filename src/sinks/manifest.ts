/** What a directory sink keeps of its files beside them: for each page a file with a line for each of its files. */
import { createHash, hash, randomUUID } from 'node:crypto';
import { existsSync, renameSync } from 'node:fs';
import { systemCode } from '../errors.ts';
import { privateFolder } from '../names.ts';
import { syncPath } from '../sync-path.ts';
import { digestOf } from './digest.ts';
import type { BodyWriter, FileUrl, Found, PageWriter, Publisher } from './index.ts';
import { filesFrom, MadeFiles, removerOf, seqName } from './made.ts';
import { BlockFile } from './shards/block-file.ts';
import { removeQuietly, storeError, type Temporary } from './temporary.ts';

/** A line of such a file, as JSON. */
export interface ManifestLine {
  readonly name: string;
  readonly url: string;
  readonly sizeBytes: number;
  /** In hexadecimal digits; null: the file was there before, and was not read. */
  readonly sha256: string | null;
  readonly outcome: 'downloaded' | 'skipped';
  /** When it was stored, or found to be there. ISO 8601. */
  readonly at: string;
  /** How often the page lists it, where that is more than once. */
  readonly listed?: number;
}

export const manifestsFolder = `${privateFolder}/manifests`;
const madeFolder = `${manifestsFolder}/made`;
const READ_AT_ONCE = 16;
const nowhere: FileUrl = { origin: '', path: '' };

/** The folder of a job's manifest below the root of the sink. */
export function manifestFolder(jobId: string): string {
  return `${manifestsFolder}/${jobId}`;
}

/** The name of a page's file in that folder. */
export function manifestName(seq: number): string {
  return `${seqName(seq)}.ndjson`;
}

/** The manifest of one job, in the making by one worker process. */
export class Manifests implements Publisher {
  readonly temporary: Temporary;
  readonly made: MadeFiles;
  readonly sync: boolean;
  readonly #folder: string;

  /** `sync`: what is published survives a loss of power. Throws FetchError, and the system's errors. */
  constructor(temporary: Temporary, jobId: string, sync: boolean) {
    this.temporary = temporary;
    this.sync = sync;
    this.#folder = manifestFolder(jobId);
    temporary.folders.enter(this.#folder, true);
    this.made = new MadeFiles(temporary, madeFolder, jobId);
  }

  async publish(seq: number, nonce: string): Promise<boolean> {
    const { folders } = this.temporary;
    const published = this.#published(seq);
    try {
      const isFirst = this.#rename(`${this.made.path(seq, nonce)}.tmp`, published);
      if (this.sync) await syncPath(folders.root + this.#folder);
      // One who comes late knows nothing of who won since.
      if (isFirst) this.made.remove(seq);
      return existsSync(published);
    } catch (error) {
      throw storeError(error);
    }
  }

  remove(seq: number): void {
    removeQuietly(this.#published(seq));
  }

  leftovers(pages: number): (() => void) | null {
    const published = filesFrom(pages, this.temporary.folders.root + this.#folder, '');
    return removerOf([...this.made.all(), ...published]);
  }

  #published(seq: number): string {
    return `${this.temporary.folders.root}${this.#folder}/${manifestName(seq)}`;
  }

  /** False where it was done before. */
  #rename(from: string, to: string): boolean {
    try {
      this.temporary.twice(() => {
        this.temporary.folders.enter(this.#folder, true);
        renameSync(from, to);
      });
      return true;
    } catch (error) {
      if (systemCode(error) !== 'ENOENT') throw error;
      return false;
    }
  }
}

/** Writes what `inner` stores of a page into the page's part of the manifest. */
export class ManifestWriter implements PageWriter {
  readonly #inner: PageWriter;
  readonly #manifests: Manifests;
  /** Where it lies from `finish` on. */
  readonly #made: string;
  /** Stored by an attempt before this one: only the disk tells their hashes. */
  readonly #ours: { readonly name: string; readonly from: FileUrl; readonly found: Found }[] = [];
  #file: BlockFile | null = null;
  #lines = 0;

  constructor(inner: PageWriter, manifests: Manifests, seq: number, nonce: string) {
    this.#inner = inner;
    this.#manifests = manifests;
    this.#made = `${manifests.made.path(seq, nonce)}.tmp`;
  }

  find(name: string): Found | null {
    return this.#inner.find(name);
  }

  note(name: string, text: string): void {
    this.#inner.note?.(name, text);
  }

  noted(name: string): string | null {
    return this.#inner.noted?.(name) ?? null;
  }

  put(name: string, body: Uint8Array, from: FileUrl = nowhere): void {
    this.#inner.put(name, body, from);
    this.#add(name, from, 'downloaded', body.length, hash('sha256', body, 'hex'), Date.now());
  }

  open(name: string, from: FileUrl = nowhere): BodyWriter {
    const body = this.#inner.open(name, from);
    const digest = createHash('sha256');
    let sizeBytes = 0;
    return {
      write: (chunk) => {
        body.write(chunk);
        digest.update(chunk);
        sizeBytes += chunk.length;
      },
      finish: () => {
        body.finish();
        this.#add(name, from, 'downloaded', sizeBytes, digest.digest('hex'), Date.now());
      },
      abort: () => body.abort(),
    };
  }

  /** What was there before is not read: that would cost what skipping it saves. */
  keep(name: string, found: Found, from: FileUrl): void {
    if (found.whose === 'ours') this.#ours.push({ name, from, found });
    else this.#add(name, from, 'skipped', found.sizeBytes, null, Date.now());
  }

  async finish(): Promise<{ members: number }> {
    const { temporary, made, sync } = this.#manifests;
    try {
      await this.#inner.finish?.();
      await this.#readOurs();
      const file = this.#file;
      if (file === null) return { members: 0 };
      await file.finish(sync);
      temporary.twice(() => {
        temporary.folders.enter(made.folder, true);
        renameSync(file.path, this.#made);
      });
      if (sync) await syncPath(temporary.folders.root + made.folder);
      return { members: this.#lines };
    } catch (error) {
      this.discard();
      throw storeError(error);
    }
  }

  discard(): void {
    this.#inner.discard?.();
    this.#file?.discard();
    removeQuietly(this.#made);
  }

  async #readOurs(): Promise<void> {
    const { root } = this.#manifests.temporary.folders;
    while (this.#ours.length > 0) {
      const some = this.#ours.splice(-READ_AT_ONCE);
      // What was taken away since is said as it was found.
      const digests = await Promise.all(some.map(({ name }) => digestOf(root + name).catch(() => null)));
      for (const [index, { name, from, found }] of some.entries()) {
        const { sizeBytes, sha256, atMs } = digests[index] ?? { ...found, sha256: null, atMs: Date.now() };
        this.#add(name, from, 'downloaded', sizeBytes, sha256, atMs);
      }
    }
  }

  #add(
    name: string,
    { origin, path, listed = 1 }: FileUrl,
    outcome: ManifestLine['outcome'],
    sizeBytes: number,
    sha256: string | null,
    atMs: number,
  ): void {
    const at = new Date(atMs).toISOString();
    const line: ManifestLine = { name, url: origin + path, sizeBytes, sha256, outcome, at };
    this.#file ??= this.#create();
    this.#file.write(Buffer.from(`${JSON.stringify(listed === 1 ? line : { ...line, listed })}\n`));
    this.#lines += 1;
  }

  #create(): BlockFile {
    const { temporary } = this.#manifests;
    const path = temporary.path(randomUUID());
    try {
      return temporary.twice(() => new BlockFile(path, 'none', () => {}));
    } catch (error) {
      throw storeError(error);
    }
  }
}
