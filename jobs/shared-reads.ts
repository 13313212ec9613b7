import { setTimeout as delay } from 'node:timers/promises';

/** While one thing is asked for again and again, it is read no more often than once in so long. */
const PAUSE_MS = 20;

/**
 * Reads for all who ask for the same at about the same time. Nobody is told what was so before he asked: who comes in a
 * pause waits for its end, and shares the read that begins then. Who comes to a quiet place does not wait.
 */
export class SharedReads<T> {
  readonly #read: (key: string) => Promise<T>;
  /** What was read less than a pause ago, by key: the end of the pause, and the read that begins then, if anybody waits for one. */
  readonly #pauses = new Map<string, { over: Promise<void>; next: Promise<T> | null }>();

  constructor(read: (key: string) => Promise<T>) {
    this.#read = read;
  }

  /** What is read under the key, from now on. Rejects as the read does. */
  get(key: string): Promise<T> {
    const pause = this.#pauses.get(key);
    if (pause === undefined) return this.#begin(key);
    return (pause.next ??= pause.over.then(() => this.#begin(key)));
  }

  #begin(key: string): Promise<T> {
    const over = delay(PAUSE_MS).then(() => void this.#pauses.delete(key));
    this.#pauses.set(key, { over, next: null });
    return this.#read(key);
  }
}
