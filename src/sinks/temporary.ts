/** What sinks on disk share: their root, the temporary files in it, and what the system's errors mean. */
import { closeSync, fdatasyncSync, readdirSync, realpathSync, rmdirSync, rmSync, unlinkSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { getSystemErrorMessage } from 'node:util';
import { FetchError, systemCode } from '../errors.ts';
import { checkName, privateFolder } from '../names.ts';
import { syncPath } from '../sync-path.ts';
import { Folders } from './folders.ts';
import type { BodyWriter, SinkContext } from './index.ts';

// Temporary files have a folder of their own, one for each worker: it is on the sink's file system, so that a rename is
// atomic; no listed name can collide with them; and what a killed process leaves is found by listing one small folder
// instead of walking a tree of millions. A rename across folders was measured to cost what one within a folder does.
const temporaryFolders = `${privateFolder}/tmp`;

/** One worker's temporary files in one sink. */
export class Temporary {
  /** Below the root of the sink. */
  readonly folders: Folders;
  readonly #dataDir: string;
  readonly #path: string;
  readonly #folder: string;
  readonly #workerId: string;

  /** Makes the sink's folder below DATA_DIR, and this one in it. Throws FetchError (`sink`), and the system's errors. */
  constructor(path: string, { dataDir, workerId }: SinkContext) {
    this.folders = openRoot(path, dataDir);
    this.#dataDir = dataDir;
    this.#path = path;
    this.#folder = `${temporaryFolders}/${workerId}`;
    this.#workerId = workerId;
    this.folders.enter(this.#folder, true);
  }

  /** The absolute path of a temporary file. */
  path(name: string): string {
    return `${this.folders.root}${this.#folder}/${name}`;
  }

  /** Another host's sweep, or a hand, may have taken folders away under this process: they are made again, once. */
  twice<T>(action: () => T): T {
    try {
      return action();
    } catch (error) {
      if (systemCode(error) !== 'ENOENT') throw error;
      this.folders.forget();
      this.folders.enter(this.#folder, true);
      return action();
    }
  }

  /**
   * The sink's folder, all that lead to it from DATA_DIR on, what it keeps for itself, and folders `below` it (made before, the
   * outer ones first) then survive a loss of power. Throws the system's errors.
   */
  async syncFolders(...below: string[]): Promise<void> {
    const parts = this.#path.split('/');
    const outer = parts.map((_, depth) => join(this.#dataDir, ...parts.slice(0, depth)));
    const own = ['', privateFolder, ...below].map((folder) => this.folders.root + folder);
    for (const folder of [...outer, ...own]) await syncPath(folder);
  }

  /** Removes what workers that are not among `alive` left. Never throws. */
  sweep(alive: ReadonlySet<string>): void {
    try {
      const path = this.folders.root + temporaryFolders;
      for (const workerId of readdirSync(path)) {
        if (workerId === this.#workerId || alive.has(workerId)) continue;
        rmSync(`${path}/${workerId}`, { recursive: true, force: true });
      }
    } catch {
      // What is left is swept the next time.
    }
  }

  /** Never throws. */
  close(): void {
    try {
      rmdirSync(this.folders.root + this.#folder);
    } catch {
      // Not empty, or gone already: others sweep it when this worker is no longer alive.
    }
  }
}

/** The sink's folder, made if need be; it must really lie below DATA_DIR, and not in what a sink keeps for itself. */
function openRoot(path: string, dataDir: string): Folders {
  if (checkName(path) !== null || path.toLowerCase().split('/').includes(privateFolder)) {
    throw new FetchError('sink', `"${path}" cannot be the path of a sink`);
  }
  const data = new Folders(realpathSync.native(dataDir), 'DATA_DIR');
  data.enter(path, true);
  return new Folders(realpathSync.native(data.root + path), 'the sink');
}

/** Writes a temporary file piece by piece. */
export class TemporaryWriter implements BodyWriter {
  #fd: number | null;
  readonly #path: string;
  readonly #publish: () => void;
  readonly #sync: boolean;

  /**
   * `fd`: the file at `path`, open for writing; `publish` is called once it is whole and closed; `sync`: and on the disk.
   */
  constructor(fd: number, path: string, publish: () => void, sync = false) {
    this.#fd = fd;
    this.#path = path;
    this.#publish = publish;
    this.#sync = sync;
  }

  write(chunk: Uint8Array): void {
    try {
      if (this.#fd === null) throw new FetchError('sink', 'the file was given up');
      writeWhole(this.#fd, chunk);
    } catch (error) {
      throw storeError(error);
    }
  }

  finish(): void {
    try {
      if (this.#sync && this.#fd !== null) fdatasyncSync(this.#fd);
      this.#close();
      this.#publish();
    } catch (error) {
      throw storeError(error);
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

/** Writes all of it: one write may be short where the disk is nearly full. */
export function writeWhole(fd: number, bytes: Uint8Array): void {
  for (let offset = 0; offset < bytes.length;) offset += writeSync(fd, bytes, offset);
}

export function removeQuietly(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // Gone already, or swept later.
  }
}

/** Why a sink cannot be opened. */
export function openError(path: string, error: unknown): FetchError {
  if (error instanceof FetchError && error.reason === 'sink') return error;
  return new FetchError('sink', `the sink "${path}" cannot be opened: ${wordsOf(error)}`, { cause: error });
}

/** What the system's error means for the one file that was to be stored. */
export function storeError(error: unknown): FetchError {
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
    case 'EMFILE':
    case 'ENFILE':
      // Bodies that come piece by piece have a file each; there is room again when some have ended.
      return new FetchError('sink', `the file cannot be stored now: ${wordsOf(error)}`, {
        cause: error,
        retryable: true,
      });
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
