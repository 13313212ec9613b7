/** Short texts about stored files, each in a small file of its own below `.gigafetch/notes`. */
import { hash } from 'node:crypto';
import { readFileSync, renameSync, writeFileSync, type Stats } from 'node:fs';
import { privateFolder } from '../names.ts';
import { removeQuietly, type Temporary } from './temporary.ts';

const notesFolder = `${privateFolder}/notes`;

/** What a note says of its file, and by what it is known that the file is still that one. */
interface Note {
  readonly sizeBytes: number;
  readonly mtimeMs: number;
  readonly text: string;
}

/**
 * A note is written after its file and holds for the file of that size and time alone: one that a killed process, or
 * anybody else, left beside another file says nothing.
 */
export class Notes {
  readonly #temporary: Temporary;
  readonly #path: string;

  constructor(temporary: Temporary) {
    this.#temporary = temporary;
    this.#path = temporary.path('note');
  }

  /** What was noted of the file `name`, which is there with these stats; null for nothing. Never throws. */
  read(name: string, stats: Stats): string | null {
    const { folders } = this.#temporary;
    const { folder, path } = placeOf(name);
    try {
      if (!folders.enter(folder, false) || !folders.look(path)?.isFile()) return null;
      const { sizeBytes, mtimeMs, text } = JSON.parse(readFileSync(folders.root + path, 'utf8')) as Note;
      return sizeBytes === stats.size && mtimeMs === stats.mtimeMs ? text : null;
    } catch {
      return null;
    }
  }

  /** Notes something of the file `name`, which is there with these stats. It may get lost. Never throws. */
  write(name: string, { size: sizeBytes, mtimeMs }: Stats, text: string): void {
    const { folders } = this.#temporary;
    const { folder, path } = placeOf(name);
    try {
      this.#temporary.twice(() => {
        folders.enter(folder, true);
        writeFileSync(this.#path, JSON.stringify({ sizeBytes, mtimeMs, text } satisfies Note));
        renameSync(this.#path, folders.root + path);
      });
    } catch {
      removeQuietly(this.#path);
    }
  }
}

/** By a hash: no name is too long then, none leads anywhere, and none is a folder where another is a file. */
function placeOf(name: string): { folder: string; path: string } {
  const digest = hash('sha256', name);
  const folder = `${notesFolder}/${digest.slice(0, 2)}`;
  return { folder, path: `${folder}/${digest.slice(2)}` };
}
