import { closeSync, opendirSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { systemCode } from '../errors.ts';
import { demoBytes, demoFileBytes, demoName } from './files.ts';

export interface CheckResult {
  right: number;
  missing: number;
  wrong: number;
  /** Entries of the folder that are none of the files; `.gigafetch`, the service's own, is not counted. */
  extra: number;
}

const burst = 500;

/**
 * Compares the demo files 0 to `files` - 1 in `folder` byte by byte with what they should be, of `fileBytes` each.
 * Memory does not grow with their number. Rejects with the signal's reason, or the system's error where a file is there but
 * cannot be read.
 */
export async function checkFiles(
  folder: string,
  files: number,
  signal: AbortSignal,
  fileBytes = demoFileBytes,
): Promise<CheckResult> {
  const result: CheckResult = { right: 0, missing: 0, wrong: 0, extra: 0 };
  // One byte more than a file has, to notice one that is too long.
  const buffer = Buffer.allocUnsafe(fileBytes + 1);
  for (let index = 0; index < files; index += 1) {
    if (index % burst === 0) {
      await setImmediate();
      signal.throwIfAborted();
    }
    result[checkFile(folder, demoName(index), buffer)] += 1;
  }
  result.extra = countEntries(folder) - result.right - result.wrong;
  return result;
}

/** `buffer` is one byte longer than the file should be. */
function checkFile(folder: string, name: string, buffer: Buffer): 'right' | 'missing' | 'wrong' {
  let file: number;
  try {
    file = openSync(join(folder, name), 'r');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return 'missing';
    throw error;
  }
  try {
    const length = readSync(file, buffer);
    return buffer.subarray(0, length).equals(demoBytes(name, buffer.length - 1)) ? 'right' : 'wrong';
  } finally {
    closeSync(file);
  }
}

function countEntries(folder: string): number {
  let entries = 0;
  try {
    const dir = opendirSync(folder);
    for (let entry = dir.readSync(); entry !== null; entry = dir.readSync()) {
      if (entry.name !== '.gigafetch') entries += 1;
    }
    dir.closeSync();
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw error;
  }
  return entries;
}
