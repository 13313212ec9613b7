import { Readable } from 'node:stream';

/** What a reader may leave unread before it is dropped, beside what the sockets hold. */
const UNREAD_BYTES_MAX = 1_048_576;
/** A client that lost its stream asks again after this. */
const RETRY_MS = 1000;
const heartbeat = Buffer.from(':\n\n');

/** An event as it is sent (HTML Living Standard, 9.2.5). `json`: one line, as JSON.stringify makes it. */
export function eventBytes(event: string, id: number, json: string): Buffer {
  return Buffer.from(`event: ${event}\nid: ${id}\ndata: ${json}\n\n`);
}

/** Events on their way to one reader: what is sent to it is bounded by dropping it. Emits `room` when it has taken some. */
export class EventStream extends Readable {
  #sentBytes = 0;
  #takenBytesBefore = -1;
  #finished = false;

  constructor() {
    super();
    // Sent at once, so that a client learns that it is heard also where there is nothing to tell.
    this.send(Buffer.from(`retry: ${RETRY_MS}\n\n`));
  }

  /** The same bytes may go to any number of streams. False: the reader is too slow, and was dropped for it. */
  send(bytes: Buffer): boolean {
    if (this.#finished || this.destroyed) return true;
    this.#sentBytes += bytes.length;
    this.push(bytes);
    if (this.readableLength <= UNREAD_BYTES_MAX) return true;
    this.destroy();
    return false;
  }

  /** A comment that keeps connections open. False: the reader took nothing since the last one, and was dropped. */
  beat(): boolean {
    const takenBytes = this.#sentBytes - this.readableLength;
    const stalled = this.readableLength > 0 && takenBytes === this.#takenBytesBefore;
    this.#takenBytesBefore = takenBytes;
    if (!stalled) return this.send(heartbeat);
    this.destroy();
    return false;
  }

  /** Nothing more comes; what was sent still arrives. */
  finish(): void {
    if (this.#finished) return;
    this.#finished = true;
    this.push(null);
  }

  /** Resolves when the reader has taken nearly all, or is gone. */
  async room(): Promise<void> {
    while (!this.destroyed && this.readableLength > this.readableHighWaterMark) {
      await new Promise<void>((resolve) => void this.once('room', resolve));
    }
  }

  override _read(): void {
    this.emit('room');
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.emit('room');
    done(error);
  }
}
