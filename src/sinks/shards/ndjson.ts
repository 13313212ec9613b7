/** Lines of `{"name":…,"url":…,"document":…}`; the document is the body as it came, on one line. */
import type { BlockFile } from './block-file.ts';
import { JsonText } from './json-text.ts';
import type { Layout } from './layout.ts';

const frameBytes = 40;
// The longest escape, "\u001f", is six bytes for one unit of UTF-16.
const escapeBytesMax = 6;

/** The bytes that a document of this size takes in a shard, most names given. */
export function lineBytes(sizeBytes: number): number {
  return 3 * frameBytes + sizeBytes;
}

export class NdjsonLayout implements Layout {
  readonly #json = new JsonText();

  frameBytesMax(name: string, url: string): number {
    return frameBytes + (name.length + url.length) * escapeBytesMax;
  }

  head(file: Pick<BlockFile, 'buffer' | 'used'>, name: string, url: string): number {
    const text = `{"name":${JSON.stringify(name)},"url":${JSON.stringify(url)},"document":`;
    return file.used + file.buffer.write(text, file.used);
  }

  tail(buffer: Buffer, at: number): number {
    return at + buffer.write('}\n', at, 'latin1');
  }

  whole(body: Uint8Array): Uint8Array {
    return this.#json.whole(body);
  }

  pieces(): JsonText {
    return new JsonText();
  }
}
