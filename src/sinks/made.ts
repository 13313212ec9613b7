import { lstatSync, readdirSync, type Stats } from 'node:fs';
import { removeQuietly, type Temporary } from './temporary.ts';

// Enough for a billion files, of which a shard holds ten at the least, in the order of their names.
const seqDigits = 8;

/** A page's number as it stands in file names. */
export function seqName(seq: number): string {
  return String(seq).padStart(seqDigits, '0');
}

/** A file as it was when somebody looked: another one may have its name since. */
interface Seen {
  readonly path: string;
  readonly stats: Stats;
}

/** The files in `folder` of the pages from `seq` on, named by `begin` and the page's number. Never throws. */
export function filesFrom(seq: number, folder: string, begin: string): Seen[] {
  const seen: Seen[] = [];
  try {
    for (const name of readdirSync(folder)) {
      const digits = name.startsWith(begin) ? /^\d+(?=\.)/.exec(name.slice(begin.length)) : null;
      if (digits === null || Number(digits[0]) < seq) continue;
      const path = `${folder}/${name}`;
      const stats = lstatSync(path, { throwIfNoEntry: false });
      if (stats !== undefined) seen.push({ path, stats });
    }
  } catch {
    // Nothing of it is in the way of anything.
  }
  return seen;
}

/** What removes those files that are still the same, and never throws; null where there are none. */
export function removerOf(files: readonly Seen[]): (() => void) | null {
  if (files.length === 0) return null;
  return () => {
    for (const { path, stats } of files) {
      const now = lstatSync(path, { throwIfNoEntry: false });
      if (now?.ino === stats.ino && now.ctimeMs === stats.ctimeMs) removeQuietly(path);
    }
  };
}

/**
 * What attempts at pages finished, until a page is counted and that of the attempt which was counted gets its name. It does
 * not lie in a worker's folder: it may be published when its worker is no longer alive.
 */
export class MadeFiles {
  /** Below the root of the sink. */
  readonly folder: string;
  readonly #path: string;
  readonly #jobId: string;

  /** Makes the folder. Throws FetchError, and the system's errors. */
  constructor({ folders }: Temporary, folder: string, jobId: string) {
    folders.enter(folder, true);
    this.folder = folder;
    this.#path = folders.root + folder;
    this.#jobId = jobId;
  }

  /** An absolute path, but for its end: `.tmp`, or more and `.tmp`. */
  path(seq: number, nonce: string): string {
    return `${this.#path}/${this.#jobId}-${seqName(seq)}.${nonce}`;
  }

  /** Removes what is there of one page. Throws the system's errors. */
  remove(seq: number): void {
    const begin = `${this.#jobId}-${seqName(seq)}.`;
    for (const name of readdirSync(this.#path)) if (name.startsWith(begin)) removeQuietly(`${this.#path}/${name}`);
  }

  /** What is there of any page. Never throws. */
  all(): Seen[] {
    return filesFrom(0, this.#path, `${this.#jobId}-`);
  }
}
