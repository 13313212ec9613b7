/** Files in a folder below DATA_DIR, each under its own name. */
import { randomUUID } from 'node:crypto';
import { closeSync, openSync, renameSync, statSync, writeFileSync, type Stats } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { Type, type Static } from 'typebox';
import { FetchError, systemCode } from '../errors.ts';
import { failpoint } from '../failpoint.ts';
import { privateFolder } from '../names.ts';
import { closed, type Filled } from '../schema-parts.ts';
import { folderOf, type Folders } from './folders.ts';
import type { BodyWriter, Found, PageWriter, Sink, SinkContext } from './index.ts';
import { Manifests, manifestsFolder, ManifestWriter } from './manifest.ts';
import { Notes } from './notes.ts';
import { DurabilitySchema, PathSchema } from './sink-fields.ts';
import { StoredFiles } from './stored-files.ts';
import type { Stored } from './stored.ts';
import { openError, removeQuietly, storeError, syncFolder, Temporary, TemporaryWriter } from './temporary.ts';

const clockWaitMsMax = 10_000;
const clockStepMs = 2;

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
      const startMs = await begin(temporary, context.jobId);
      const sync = spec.durability === 'power';
      const manifests = spec.manifest === true ? new Manifests(temporary, context.jobId, sync) : undefined;
      if (sync) await temporary.syncFolders(...(manifests === undefined ? [] : [manifestsFolder]));
      return new DirectorySink(temporary, startMs, sync, manifests);
    } catch (error) {
      throw openError(spec.path, error);
    }
  },

  stored(_spec: DirectorySinkSpec, root: string, jobId: string): Stored {
    return new StoredFiles(root, jobId);
  },
};

/**
 * Marks the begin of the job by a file that whoever comes first makes and nobody changes. Returns its modification time
 * in milliseconds once files written now get a later one. The file system's own clock tells that: its ticks may be long
 * (10 ms where Linux runs at 100 Hz), and on a network it is another host's.
 */
async function begin(temporary: Temporary, jobId: string): Promise<number> {
  const start = `${temporary.folders.root}${privateFolder}/${jobId}.start`;
  try {
    closeSync(openSync(start, 'wx'));
  } catch (error) {
    if (systemCode(error) !== 'EEXIST') throw error;
  }
  const startMs = statSync(start).mtimeMs;
  const probe = temporary.path(`${jobId}.clock`);
  const now = (): number => {
    writeFileSync(probe, '.');
    return statSync(probe).mtimeMs;
  };
  try {
    for (let waitedMs = 0; waitedMs < clockWaitMsMax; waitedMs += clockStepMs) {
      if (temporary.twice(now) > startMs) return startMs;
      await delay(clockStepMs);
    }
  } finally {
    removeQuietly(probe);
  }
  throw new FetchError('sink', 'the clock of the file system is behind the time at which the job was begun');
}

class DirectorySink implements Sink, PageWriter {
  readonly #folders: Folders;
  readonly #temporary: Temporary;
  readonly #notes: Notes;
  readonly #startMs: number;
  readonly #sync: boolean;
  /** One is enough for `put`: it is synchronous, so at most one such file is half done. */
  readonly #putPath: string;
  readonly publisher: Manifests | undefined;

  constructor(temporary: Temporary, startMs: number, sync: boolean, manifests: Manifests | undefined) {
    this.#folders = temporary.folders;
    this.#temporary = temporary;
    this.#notes = new Notes(temporary);
    this.#startMs = startMs;
    this.#sync = sync;
    this.#putPath = temporary.path('put');
    this.publisher = manifests;
  }

  page(seq: number, nonce: string, names: readonly string[]): PageWriter {
    const page = this.#sync ? this.#syncedPage(names) : this;
    return this.publisher === undefined ? page : new ManifestWriter(page, this.publisher, seq, nonce);
  }

  find(name: string): Found | null {
    try {
      const stats = this.#look(name);
      if (stats === null) return null;
      if (!stats.isFile()) throw new FetchError('name_conflict', 'something that is not a file is in its place');
      return { whose: stats.mtimeMs > this.#startMs ? 'ours' : 'theirs', sizeBytes: stats.size };
    } catch (error) {
      throw storeError(error);
    }
  }

  put(name: string, body: Uint8Array): void {
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

  open(name: string): BodyWriter {
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

  note(name: string, text: string): void {
    const stats = this.#lookQuietly(name);
    if (stats !== null) this.#notes.write(name, stats, text);
  }

  noted(name: string): string | null {
    const stats = this.#lookQuietly(name);
    return stats === null ? null : this.#notes.read(name, stats);
  }

  #look(name: string): Stats | null {
    return this.#folders.enter(folderOf(name), false) ? this.#folders.look(name) : null;
  }

  #lookQuietly(name: string): Stats | null {
    try {
      return this.#look(name);
    } catch {
      return null;
    }
  }

  /** Bodies are on the disk before they are renamed; here, that they were renamed. */
  #syncedPage(names: readonly string[]): PageWriter {
    return {
      find: (name) => this.find(name),
      put: (name, body) => this.put(name, body),
      open: (name) => this.open(name),
      note: (name, text) => this.note(name, text),
      noted: (name) => this.noted(name),
      finish: async () => {
        // Also of files that an attempt before this one stored, and of folders that were made for them.
        const folders = new Set(['']);
        for (const name of names) {
          for (let folder = folderOf(name); folder !== '' && !folders.has(folder); folder = folderOf(folder)) {
            if (this.#folders.enter(folder, false)) folders.add(folder);
          }
        }
        try {
          for (const folder of folders) await syncFolder(this.#folders.root + folder);
        } catch (error) {
          throw storeError(error);
        }
        return { members: 0 };
      },
    };
  }

  sweep(alive: ReadonlySet<string>): void {
    this.#temporary.sweep(alive);
  }

  close(): void {
    this.#temporary.close();
  }
}
