/** The id of a DATA_DIR, kept in the folder itself: by it workers on any host tell whether they write to the same one. */
import { randomUUID } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { StartError, systemCode } from './errors.ts';
import { privateFolder } from './names.ts';

/**
 * The id of the folder at `dataDir`, an absolute path of what exists: a UUID that whoever comes first makes and nobody
 * changes. Throws StartError: the folder may not be read or written, or holds something else in its place.
 */
export function dataIdOf(dataDir: string): string {
  const file = idFile(dataDir);
  try {
    if (!existsSync(file)) makeId(join(dataDir, privateFolder));
    const id = readFileSync(file, 'utf8').trim();
    if (/^[\da-f-]{36}$/i.test(id)) return id;
  } catch (error) {
    const code = systemCode(error) ?? '';
    if (!['EACCES', 'EPERM', 'EROFS', 'ENOTDIR', 'EISDIR'].includes(code)) throw error;
    throw new StartError(
      `DATA_DIR (${dataDir}) cannot be used (${code}): let this user write there, or set another one`,
    );
  }
  throw new StartError(`${file} holds no id: write the one there that the waiting jobs show (dataId), or any UUID`);
}

/** The id of that folder; null: it has none, or cannot be read. */
export function readDataId(dataDir: string): string | null {
  try {
    return readFileSync(idFile(dataDir), 'utf8').trim();
  } catch {
    return null;
  }
}

function idFile(dataDir: string): string {
  return join(dataDir, privateFolder, 'folder', 'id');
}

// A folder is renamed onto one that is not empty on no file system: so the first one wins, whole, also where there are
// no hard links.
function makeId(folder: string): void {
  const ours = join(folder, randomUUID());
  mkdirSync(ours, { recursive: true });
  try {
    writeFileSync(join(ours, 'id'), `${randomUUID()}\n`, { flush: true });
    renameSync(ours, join(folder, 'folder'));
    // Jobs know the folder by it: it must be there again after a loss of power.
    for (const path of [join(folder, 'folder'), folder, join(folder, '..')]) sync(path);
  } catch (error) {
    rmSync(ours, { recursive: true, force: true });
    if (!['ENOTEMPTY', 'EEXIST'].includes(systemCode(error) ?? '')) throw error;
  }
}

function sync(folder: string): void {
  const fd = openSync(folder, 'r');
  try {
    fsyncSync(fd);
  } catch (error) {
    // Some network's file systems cannot sync folders.
    if (systemCode(error) !== 'EINVAL') throw error;
  } finally {
    closeSync(fd);
  }
}
