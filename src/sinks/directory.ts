/** Files in a folder below DATA_DIR, each under its own name. */
import { randomUUID } from 'node:crypto';
import {
  closeSync,
  openSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { getSystemErrorMessage } from 'node:util';
import { FetchError, systemCode } from '../errors.ts';
import { checkName, privateFolder } from '../names.ts';
import type { DirectorySinkSpec } from '../schemas.ts';
import { Folders, folderOf } from './folders.ts';
import type { BodyWriter, Found, PageWriter, Sink, SinkKind } from './index.ts';

const clockWaitMsMax = 10_000;
const clockStepMs = 2;

// Temporary files have a folder of their own, one for each worker: it is on the sink's file system, so that a rename is
// atomic; no listed name can collide with them; and what a killed process leaves is found by listing one small folder
// instead of walking a tree of millions. A rename across folders was measured to cost what one within a folder does.
const temporaryFolders = `${privateFolder}/tmp`;

/** Each file of a job at `DATA_DIR/{path}/{name}`. A file is written elsewhere and renamed: it is whole or not there. */
export const directory: SinkKind<DirectorySinkSpec> = {
  async open(spec, context) {
    try {
      const folders = openRoot(spec.path, context.dataDir);
      const temporary = `${temporaryFolders}/${context.workerId}`;
      folders.enter(temporary, true);
      const startMs = await begin(folders, temporary, context.jobId);
      return new DirectorySink(folders, temporary, context.workerId, startMs);
    } catch (error) {
      if (error instanceof FetchError && error.reason === 'sink') throw error;
      throw new FetchError('sink', `the sink "${spec.path}" cannot be opened: ${wordsOf(error)}`, { cause: error });
    }
  },
};

/** Makes the sink's folder; it must really lie below DATA_DIR, and not in what a sink keeps for itself. */
function openRoot(path: string, dataDir: string): Folders {
  if (checkName(path) !== null || path.toLowerCase().split('/').includes(privateFolder)) {
    throw new FetchError('sink', `"${path}" cannot be the path of a sink`);
  }
  const data = new Folders(realpathSync.native(dataDir), 'DATA_DIR');
  data.enter(path, true);
  return new Folders(realpathSync.native(data.root + path), 'the sink');
}

/**
 * Marks the begin of the job by a file that whoever comes first makes and nobody changes. Returns its modification time
 * in milliseconds once files written now get a later one. The file system's own clock tells that: its ticks may be long
 * (10 ms where Linux runs at 100 Hz), and on a network it is another host's.
 */
async function begin(folders: Folders, temporary: string, jobId: string): Promise<number> {
  const start = `${folders.root}${privateFolder}/${jobId}.start`;
  try {
    closeSync(openSync(start, 'wx'));
  } catch (error) {
    if (systemCode(error) !== 'EEXIST') throw error;
  }
  const startMs = statSync(start).mtimeMs;
  const probe = `${folders.root}${temporary}/${jobId}.clock`;
  const now = (): number => {
    writeFileSync(probe, '.');
    return statSync(probe).mtimeMs;
  };
  try {
    for (let waitedMs = 0; waitedMs < clockWaitMsMax; waitedMs += clockStepMs) {
      if (twice(folders, temporary, now) > startMs) return startMs;
      await delay(clockStepMs);
    }
  } finally {
    removeQuietly(probe);
  }
  throw new FetchError('sink', 'the clock of the file system is behind the time at which the job was begun');
}

/** Another host's sweep, or a hand, may have taken folders away under this process: they are made again, once. */
function twice<T>(folders: Folders, temporary: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw error;
    folders.forget();
    folders.enter(temporary, true);
    return action();
  }
}

class DirectorySink implements Sink, PageWriter {
  readonly #folders: Folders;
  readonly #temporary: string;
  readonly #workerId: string;
  readonly #startMs: number;
  /** One is enough for `put`: it is synchronous, so at most one such file is half done. */
  readonly #putPath: string;

  constructor(folders: Folders, temporary: string, workerId: string, startMs: number) {
    this.#folders = folders;
    this.#temporary = temporary;
    this.#workerId = workerId;
    this.#startMs = startMs;
    this.#putPath = `${folders.root}${temporary}/put`;
  }

  page(): PageWriter {
    return this;
  }

  find(name: string): Found | null {
    try {
      if (!this.#folders.enter(folderOf(name), false)) return null;
      const stats = this.#folders.look(name);
      if (stats === null) return null;
      if (!stats.isFile()) throw new FetchError('name_conflict', 'something that is not a file is in its place');
      return { whose: stats.mtimeMs > this.#startMs ? 'ours' : 'theirs', sizeBytes: stats.size };
    } catch (error) {
      throw fileError(error);
    }
  }

  put(name: string, body: Uint8Array): void {
    try {
      twice(this.#folders, this.#temporary, () => {
        this.#folders.enter(folderOf(name), true);
        writeFileSync(this.#putPath, body);
        renameSync(this.#putPath, this.#folders.root + name);
      });
    } catch (error) {
      removeQuietly(this.#putPath);
      throw fileError(error);
    }
  }

  open(name: string): BodyWriter {
    const path = `${this.#folders.root}${this.#temporary}/${randomUUID()}`;
    const enter = (): boolean => this.#folders.enter(folderOf(name), true);
    try {
      const fd = twice(this.#folders, this.#temporary, () => {
        enter();
        return openSync(path, 'wx');
      });
      return new DirectoryBodyWriter(fd, path, () => {
        twice(this.#folders, this.#temporary, () => {
          enter();
          renameSync(path, this.#folders.root + name);
        });
      });
    } catch (error) {
      throw fileError(error);
    }
  }

  sweep(alive: ReadonlySet<string>): void {
    try {
      const path = this.#folders.root + temporaryFolders;
      for (const workerId of readdirSync(path)) {
        if (workerId === this.#workerId || alive.has(workerId)) continue;
        rmSync(`${path}/${workerId}`, { recursive: true, force: true });
      }
    } catch {
      // What is left is swept the next time.
    }
  }

  close(): void {
    try {
      rmdirSync(this.#folders.root + this.#temporary);
    } catch {
      // Not empty, or gone already: others sweep it when this worker is no longer alive.
    }
  }
}

class DirectoryBodyWriter implements BodyWriter {
  #fd: number | null;
  readonly #path: string;
  readonly #publish: () => void;

  constructor(fd: number, path: string, publish: () => void) {
    this.#fd = fd;
    this.#path = path;
    this.#publish = publish;
  }

  write(chunk: Uint8Array): void {
    try {
      if (this.#fd === null) throw new FetchError('sink', 'the file was given up');
      // A write may be short where the disk is nearly full.
      for (let offset = 0; offset < chunk.length;) offset += writeSync(this.#fd, chunk, offset);
    } catch (error) {
      throw fileError(error);
    }
  }

  finish(): void {
    try {
      this.#close();
      this.#publish();
    } catch (error) {
      throw fileError(error);
    }
  }

  abort(): void {
    try {
      this.#close();
    } catch {
      // The file goes anyway.
    }
    removeQuietly(this.#path);
  }

  /** Some file systems tell only here that the disk is full. */
  #close(): void {
    const fd = this.#fd;
    this.#fd = null;
    if (fd !== null) closeSync(fd);
  }
}

function removeQuietly(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // Gone already, or swept later.
  }
}

/** What the system's error means for the one file that was to be stored. */
function fileError(error: unknown): FetchError {
  if (error instanceof FetchError) return error;
  switch (systemCode(error)) {
    case 'EISDIR':
    case 'ENOTDIR':
    case 'EEXIST':
      return new FetchError('name_conflict', 'a file is where a folder must be, or the reverse', { cause: error });
    case 'ENAMETOOLONG':
    case 'EILSEQ':
      return new FetchError('unsafe_name', `the file system does not take the name: ${wordsOf(error)}`, {
        cause: error,
      });
    case 'EXDEV':
      return new FetchError('sink', 'another file system is mounted inside the sink', { cause: error });
    case 'ENOENT':
      // Another attempt makes them again: nothing is wrong with the disk.
      return new FetchError('sink', 'its folder or its temporary file was taken away', {
        cause: error,
        retryable: true,
      });
    default:
      return new FetchError('sink', `the file cannot be stored: ${wordsOf(error)}`, { cause: error });
  }
}

/** The system's code and words without the path, which is nobody's business but the host's: "ENOSPC: no space left on device". */
function wordsOf(error: unknown): string {
  const code = systemCode(error);
  if (code !== undefined && error instanceof Error && 'errno' in error && typeof error.errno === 'number') {
    return `${code}: ${getSystemErrorMessage(error.errno)}`;
  }
  return error instanceof Error ? error.message : String(error);
}
