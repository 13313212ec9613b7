import { execFileSync } from 'node:child_process';
import {
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  statfsSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join, resolve } from 'node:path';
import { DemoError } from '../../src/demo/service.ts';
import { memoryDir } from '../helpers/folders.ts';

const spareBytes = 1_500_000_000;
// The rest of its last block, its inode and its name.
const fileOverheadBytes = 5000;
const chunk = Buffer.alloc(1 << 20, 'x');

/**
 * Makes the folder into which all rows download, `target` below `folder`; `wanted` is what --target says: `tmpfs`, or `ext4`
 * and maybe, after a colon, the folder for its image. Throws a DemoError where there is no room or no right to mount.
 */
export function makeTarget(wanted: string, folder: string, files: number, fileBytes: number): string {
  const target = join(folder, 'target');
  mkdirSync(target);
  const [kind, imageFolder = memoryDir()] = wanted.split(':');
  if (kind === 'ext4') mountExt4(target, resolve(imageFolder), files, fileBytes);
  else if (wanted !== 'tmpfs') throw new DemoError(`--target is tmpfs, ext4 or ext4:FOLDER, not "${wanted}"`);
  const { bavail, bsize } = statfsSync(target);
  if (bavail * bsize < files * (fileOverheadBytes + fileBytes))
    throw new DemoError(`there is no room for ${files} files in ${folder}`);
  return target;
}

/**
 * Writes as many bytes below `folder` as such files take there at most, and removes them. A virtual machine takes long for
 * memory that it has not used for a while, and which row comes upon that would depend on what ran before it.
 */
export function touchMemory(folder: string, { files, fileBytes }: { files: number; fileBytes: number }): void {
  const path = join(folder, 'touched');
  const { bavail, bsize } = statfsSync(folder);
  // A large member of an archive is there twice for a while.
  let left = Math.min(2 * files * (fileOverheadBytes + fileBytes), (bavail * bsize) / 2);
  const file = openSync(path, 'wx');
  try {
    for (; left > 0; left -= chunk.length) writeSync(file, chunk);
  } finally {
    closeSync(file);
    rmSync(path);
  }
}

/** Type and options of the file system that a folder is on, as the kernel tells them. */
export function fileSystemOf(folder: string): string {
  const mounts = readFileSync('/proc/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' '))
    .filter(([, path = '']) => folder === path || folder.startsWith(path === '/' ? '/' : `${path}/`));
  const [, , type = '?', options = ''] = mounts.toSorted(([, a = ''], [, b = '']) => a.length - b.length).at(-1) ?? [];
  return `${type} (${options})`;
}

/** A new ext4 with a journal. Its image has no name any more once it is mounted: it goes with the mount. */
function mountExt4(target: string, imageFolder: string, files: number, fileBytes: number): void {
  if (process.getuid?.() !== 0) throw new DemoError('--target ext4 mounts a file system, which needs root');
  const image = join(imageFolder, `gigafetch-bench-${process.pid}.ext4`);
  // A file takes a block and an inode; the journal, the sparse image's growth and Redis need the rest.
  const inodes = Math.ceil(files * 1.5) + 10_000;
  try {
    writeFileSync(image, '');
    truncateSync(image, inodes * (4096 + 256) + files * fileBytes + spareBytes);
    run('mkfs.ext4', ['-q', '-F', '-N', String(inodes), '-O', 'has_journal', '-E', 'lazy_itable_init=0', image]);
    run('mount', ['-o', 'loop,noatime', image, target]);
  } finally {
    rmSync(image, { force: true });
  }
}

function run(command: string, args: string[]): void {
  try {
    execFileSync(command, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  } catch (error) {
    throw new DemoError(`${command}: ${String((error as { stderr?: Buffer }).stderr ?? error).trim()}`);
  }
}
