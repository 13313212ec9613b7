import { open } from 'node:fs/promises';

/** What a file holds, or what was given a name in a folder, then survives a loss of power. Throws the system's errors. */
export async function syncPath(path: string): Promise<void> {
  const handle = await open(path);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
