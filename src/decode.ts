/** Takes content codings off a body while it streams (RFC 9110 section 8.4). */
import { Transform, Writable, pipeline, type Duplex, type TransformCallback } from 'node:stream';
import {
  constants,
  createBrotliDecompress,
  createGunzip,
  createInflate,
  createInflateRaw,
  createZstdDecompress,
  type Gunzip,
  type Inflate,
  type InflateRaw,
} from 'node:zlib';
import { FetchError } from './errors.ts';

const codingsMax = 4;
// Each costs 40 µs at least: a body of nearly empty ones would keep a processor busy for hours.
const tinyFramesMax = 10_000;
const tinyFrameBytes = 512;

// Bytes after the end of the coded data are an error: what they were meant to be would be lost in silence.
const strict = { rejectGarbageAfterEnd: true };
// RFC 9659: a decoder need not take a window of more than 8 MiB; without a bound a body names its own memory.
const zstdParams = { [constants.ZSTD_d_windowLogMax]: 23 };

const decoders: Record<string, () => Duplex> = {
  // Several gzip members in a row are one body (RFC 1952 section 2.2).
  gzip: () => new Inflating(() => createGunzip()),
  'x-gzip': () => new Inflating(() => createGunzip()),
  deflate: () => new Inflating(inflateFor),
  br: () => createBrotliDecompress(strict),
  zstd: () => new ZstdFrames(),
};

/**
 * The codings that a Content-Encoding header names, in the order they were applied; empty for none and `identity`.
 * Throws FetchError (`decode`) for one that is unknown, and for more than four.
 */
export function contentCodings(header: string | string[] | undefined): readonly string[] {
  if (header === undefined) return [];
  const codings = header
    .toString()
    .split(',')
    .map((coding) => coding.trim().toLowerCase())
    .filter((coding) => coding !== '' && coding !== 'identity');
  const unknown = codings.find((coding) => !Object.hasOwn(decoders, coding));
  if (unknown !== undefined) throw new FetchError('decode', `the content coding is unknown: ${unknown.slice(0, 100)}`);
  if (codings.length > codingsMax) throw new FetchError('decode', `more than ${codingsMax} content codings`);
  return codings;
}

/** Takes off one coding of those that `contentCodings` knows, as a stream. */
export function decoderFor(coding: 'gzip' | 'zstd'): Duplex {
  return decoders[coding]!();
}

/** Where a Decoder brings its bytes. After `decoded` or `undecodable` nothing more is called. */
export interface DecoderOutput {
  data(chunk: Uint8Array): void;
  /** The decoder takes bytes again after `write` returned false. */
  drained(): void;
  decoded(): void;
  /** The coded data is damaged or incomplete (`decode`). */
  undecodable(error: FetchError): void;
}

/** Decodes one body. `codings` as `contentCodings` gives them, at least one. */
export class Decoder {
  readonly #stages: readonly Duplex[];
  #stopped = false;

  constructor(codings: readonly string[], output: DecoderOutput) {
    this.#stages = codings.map((coding) => decoders[coding]!()).toReversed();
    this.#stages[0]!.on('drain', () => output.drained());
    const last = new Writable({
      write: (chunk: Uint8Array, _encoding, done) => {
        output.data(chunk);
        done();
      },
    });
    pipeline([...this.#stages, last], (error) => {
      if (this.#stopped) return;
      if (error == null) output.decoded();
      else
        output.undecodable(new FetchError('decode', `the coded body is damaged: ${error.message}`, { cause: error }));
    });
  }

  /** false: write no more until `drained`. */
  write(chunk: Uint8Array): boolean {
    return this.#stages[0]!.write(chunk);
  }

  /** The coded body is complete. */
  end(): void {
    this.#stages[0]!.end();
  }

  /** Stops at once; the output hears nothing more. */
  destroy(): void {
    this.#stopped = true;
    for (const stage of this.#stages) stage.destroy();
  }
}

/** `deflate` means the zlib format (RFC 9110 section 8.4.1.2), but some servers send it bare: the first byte tells. */
function inflateFor(first: number): Inflate | InflateRaw {
  // The low half of a zlib header's first byte is the method, 8 (RFC 1950 section 2.2).
  return (first & 0x0f) === 8 ? createInflate(strict) : createInflateRaw(strict);
}

/** Of all that comes nothing may be left: Node's own stream for gzip, strict or not, drops what follows a NUL between members. */
class Inflating extends Transform {
  readonly #make: (first: number) => Gunzip | Inflate | InflateRaw;
  #inflate: Gunzip | Inflate | InflateRaw | null = null;

  constructor(make: (first: number) => Gunzip | Inflate | InflateRaw) {
    super();
    this.#make = make;
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    const inflate = (this.#inflate ??= this.#open(chunk[0]!));
    const before = inflate.bytesWritten;
    inflate.write(chunk, (error) => {
      const isWhole = inflate.bytesWritten - before === chunk.length;
      done(error ?? (isWhole ? null : new Error('bytes follow the end of the compressed stream')));
    });
  }

  override _read(size: number): void {
    this.#inflate?.resume();
    super._read(size);
  }

  override _flush(done: TransformCallback): void {
    if (this.#inflate === null) return done();
    this.#inflate.once('end', done);
    this.#inflate.end();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#inflate?.destroy();
    done(error);
  }

  #open(first: number): Gunzip | Inflate | InflateRaw {
    const inflate = this.#make(first);
    inflate.on('data', (piece) => {
      if (!this.push(piece)) inflate.pause();
    });
    inflate.on('error', (error) => this.destroy(error));
    return inflate;
  }
}

/** One frame after another is one body (RFC 8878 section 3.1); Node's own stream takes the first alone. */
class ZstdFrames extends Transform {
  #frame = this.#newFrame();
  #frames = 0;
  #frameBytes = 0;

  override _transform(chunk: Buffer, encoding: BufferEncoding, done: TransformCallback): void {
    const frame = this.#frame;
    const before = frame.bytesWritten;
    frame.write(chunk, () => {
      const taken = frame.bytesWritten - before;
      this.#frameBytes += taken;
      if (taken === chunk.length) return done();
      const next = (): void => {
        this.#frames += 1;
        if (this.#frames > tinyFramesMax && this.#frameBytes < this.#frames * tinyFrameBytes) {
          return done(new Error(`it has more than ${tinyFramesMax} zstd frames, nearly empty`));
        }
        this.#frame = this.#newFrame();
        this._transform(chunk.subarray(taken), encoding, done);
      };
      // The last bytes of this one come first.
      if (frame.readableEnded) next();
      else frame.once('end', next);
    });
  }

  override _read(size: number): void {
    this.#frame.resume();
    super._read(size);
  }

  override _flush(done: TransformCallback): void {
    if (this.#frame.readableEnded) return done();
    this.#frame.once('end', () => done());
    this.#frame.end();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#frame.destroy();
    done(error);
  }

  #newFrame(): ReturnType<typeof createZstdDecompress> {
    const frame = createZstdDecompress({ params: zstdParams });
    frame.on('data', (piece) => {
      if (!this.push(piece)) frame.pause();
    });
    frame.on('error', (error) => this.destroy(error));
    return frame;
  }
}
