import { writeSync } from 'node:fs';

/** Of what waits for a full disk, or for a reader that has stopped reading. Lines beyond that are lost. */
const WAITING_BYTES_MAX = 1_048_576;
const AGAIN_MS = 100;

/**
 * Where log lines go: a descriptor of a file, or of a pipe whose writes do not wait. Whatever becomes of it, the process goes
 * on, with bounded memory, and can end: pino's own output throws where a disk is full, and at the end of the process tries
 * again for ever.
 */
export class LogOutput {
  readonly #fd: number;
  #waiting: Buffer[] = [];
  #waitingBytes = 0;
  #timer: NodeJS.Timeout | null = null;

  constructor(fd: number) {
    this.#fd = fd;
    process.once('exit', () => this.#writeOn());
  }

  write(line: string): void {
    const bytes = Buffer.from(line);
    if (this.#waitingBytes + bytes.length > WAITING_BYTES_MAX) return;
    this.#waiting.push(bytes);
    this.#waitingBytes += bytes.length;
    if (this.#timer === null) this.#writeOn();
  }

  #writeOn(): void {
    const bytes = Buffer.concat(this.#waiting);
    const left = bytes.subarray(this.#written(bytes));
    this.#waiting = left.length > 0 ? [left] : [];
    this.#waitingBytes = left.length;
    this.#timer = left.length > 0 ? setTimeout(() => this.#writeOn(), AGAIN_MS).unref() : null;
  }

  #written(bytes: Buffer): number {
    try {
      return writeSync(this.#fd, bytes);
    } catch {
      return 0;
    }
  }
}
