import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { StartError } from './errors.ts';

const patienceMs = 500;

/**
 * Makes this process the only one that runs on a state folder; throws StartError where another one does. SQLite locks by
 * fcntl (https://www.sqlite.org/lockingv3.html): the kernel frees the lock however the process ends, and no child
 * inherits it. Returns what frees it earlier; to be kept, as a database that nobody refers to is closed.
 */
export function lockStateDir(stateDir: string): () => void {
  let database: DatabaseSync | undefined;
  try {
    // Of two that ask in the same instant each may see the other's first, shared lock: without patience both would lose.
    database = new DatabaseSync(join(stateDir, 'lock.db'), { timeout: patienceMs });
    database.exec('BEGIN EXCLUSIVE');
  } catch (error) {
    database?.close();
    const busy = error instanceof Error && 'errcode' in error && error.errcode === 5;
    throw new StartError(
      busy
        ? `Gigafetch is already running on STATE_DIR (${stateDir}): stop it, or set another STATE_DIR, DATA_DIR and PORT`
        : `STATE_DIR (${stateDir}) cannot be locked: ${String(error)}`,
    );
  }
  const locked = database;
  return () => locked.close();
}
