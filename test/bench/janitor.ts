/**
 * Cleans up after the bench, however that ended: a process that waits until the pipe to it is closed, then kills what still
 * works below the bench's folder, takes file systems off that are mounted there, and removes it.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const file = fileURLToPath(import.meta.url);
const killMs = 10_000;

/** Starts it for a folder; the function returned has it clean up now and resolves when it has. */
export function startJanitor(folder: string): () => Promise<void> {
  // In a group and a folder of its own: nothing that ends or is found with the bench.
  const child = spawn(process.execPath, [file, folder], {
    cwd: '/',
    detached: true,
    stdio: ['pipe', 'ignore', 'inherit'],
  });
  const exit = once(child, 'exit');
  return async () => {
    child.stdin.end();
    await exit;
  };
}

/** The processes whose working folder is the folder or below it, also where that has been removed. */
export function processesIn(folder: string): number[] {
  return readdirSync('/proc').flatMap((entry) => {
    if (!/^\d+$/.test(entry)) return [];
    try {
      const at = readlinkSync(`/proc/${entry}/cwd`);
      return at === folder || at.startsWith(`${folder}/`) || at === `${folder} (deleted)` ? [Number(entry)] : [];
    } catch {
      // It has ended, or is another user's.
      return [];
    }
  });
}

async function cleanUp(folder: string): Promise<void> {
  const deadline = Date.now() + killMs;
  for (let left = processesIn(folder); left.length > 0 && Date.now() < deadline; left = processesIn(folder)) {
    for (const pid of left) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // It has just ended.
      }
    }
    await setTimeout(20);
  }
  const mounted = readFileSync('/proc/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[1] ?? '')
    .filter((path) => path.startsWith(`${folder}/`));
  // At once, also where the bench, which may be about to end, has a file open there.
  for (const path of mounted) spawnSync('umount', ['--lazy', path], { stdio: 'inherit' });
  rmSync(folder, { recursive: true, force: true });
}

if (process.argv[1] === file) {
  process.stdin.resume();
  await once(process.stdin, 'end');
  await cleanUp(process.argv[2] ?? '');
}
