import { createHash } from 'node:crypto';
import { constants, type Stats } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { FetchError } from '../errors.ts';

/** So little is hashed in one go that nobody waits long for it. */
const PIECE_BYTES = 262_144;

/** Opens a file to read it, and closes it. Throws FetchError (`sink`) where it is no file, and the system's errors. */
export async function withFile<T>(path: string, use: (file: FileHandle, stats: Stats) => Promise<T>): Promise<T> {
  // Opening a pipe would wait for somebody who writes to it.
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const stats = await file.stat();
    if (!stats.isFile()) throw new FetchError('sink', 'is not a file');
    return await use(file, stats);
  } finally {
    await file.close();
  }
}

/** The SHA-256 of a file in hexadecimal digits, and its size. */
export async function digestOf(file: FileHandle, { size }: Stats): Promise<{ sizeBytes: number; sha256: string }> {
  const digest = createHash('sha256');
  const piece = Buffer.allocUnsafe(Math.min(size + 1, PIECE_BYTES));
  let sizeBytes = 0;
  for (;;) {
    const { bytesRead } = await file.read(piece, 0, piece.length, null);
    if (bytesRead === 0) return { sizeBytes, sha256: digest.digest('hex') };
    digest.update(piece.subarray(0, bytesRead));
    sizeBytes += bytesRead;
  }
}
