/** Folders below one root: made when first needed, and never one that a symbolic link puts outside of the root. */
import { lstatSync, mkdirSync, realpathSync, statSync, type Stats } from 'node:fs';
import { FetchError, systemCode } from '../errors.ts';
import { privateFolder } from '../names.ts';

const knownFoldersMax = 10_000;

/** The folder part of a name, "" where it has none. */
export function folderOf(name: string): string {
  const slash = name.lastIndexOf('/');
  return slash === -1 ? '' : name.slice(0, slash);
}

export class Folders {
  /** With a "/" at its end, so that a path is this and a name: joining by `path.join` costs more than a system call. */
  readonly root: string;
  /** Folders that were seen to be there and inside; asked once for each file. */
  readonly #known = new Set<string>();

  readonly #what: string;

  /** `root`: the real absolute path of a folder that exists; `what`: what messages call it. */
  constructor(root: string, what: string) {
    this.root = root.endsWith('/') ? root : `${root}/`;
    this.#what = what;
  }

  /**
   * Whether the folder (relative to the root, "" for the root itself) is there; with `make` it is made. Throws
   * FetchError: a file is in its place (`name_conflict`), a link leads out (`sink`); and the system's errors.
   */
  enter(folder: string, make: boolean): boolean {
    if (folder === '' || this.#known.has(folder)) return true;
    if (!this.enter(folderOf(folder), make)) return false;
    if (!(make && makeFolder(this.root + folder))) {
      const stats = this.look(folder, make);
      if (stats === null) return false;
      if (!stats.isDirectory()) throw new FetchError('name_conflict', `"${folder}" is a file, not a folder`);
    }
    if (this.#known.size >= knownFoldersMax) this.#known.clear();
    this.#known.add(folder);
    return true;
  }

  /**
   * What is at a path whose folder was entered, null for nothing (with `must`: ENOENT instead); a symbolic link is
   * followed. Throws FetchError (`sink`) if it leads out; and the system's errors.
   */
  look(path: string, must = false): Stats | null {
    const stats = lstatSync(this.root + path, { throwIfNoEntry: must }) ?? null;
    if (stats === null || !stats.isSymbolicLink()) return stats;
    let real: string;
    try {
      real = `${realpathSync.native(this.root + path)}/`;
    } catch (error) {
      const code = systemCode(error) ?? 'an unknown error';
      throw new FetchError('sink', `"${path}" is a symbolic link that leads nowhere (${code})`, { cause: error });
    }
    if (!real.startsWith(this.root)) {
      throw new FetchError('sink', `"${path}" is a symbolic link that leads out of ${this.#what}`);
    }
    if (real === this.root || real.startsWith(`${this.root}${privateFolder}/`)) {
      throw new FetchError('sink', `"${path}" is a symbolic link that leads to ${privateFolder}`);
    }
    return statSync(real.slice(0, -1));
  }

  /** What was known may no longer be so. */
  forget(): void {
    this.#known.clear();
  }
}

/** Makes a folder; false if something is there already. */
function makeFolder(path: string): boolean {
  try {
    mkdirSync(path);
    return true;
  } catch (error) {
    if (systemCode(error) === 'EEXIST') return false;
    throw error;
  }
}
