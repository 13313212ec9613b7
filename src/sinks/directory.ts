/** Files in a folder below DATA_DIR, each under its own name. */
import { randomUUID } from 'node:crypto';
import { closeSync, existsSync, opendirSync, openSync, renameSync, statSync, writeFileSync, type Stats } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { Type, type Static } from 'typebox';
import { FetchError, systemCode } from '../errors.ts';
import { failpoint } from '../failpoint.ts';
import { privateFolder } from '../names.ts';
import { closed, type Filled } from '../schema-parts.ts';
import { syncPath } from '../sync-path.ts';
import { folderOf, type Folders } from './folders.ts';
import type { BodyWriter, Found, PageWriter, Sink, SinkContext } from './index.ts';
import { Manifests, manifestsFolder, ManifestWriter } from './manifest.ts';
import { Notes } from './notes.ts';
import { DurabilitySchema, PathSchema } from './sink-fields.ts';
import { StoredFiles } from './stored-files.ts';
import type { Stored } from './stored.ts';
import { openError, removeQuietly, storeError, Temporary, TemporaryWriter } from './temporary.ts';

const clockWaitMsMax = 10_000;
const clockStepMs = 2;
const sampleNames = 8;

const ManifestSchema = Type.Optional(
  Type.Boolean({
    default: false,
    description:
      'Keeps URL, size, SHA-256 and time of each file beside the files, for `GET /jobs/{id}/manifest` and ' +
      '`POST /jobs/{id}/verify`. Archives always do.',
  }),
);

const DirectorySinkSchema = Type.Object(
  { type: Type.Literal('directory'), path: PathSchema, durability: DurabilitySchema, manifest: ManifestSchema },
  {
    ...closed,
    title: 'Directory',
    description: "A file for each name; a name's `/` makes folders. A file is whole or not there.",
  },
);

/** `manifest` is lacking in orders that are older than it. */
export type DirectorySinkSpec = Omit<Filled<Static<typeof DirectorySinkSchema>>, 'manifest'> & {
  manifest?: boolean;
};

/** Each file of a job at `DATA_DIR/{path}/{name}`. A file is written elsewhere and renamed: it is whole or not there. */
export const directory = {
  schema: DirectorySinkSchema,

  async open(spec: DirectorySinkSpec, context: SinkContext): Promise<Sink> {
    try {
      const temporary = new Temporary(spec.path, context);
      const begun = await begin(temporary, context.jobId);
      const sync = spec.durability === 'power';
      const manifests = spec.manifest === true ? new Manifests(temporary, context.jobId, sync) : undefined;
      if (sync) await temporary.syncFolders(...(manifests === undefined ? [] : [manifestsFolder]));
      return new DirectorySink(temporary, begun, sync, manifests);
    } catch (error) {
      throw openError(spec.path, error);
    }
  },

  stored(_spec: DirectorySinkSpec, root: string, jobId: string): Stored {
    return new StoredFiles(root, jobId);
  },
};

/** How a job found its folder. */
interface Begun {
  /** Files that are written since get a later modification time, in milliseconds. */
  readonly startMs: number;
  readonly wasEmpty: boolean;
}

/**
 * Marks the begin of the job by a file that whoever comes first makes and nobody changes, and before that by another one
 * if nothing is there. The file system's own clock tells the time: its ticks may be long (10 ms where Linux runs at
 * 100 Hz), and on a network it is another host's.
 */
async function begin(temporary: Temporary, jobId: string): Promise<Begun> {
  const own = `${temporary.folders.root}${privateFolder}/${jobId}`;
  const [start, empty] = [`${own}.start`, `${own}.empty`];
  // Once it has begun, files of its own may be there.
  if (!existsSync(start) && isEmpty(temporary.folders.root)) touch(empty);
  touch(start);
  const startMs = statSync(start).mtimeMs;
  const probe = temporary.path(`${jobId}.clock`);
  const now = (): number => {
    writeFileSync(probe, '.');
    return statSync(probe).mtimeMs;
  };
  try {
    for (let waitedMs = 0; waitedMs < clockWaitMsMax; waitedMs += clockStepMs) {
      if (temporary.twice(now) > startMs) return { startMs, wasEmpty: existsSync(empty) };
      await delay(clockStepMs);
    }
  } finally {
    removeQuietly(probe);
  }
  throw new FetchError('sink', 'the clock of the file system is behind the time at which the job was begun');
}

/** The first of a page's names, as they are fetched in order, and a few of the others. */
function someOf(names: readonly string[]): string[] {
  const step = Math.ceil(names.length / sampleNames);
  return names.filter((_, index) => index < sampleNames || index % step === 0);
}

/** Makes an empty file; one that is there stays as it is. */
function touch(path: string): void {
  try {
    closeSync(openSync(path, 'wx'));
  } catch (error) {
    if (systemCode(error) !== 'EEXIST') throw error;
  }
}

/** Whether nothing is in the root of a sink but what the sink keeps for itself. Reads two entries at most, as it may be large. */
function isEmpty(root: string): boolean {
  const entries = opendirSync(root, { bufferSize: 2 });
  try {
    return entries.readSync()?.name === privateFolder && entries.readSync() === null;
  } finally {
    entries.closeSync();
  }
}

class DirectorySink implements Sink {
  readonly #folders: Folders;
  readonly #temporary: Temporary;
  readonly #notes: Notes;
  readonly #begun: Begun;
  readonly #sync: boolean;
  /** One is enough for `put`: it is synchronous, so at most one such file is half done. */
  readonly #putPath: string;
  readonly publisher: Manifests | undefined;

  constructor(temporary: Temporary, begun: Begun, sync: boolean, manifests: Manifests | undefined) {
    this.#folders = temporary.folders;
    this.#temporary = temporary;
    this.#notes = new Notes(temporary);
    this.#begun = begun;
    this.#sync = sync;
    this.#putPath = temporary.path('put');
    this.publisher = manifests;
  }

  page(seq: number, nonce: string, names: readonly string[], isFirst = false): PageWriter {
    // A look at each name costs a tenth of a file. A rollback of Redis makes an attempt the first that is not: some names tell.
    const isThere = !(isFirst && this.#begun.wasEmpty) || someOf(names).some((name) => this.#mayBeThere(name));
    const page: PageWriter = {
      find: (name) => (isThere ? this.#find(name) : null),
      put: (name, body) => this.#put(name, body),
      open: (name) => this.#open(name),
      note: (name, text) => this.#note(name, text),
      noted: (name) => (isThere ? this.#noted(name) : null),
      ...(this.#sync && { finish: () => this.#syncFolders(names) }),
    };
    return this.publisher === undefined ? page : new ManifestWriter(page, this.publisher, seq, nonce);
  }

  #find(name: string): Found | null {
    try {
      const stats = this.#look(name);
      if (stats === null) return null;
      if (!stats.isFile()) throw new FetchError('name_conflict', 'something that is not a file is in its place');
      return { whose: stats.mtimeMs > this.#begun.startMs ? 'ours' : 'theirs', sizeBytes: stats.size };
    } catch (error) {
      throw storeError(error);
    }
  }

  #put(name: string, body: Uint8Array): void {
    try {
      this.#temporary.twice(() => {
        this.#folders.enter(folderOf(name), true);
        writeFileSync(this.#putPath, body, { flush: this.#sync });
        failpoint('written');
        renameSync(this.#putPath, this.#folders.root + name);
        failpoint('stored');
      });
    } catch (error) {
      removeQuietly(this.#putPath);
      throw storeError(error);
    }
  }

  #open(name: string): BodyWriter {
    const path = this.#temporary.path(randomUUID());
    const enter = (): boolean => this.#folders.enter(folderOf(name), true);
    try {
      const fd = this.#temporary.twice(() => {
        enter();
        return openSync(path, 'wx');
      });
      return new TemporaryWriter(
        fd,
        path,
        () => {
          this.#temporary.twice(() => {
            enter();
            failpoint('written');
            renameSync(path, this.#folders.root + name);
            failpoint('stored');
          });
        },
        this.#sync,
      );
    } catch (error) {
      throw storeError(error);
    }
  }

  #note(name: string, text: string): void {
    const stats = this.#lookQuietly(name);
    if (stats !== null) this.#notes.write(name, stats, text);
  }

  #noted(name: string): string | null {
    const stats = this.#lookQuietly(name);
    return stats === null ? null : this.#notes.read(name, stats);
  }

  #look(name: string): Stats | null {
    return this.#folders.enter(folderOf(name), false) ? this.#folders.look(name) : null;
  }

  #mayBeThere(name: string): boolean {
    try {
      return this.#look(name) !== null;
    } catch {
      return true;
    }
  }

  #lookQuietly(name: string): Stats | null {
    try {
      return this.#look(name);
    } catch {
      return null;
    }
  }

  /**
   * Bodies are on the disk before they are renamed; here, that they were renamed: also those that an attempt before this one
   * stored, and the folders that were made for them.
   */
  async #syncFolders(names: readonly string[]): Promise<{ members: 0 }> {
    const folders = new Set(['']);
    try {
      for (const name of names) {
        for (let folder = folderOf(name); folder !== '' && !folders.has(folder); folder = folderOf(folder)) {
          if (this.#isEntered(folder)) folders.add(folder);
        }
      }
      for (const folder of folders) await syncPath(this.#folders.root + folder);
    } catch (error) {
      throw storeError(error);
    }
    return { members: 0 };
  }

  /** Whether the folder is there. Of those names that failed, it may be none, or none that can be. */
  #isEntered(folder: string): boolean {
    try {
      return this.#folders.enter(folder, false);
    } catch (error) {
      if (error instanceof FetchError || storeError(error).reason === 'unsafe_name') return false;
      throw error;
    }
  }

  sweep(alive: ReadonlySet<string>): void {
    this.#temporary.sweep(alive);
  }

  close(): void {
    this.#temporary.close();
  }
}
