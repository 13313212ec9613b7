import type { BadItem, SourceFile, SourcePage } from '../src/sources/index.ts';

/** Where a run's files are, but for their names. */
interface Place {
  readonly origin: string;
  /** The path, before and after the name. */
  readonly before: string;
  readonly after: string;
}

/**
 * The items of a run, of which tens of thousands wait for their turn. Of those whose URLs differ by their names alone, only
 * the names are held (48 bytes each, not 160), and what is made of one when its turn comes is soon gone.
 */
export class Items {
  readonly #held: (string | SourceFile | BadItem)[] = [];
  /** Of the files that are held by their names, by index: those that are told. */
  readonly #sizes: number[] = [];
  #place: Place | null = null;

  constructor(page: SourcePage['items']) {
    this.add(page);
  }

  get length(): number {
    return this.#held.length;
  }

  add(page: SourcePage['items']): void {
    for (const item of page) this.#held.push('bad' in item ? item : this.#packed(item));
  }

  /** The item at an index from 0 to `length` - 1, else undefined. */
  at(index: number): SourceFile | BadItem | undefined {
    const item = this.#held[index];
    if (typeof item !== 'string') return item;
    const { origin, before, after } = this.#place!;
    return { name: item, origin, path: before + item + after, sizeBytes: this.#sizes[index] ?? null };
  }

  /** What the files are called, by index; null where there is no file. */
  names(): (string | null)[] {
    return this.#held.map((item) => (typeof item === 'string' ? item : 'bad' in item ? null : item.name));
  }

  /** To be called before it is added. */
  #packed(file: SourceFile): string | SourceFile {
    this.#place ??= placeOf(file);
    if (!this.#isInPlace(file)) return file;
    if (file.sizeBytes !== null) this.#sizes[this.length] = file.sizeBytes;
    return file.name;
  }

  #isInPlace({ name, origin, path }: SourceFile): boolean {
    if (this.#place === null || origin !== this.#place.origin) return false;
    const { before, after } = this.#place;
    return (
      path.length === before.length + name.length + after.length &&
      path.startsWith(before) &&
      path.startsWith(name, before.length) &&
      path.endsWith(after)
    );
  }
}

/** Null where the name is not in the path as it is. */
function placeOf({ name, origin, path }: SourceFile): Place | null {
  const at = path.lastIndexOf(name);
  return at === -1 ? null : { origin, before: path.slice(0, at), after: path.slice(at + name.length) };
}
