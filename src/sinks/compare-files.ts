/** A thread's work: compares files with what their manifest says. Whatever waits for the disk holds up its thread alone. */
import { createHash } from 'node:crypto';
import { closeSync, fstatSync, openSync, readSync, realpathSync, type Stats } from 'node:fs';
import { systemCode } from '../errors.ts';
import type { Finding } from '../manifest-schemas.ts';
import { OPEN_FLAGS, PIECE_BYTES } from './digest.ts';
import type { ManifestLine } from './manifest.ts';

export interface Comparison {
  /** The real path of the sink's folder, and "/". */
  readonly root: string;
  readonly files: readonly ManifestLine[];
  /** When the job came to its end, in ms since 1970. */
  readonly endedMs: number;
  /** As `Checked.bytes`. */
  readonly bytes: BigUint64Array<SharedArrayBuffer>;
}

type Difference = [problem: Finding['problem'], message: string];

const piece = Buffer.allocUnsafeSlow(PIECE_BYTES);

/** Those of the files that are not as they should be. */
export function compareFiles(comparison: Comparison): Finding[] {
  return comparison.files.flatMap((file) => {
    const difference = compare(file, comparison);
    if (difference === null) return [];
    const [problem, message] = difference;
    return [{ problem, name: file.name, path: file.name, files: 1, message }];
  });
}

function compare(file: ManifestLine, comparison: Comparison): Difference | null {
  try {
    const path = realpathSync.native(comparison.root + file.name);
    if (!path.startsWith(comparison.root)) return ['unreadable', 'a symbolic link leads out of the sink'];
    return withFile(path, (descriptor) => compareOpen(descriptor, file, comparison));
  } catch (error) {
    const code = systemCode(error);
    if (code === undefined) throw error;
    return code === 'ENOENT' || code === 'ENOTDIR' ? ['missing', 'there is no such file'] : ['unreadable', code];
  }
}

function withFile<T>(path: string, use: (descriptor: number) => T): T {
  const descriptor = openSync(path, OPEN_FLAGS);
  try {
    return use(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

function compareOpen(
  descriptor: number,
  { sizeBytes, sha256 }: ManifestLine,
  { endedMs, bytes }: Comparison,
): Difference | null {
  const stats = fstatSync(descriptor);
  if (!stats.isFile()) return ['unreadable', 'is not a file'];
  if (stats.size !== sizeBytes) {
    return ['size', `it has ${stats.size} bytes, not ${sizeBytes}; ${changeOf(stats, endedMs)}`];
  }
  if (sha256 === null) return null;
  const hash = createHash('sha256');
  for (;;) {
    const read = readSync(descriptor, piece);
    if (read === 0) break;
    hash.update(piece.subarray(0, read));
    Atomics.add(bytes, 0, BigInt(read));
  }
  if (hash.digest('hex') === sha256) return null;
  return ['checksum', `its content is another one; ${changeOf(stats, endedMs)}`];
}

function changeOf({ ctime, ctimeMs }: Stats, endedMs: number): string {
  return `it was changed at ${ctime.toISOString()}${ctimeMs > endedMs ? ', after the end of the job' : ''}`;
}
