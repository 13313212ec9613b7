/**
 * Lets the sockets of a process read into one buffer. By its own way Node gets new memory for each read, and passes it on
 * over a stream's queue: for a small file that costs as much as the system call itself.
 */
import { Socket, type OnReadOpts } from 'node:net';

/** For large bodies; more than this outgrows a core's cache on some machines. Node's own reads have 64 KiB. */
const buffer = Buffer.allocUnsafeSlow(262_144);
/** The reader may find by the first piece of a large body that it wants the others in place. */
const copiedBytesMax = 32_768;

const readsOf = Symbol('reads');

interface ReadingSocket extends Socket {
  [readsOf]: Reads;
}

/** An option of net.connect and tls.connect; the socket goes to `takeReads` before anything can have come. */
export const onread = {
  buffer,
  // Node calls it as a method of the socket.
  callback(this: ReadingSocket, bytes: number): boolean {
    return this[readsOf].came(bytes);
  },
} satisfies OnReadOpts;

/**
 * Makes `read` and `unshift` of a socket that was opened with `onread` work as those of any other, for a reader that waits
 * for 'readable' and then reads until null, as undici does.
 */
export function takeReads(socket: Socket): Socket {
  const reads = new Reads(socket);
  socket.read = (size?: number): Buffer | null =>
    // Node's own call, to begin to read and to come to the end.
    size === 0 ? (Socket.prototype.read.call(socket, 0) as null) : reads.take();
  socket.unshift = (chunk: Buffer): void => reads.putBack(chunk);
  return Object.assign(socket, { [readsOf]: reads });
}

/**
 * Whether what is read from now on is handed over where it lies, so that it is gone once the reader is back: for those
 * that want no byte of it afterwards. Otherwise it has memory of its own, as at first.
 */
export function readInPlace(socket: Socket, inPlace: boolean): void {
  const reads = (socket as Partial<ReadingSocket>)[readsOf];
  if (reads !== undefined) reads.inPlace = inPlace;
}

/** Holds reading up, or lets it go on. What was read before is handed over all the same: at most a buffer, and by TLS a little more. */
export function holdReads(socket: Socket, held: boolean): void {
  (socket as Partial<ReadingSocket>)[readsOf]?.hold(held);
}

class Reads {
  inPlace = false;
  #held = false;
  readonly #socket: Socket;
  readonly #unread: Buffer[] = [];
  #stopped = false;

  constructor(socket: Socket) {
    this.#socket = socket;
  }

  /** False: nothing more is to be read for now. */
  came(bytes: number): boolean {
    for (let at = 0; at < bytes && !this.#socket.destroyed;) {
      const { inPlace } = this;
      const piece = buffer.subarray(at, inPlace ? bytes : Math.min(bytes, at + copiedBytesMax));
      this.#unread.push(inPlace ? piece : Buffer.from(piece));
      this.#socket.emit('readable');
      // The reader is not ready. What comes next, to whichever socket, lies in the same place.
      if (inPlace && this.#unread.length > 0) this.#unread.push(Buffer.from(this.#unread.pop()!));
      at += piece.length;
    }
    // TLS may have more that it hands over all the same.
    this.#stopped = this.#held || this.#unread.length > 0;
    return !this.#stopped;
  }

  take(): Buffer | null {
    const chunk = this.#unread.shift() ?? null;
    this.#goOn();
    return chunk;
  }

  hold(held: boolean): void {
    this.#held = held;
    if (!held) return this.#goOn();
    this.#stopped = true;
    this.#socket.pause();
  }

  putBack(chunk: Buffer): void {
    if (chunk.length > 0) this.#unread.unshift(chunk);
  }

  #goOn(): void {
    if (!this.#stopped || this.#held || this.#unread.length > 0) return;
    this.#stopped = false;
    this.#socket.resume();
  }
}
