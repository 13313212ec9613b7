import { readdirSync } from 'node:fs';
import { removeQuietly, type Temporary } from './temporary.ts';

// Enough for a billion files, of which a shard holds ten at the least, in the order of their names.
const seqDigits = 8;

/** A page's number as it stands in file names. */
export function seqName(seq: number): string {
  return String(seq).padStart(seqDigits, '0');
}

/** Calls `remove` for the pages from `pages` on of which `folder` has a file, named by `begin` and the page's number. Never throws. */
export function removeBeyond(pages: number, folder: string, begin: string, remove: (seq: number) => void): void {
  try {
    for (const name of readdirSync(folder)) {
      const digits = name.startsWith(begin) ? /^\d+(?=\.)/.exec(name.slice(begin.length)) : null;
      if (digits !== null && Number(digits[0]) >= pages) remove(Number(digits[0]));
    }
  } catch {
    // Nothing of it is in the way of anything.
  }
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
    this.#remove(`${this.#jobId}-${seqName(seq)}.`);
  }

  /** Removes what is there of any page. Never throws. */
  forget(): void {
    try {
      this.#remove(`${this.#jobId}-`);
    } catch {
      // Nothing of it is in the way of anything.
    }
  }

  #remove(begin: string): void {
    for (const name of readdirSync(this.#path)) if (name.startsWith(begin)) removeQuietly(`${this.#path}/${name}`);
  }
}
