import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { join } from 'node:path';
import { memoryDir } from './folders.ts';

/** A private Redis for one test file. */
export interface TestRedis {
  /** The absolute path of its Unix socket: what REDIS_URL takes. */
  readonly url: string;
  readonly pid: number;
  /** kill -9, resolves when it is dead. */
  kill(): Promise<void>;
  /** The same Redis again, on the same append-only file. */
  restart(): Promise<void>;
  stop(): Promise<void>;
}

/** Starts a redis-server of its own (append-only file, fsync always) on a Unix socket in a memory file system. */
export async function startTestRedis(): Promise<TestRedis> {
  const dir = mkdtempSync(join(memoryDir(), 'gigafetch-redis-'));
  const url = join(dir, 'redis.sock');
  let child = await launch(dir, url);
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exit = once(child, 'exit');
    child.kill(signal);
    child.kill('SIGCONT');
    await exit;
  };
  return {
    url,
    get pid() {
      return child.pid ?? 0;
    },
    kill: () => end('SIGKILL'),
    restart: async () => {
      await end('SIGKILL');
      child = await launch(dir, url);
    },
    stop: async () => {
      await end('SIGKILL');
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

async function launch(dir: string, socket: string): Promise<ChildProcess> {
  const settings = ['--port', '0', '--unixsocket', socket, '--dir', dir, '--save', '', '--appendonly', 'yes'];
  const child = spawn('redis-server', [...settings, '--appendfsync', 'always', '--maxmemory-policy', 'noeviction'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  process.once('exit', () => child.kill('SIGKILL'));
  for await (const line of createInterface({ input: child.stdout })) {
    // Redis 6 and 7 and Valkey all say this once they listen.
    if (/ready to accept connections/i.test(line)) {
      child.stdout.resume();
      return child;
    }
  }
  throw new Error('redis-server ended before it was ready');
}
