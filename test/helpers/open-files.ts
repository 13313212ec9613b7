import { readdirSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';

/** What a process has open, once for each descriptor: paths, and `socket:[inode]` and the like (proc(5)). Linux alone tells. */
export function openFiles(pid: number): string[] {
  const folder = `/proc/${pid}/fd`;
  return readdirSync(folder).flatMap((descriptor) => {
    try {
      return [readlinkSync(join(folder, descriptor))];
    } catch {
      return []; // closed meanwhile
    }
  });
}
