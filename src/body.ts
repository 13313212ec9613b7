/** Collects one body: in memory while it is small, then in a writer. */
import { FetchError } from './errors.ts';
import { giveMemoryBackSoon, HUGE_PAGE_BYTES } from './memory.ts';
import type { BodyWriter } from './sinks/index.ts';

// Each piece that is held costs about as much again as this: bodies that come in crumbs are put together.
const pieceBytesMin = 512;
const piecesMax = 64;

/** Bounds in bytes: of the whole, and of what is held in memory. */
export interface BodyLimits {
  readonly maxBytes: number;
  readonly memoryBytes: number;
}

/** The bytes of one file as they come, decoded. */
export class Body {
  /** So many came. */
  bytes = 0;
  readonly #limits: BodyLimits;
  readonly #opener: { open(): BodyWriter | null };
  #pieces: Uint8Array[] = [];
  #writer: BodyWriter | null = null;

  /** `opener.open` is called once, when the body outgrows `memoryBytes`; null means that larger ones are refused. */
  constructor(limits: BodyLimits, opener: { open(): BodyWriter | null }) {
    this.#limits = limits;
    this.#opener = opener;
  }

  /** Whether what comes now goes to the writer, and nothing of it is kept here. */
  get isWritten(): boolean {
    return this.#writer !== null;
  }

  /** So many bytes will come, if all goes well. Throws FetchError (`too_large`, the writer's); then `abort`. */
  expect(bytes: number): void {
    if (bytes > this.#limits.maxBytes) throw tooLarge(this.#limits.maxBytes);
    if (bytes > this.#limits.memoryBytes) this.#spill();
  }

  /** Takes the next bytes; the chunk is kept as it is. Throws FetchError (`too_large`, the writer's); then `abort`. */
  take(chunk: Uint8Array): void {
    this.bytes += chunk.length;
    if (this.bytes > this.#limits.maxBytes) throw tooLarge(this.#limits.maxBytes);
    if (this.#writer !== null) return this.#writer.write(chunk);
    this.#pieces.push(chunk);
    if (this.bytes > this.#limits.memoryBytes) this.#spill();
    else if (this.#pieces.length > piecesMax && this.bytes < this.#pieces.length * pieceBytesMin) {
      this.#pieces = [Buffer.concat(this.#pieces)];
    }
  }

  /** The whole body, or null: it went to the writer, which is finished. Throws FetchError (the writer's); then `abort`. */
  finish(): Uint8Array | null {
    if (this.#writer === null) return this.#pieces.length === 1 ? this.#pieces[0]! : Buffer.concat(this.#pieces);
    this.#writer.finish();
    this.#writer = null;
    return null;
  }

  /** Throws away what was written, if `finish` has not returned. To be called at every end, the last of all. */
  abort(): void {
    if (this.#pieces.length > 0 && this.bytes >= HUGE_PAGE_BYTES) giveMemoryBackSoon();
    this.#writer?.abort();
    this.#writer = null;
  }

  #spill(): void {
    this.#writer = this.#opener.open();
    if (this.#writer === null) throw tooLarge(this.#limits.memoryBytes);
    for (const piece of this.#pieces.splice(0)) this.#writer.write(piece);
  }
}

/** The error for a body over a bound, in bytes. */
export function tooLarge(maxBytes: number): FetchError {
  return new FetchError('too_large', `the body is larger than ${maxBytes} bytes`);
}
