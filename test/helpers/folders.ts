import { accessSync, constants, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A folder on a memory file system where there is one, else the system's folder for temporary files. */
export function memoryDir(): string {
  try {
    accessSync('/dev/shm', constants.W_OK);
    return '/dev/shm';
  } catch {
    return tmpdir();
  }
}

const made: string[] = [];

/** A new empty folder, on memory where possible; removed when the process ends. */
export function temporaryFolder(): string {
  const dir = mkdtempSync(join(memoryDir(), 'gigafetch-test-'));
  // One listener for all of them: Node warns of a leak at the eleventh.
  if (made.length === 0) {
    process.once('exit', () => made.forEach((dir) => rmSync(dir, { recursive: true, force: true })));
  }
  made.push(dir);
  return dir;
}
