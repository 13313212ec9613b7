import type { BlockFile } from './block-file.ts';

/** How the members of a shard lie in it. One instance for each shard in the making. */
export interface Layout {
  /**
   * Writes what stands before a body of `sizeBytes` bytes into the shard's buffer from `used` on, where there is room;
   * returns where the body begins. `seconds`: since 1970, when it was fetched.
   */
  head(file: Pick<BlockFile, 'buffer' | 'used'>, name: string, url: string, sizeBytes: number, seconds: number): number;
  /** At least so much does `head` need for this member, `tail` included. */
  frameBytesMax(name: string, url: string): number;
  /** Writes what stands after a body that ends at `at` in the shard's buffer; returns where that ends. */
  tail(buffer: Buffer, at: number, sizeBytes: number): number;
  /** What a whole body is stored as. Throws FetchError (`not_json`). */
  whole(body: Uint8Array): Uint8Array;
  /** The same for a body that comes piece by piece: `end` is called after the last one. Throws FetchError (`not_json`). */
  pieces(): { take(piece: Uint8Array): Uint8Array; end(): void };
}
