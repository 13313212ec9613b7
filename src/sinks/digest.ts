import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { FetchError } from '../errors.ts';

/** For what may be a pipe: opening one would wait for somebody who writes to it. */
export const OPEN_FLAGS = constants.O_RDONLY | constants.O_NONBLOCK;
/** So little is hashed in one go that nobody waits long for it. */
export const PIECE_BYTES = 262_144;

/**
 * The size of a file, its SHA-256 in hexadecimal digits, and when it was changed last, in ms since 1970. Throws FetchError
 * (`sink`) where it is no file, and the system's errors.
 */
export async function digestOf(path: string): Promise<{ sizeBytes: number; sha256: string; atMs: number }> {
  await using file = await open(path, OPEN_FLAGS);
  const stats = await file.stat();
  if (!stats.isFile()) throw new FetchError('sink', 'is not a file');
  const digest = createHash('sha256');
  const piece = Buffer.allocUnsafe(Math.min(stats.size + 1, PIECE_BYTES));
  let sizeBytes = 0;
  for (;;) {
    const { bytesRead } = await file.read(piece, 0, piece.length, null);
    if (bytesRead === 0) return { sizeBytes, sha256: digest.digest('hex'), atMs: stats.ctimeMs };
    digest.update(piece.subarray(0, bytesRead));
    sizeBytes += bytesRead;
  }
}
