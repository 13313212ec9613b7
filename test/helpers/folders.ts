import { accessSync, constants, mkdtempSync, readdirSync, rmSync } from 'node:fs';
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

/**
 * The paths, relative to a folder, of all below it that is no folder. A service may tidy up in it meanwhile: what goes away is
 * not told, where `recursive` of readdirSync would throw. Throws the system's errors, ENOENT where the folder itself is not there.
 */
export function filesBelow(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    if (!entry.isDirectory()) return [entry.name];
    try {
      return filesBelow(join(folder, entry.name)).map((path) => join(entry.name, path));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
      throw error;
    }
  });
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
