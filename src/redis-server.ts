/** The Redis that the service runs for itself where REDIS_URL is unset. */
import { spawn, type ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, lstatSync, mkdirSync, openSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import type { Logger } from 'pino';
import { StartError } from './errors.ts';
import { commandLine, processesWith, signalProcess } from './processes.ts';
import { findRedis } from './redis-binary.mjs';

/** sun_path holds 108 bytes on Linux, 104 on macOS, with a NUL at the end. */
const socketPathBytesMax = 103;
const answerMs = 3_000;
const startMs = 60_000;
const stopMs = 1_500;
const logBytesMax = 8 * 1024 * 1024;

export interface RedisServer {
  /** The absolute path of its Unix socket: what REDIS_URL takes. */
  readonly url: string;
  readonly pid: number;
  /** Resolves, with how it ended, once the server is gone, whoever stopped it. */
  readonly stopped: Promise<string>;
  /** Ends the server within 2 s and resolves when it is gone. What it acknowledged is on disk, however it ends. */
  stop(): Promise<void>;
}

/**
 * Gives the one Redis of a state folder, once it answers: the one that a killed supervisor left behind, or else a new one,
 * with data, log and socket in `stateDir/redis`. Every write is on disk before it is acknowledged. The caller holds the
 * folder's lock. `signal` ends the wait for a long load and the server with it.
 * Throws StartError: no redis-server or too old a one, or it does not start.
 */
export async function startRedisServer(stateDir: string, logger: Logger, signal?: AbortSignal): Promise<RedisServer> {
  const command = recentRedis();
  const dir = join(realpathSync(stateDir), 'redis');
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const url = socketPath(dir);
  const server = (await adopt(dir, url, logger)) ?? (await launch(command, dir, url));
  try {
    await untilItServes(server, dir, logger, signal);
  } catch (error) {
    await server.stop();
    throw error;
  }
  logger.info({ redisPid: server.pid, dir }, 'redis serves');
  return server;
}

function recentRedis(): string {
  const found = findRedis();
  const remedy = 'install redis-server or valkey-server 6.2 or later (node src/setup.mjs helps), or set REDIS_URL';
  if (found === null) throw new StartError(`there is no Redis on the path: ${remedy}`);
  if (!found.recent) throw new StartError(`${found.command} ${found.version} is too old: ${remedy}`);
  return found.command;
}

/** In the data folder, or, where that path is too long for a socket, in a folder for temporary files that is ours alone. */
function socketPath(dir: string): string {
  const inside = join(dir, 'redis.sock');
  if (Buffer.byteLength(inside) <= socketPathBytesMax) return inside;
  const name = `gigafetch-${createHash('sha256').update(dir).digest('hex').slice(0, 16)}`;
  const folder = [tmpdir(), '/tmp']
    .map((parent) => join(parent, name))
    .find((path) => Buffer.byteLength(join(path, 'redis.sock')) <= socketPathBytesMax);
  if (folder === undefined)
    throw new StartError(`STATE_DIR (${dir}) is too long a path for a socket: set a shorter one`);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const { mode, uid } = lstatSync(folder);
  // A directory (not a link to one) of this user, closed to all others: else they could put their own socket there.
  if ((mode & 0o170_077) !== 0o040_000 || uid !== process.getuid?.()) {
    throw new StartError(`${folder} is not a private folder of this user: remove it, or set a shorter STATE_DIR`);
  }
  return join(folder, 'redis.sock');
}

/** What a killed supervisor left behind: goes on if it answers, and is stopped if not. Never two on the same files. */
async function adopt(dir: string, url: string, logger: Logger): Promise<RedisServer | null> {
  let adopted: RedisServer | null = null;
  for (const pid of serversOn(dir)) {
    const server = running(url, pid, untilGone(url, pid));
    if (adopted === null && (await describe(url))?.pid === pid) {
      logger.info({ redisPid: pid }, 'redis is still there from before: it goes on');
      adopted = server;
    } else {
      logger.warn({ redisPid: pid }, 'redis from before does not answer: it is stopped');
      // Nothing acknowledged is lost, as it was on disk before.
      signalProcess(pid, 'SIGKILL');
      await server.stopped;
    }
  }
  return adopted;
}

function serversOn(dir: string): number[] {
  return processesWith('--dir', dir).filter((pid) => /^(\S*\/)?(redis|valkey)-server /.test(commandLine(pid) ?? ''));
}

async function launch(command: string, dir: string, url: string): Promise<RedisServer> {
  const settings = {
    // First: later settings are relative to it. Together with the title, it is also how the server is found again.
    dir,
    'set-proc-title': 'no',
    port: '0',
    unixsocket: url,
    unixsocketperm: '700',
    appendonly: 'yes',
    appendfsync: 'always',
    'maxmemory-policy': 'noeviction',
    save: '',
  };
  const log = openLog(dir);
  // Detached: Ctrl-C is for the supervisor, which stops Redis last.
  const child = spawn(
    command,
    Object.entries(settings).flatMap(([name, value]) => [`--${name}`, value]),
    { detached: true, stdio: ['ignore', log, log] },
  );
  closeSync(log);
  const ended = new Promise<string>((resolve) => {
    child.once('exit', (code, signal) => resolve(signal ?? `exit code ${code}`));
  });
  await once(child, 'spawn').catch((error: unknown) => {
    throw new StartError(`${command} cannot be run: ${String(error)}`);
  });
  return running(url, pidOf(child), ended);
}

function openLog(dir: string): number {
  const file = logFile(dir);
  const large = (statSync(file, { throwIfNoEntry: false })?.size ?? 0) > logBytesMax;
  return openSync(file, large ? 'w' : 'a', 0o600);
}

function logFile(dir: string): string {
  return join(dir, 'redis.log');
}

function pidOf(child: ChildProcess): number {
  if (child.pid === undefined) throw new Error('a process without an id');
  return child.pid;
}

function running(url: string, pid: number, stopped: Promise<string>): RedisServer {
  let gone = false;
  const marked = stopped.finally(() => (gone = true));
  return {
    url,
    pid,
    stopped: marked,
    stop: async () => {
      if (gone) return;
      signalProcess(pid, 'SIGTERM');
      const timer = setTimeout(() => signalProcess(pid, 'SIGKILL'), stopMs);
      await marked;
      clearTimeout(timer);
    },
  };
}

/** An adopted server is no child, so nothing tells its end: but a connection to it breaks then. */
async function untilGone(url: string, pid: number): Promise<string> {
  while (commandLine(pid) !== null) {
    const socket = connect(url).on('error', () => {});
    socket.resume();
    await once(socket, 'close').catch(() => {});
    await sleep(50);
  }
  return 'ended';
}

async function untilItServes(server: RedisServer, dir: string, logger: Logger, signal?: AbortSignal): Promise<void> {
  let ended: string | undefined;
  void server.stopped.then((how) => (ended = how));
  let deadline = performance.now() + startMs;
  let saidLoading = false;
  for (;;) {
    if (signal?.aborted) throw new StartError('redis-server was stopped before it served');
    const state = await describe(server.url);
    if (state?.pid === server.pid && !state.loading) break;
    if (ended !== undefined) throw new StartError(`redis-server ended at its start (${ended}): ${lastLine(dir)}`);
    if (state?.loading) {
      deadline = performance.now() + startMs;
      if (!saidLoading) logger.info('redis loads its data');
      saidLoading = true;
    }
    if (performance.now() > deadline) throw new StartError(`redis-server does not answer; see ${logFile(dir)}`);
    await sleep(20);
  }
}

function lastLine(dir: string): string {
  const line = readFileSync(logFile(dir), 'utf8').trimEnd().split('\n').at(-1) ?? '';
  return `${line} (${logFile(dir)})`;
}

/** Which process answers on a socket and whether it is still loading its data (INFO is answered then); null: none. */
async function describe(url: string): Promise<{ pid: number; loading: boolean } | null> {
  const redis = new Redis(url, {
    lazyConnect: true,
    enableReadyCheck: false,
    retryStrategy: () => null,
    maxRetriesPerRequest: 0,
    connectTimeout: answerMs,
    commandTimeout: answerMs,
  });
  redis.on('error', () => {});
  try {
    await redis.connect();
    const info = await redis.info();
    return { pid: Number(/^process_id:(\d+)/m.exec(info)?.[1]), loading: /^loading:1/m.test(info) };
  } catch {
    return null;
  } finally {
    redis.disconnect();
  }
}
