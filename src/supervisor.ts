/** Everything on one machine: Redis where there is none, the API and the workers, kept running until a signal. */
import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { Config } from './config.ts';
import { StartError } from './errors.ts';
import { onEndSignals, readyUrl, startErrorExitCode } from './process.ts';
import { processesWith, signalProcess } from './processes.ts';
import { startRedisServer, type RedisServer } from './redis-server.ts';
import { separateFolders } from './separate-folders.ts';
import { lockStateDir } from './state-lock.ts';

const childEndMs = 8_000;
const portMax = 65_535;
const restartMsMin = 100;
const restartMsMax = 5_000;
/** What ran this long is thought to be well: its next end is the first in a row. */
const wellAfterMs = 3_000;

/**
 * Node's options for a worker, as `npm run worker` and the compose file have them too. Where there is much memory, Node lets the
 * young generation grow to 128 MB; a worker's garbage is dead within milliseconds, and costs the same in a quarter of that.
 */
const workerOptions = ['--max-semi-space-size=16'];

/** What the children run: absolute paths of scripts whose `main` runs in `runRole`. */
export interface Scripts {
  readonly api: string;
  readonly worker: string;
}

/** Two steps to the end, each taken once: `soft` asks everything to end, `hard` kills what still runs. */
interface Ending {
  readonly soft: AbortSignal;
  readonly hard: AbortSignal;
  /** A child cannot start as it is set up: all of it ends. */
  fail(): void;
}

/**
 * Runs the service until SIGTERM, SIGINT or SIGHUP, or until a child says (by its exit code) that it cannot start as it is
 * set up. Ends the children, then Redis, within 10 s; a second signal ends them at once. Children and Redis that die are
 * started again. What a killed supervisor left behind is taken over (Redis) or waited for (children).
 * Returns the exit code. Throws StartError: the folders, another supervisor on them, Redis.
 */
export async function supervise(config: Config, logger: Logger, scripts: Scripts): Promise<0 | 1> {
  const stateDir = createFolders(config);
  const unlock = lockStateDir(stateDir);
  const soft = new AbortController();
  const hard = new AbortController();
  let exitCode: 0 | 1 = 0;
  const ignoreSignals = onEndSignals({
    first: () => {
      logger.info('ending; a second signal kills');
      soft.abort();
    },
    again: () => {
      logger.warn('killing');
      exitCode = 1;
      hard.abort();
    },
  });
  const fail = (): void => {
    exitCode = 1;
    soft.abort();
  };
  try {
    await runAll(config, stateDir, logger, scripts, { soft: soft.signal, hard: hard.signal, fail });
  } catch (error) {
    if (!soft.signal.aborted) throw error;
  } finally {
    unlock();
    ignoreSignals();
  }
  logger.info('ended');
  return exitCode;
}

/** Creates both folders and gives the state folder's real path. */
function createFolders(config: Config): string {
  try {
    mkdirSync(config.dataDir, { recursive: true });
    mkdirSync(config.stateDir, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw new StartError(`DATA_DIR or STATE_DIR cannot be created: ${String(error)}`);
  }
  return separateFolders(config).state;
}

async function runAll(
  config: Config,
  stateDir: string,
  logger: Logger,
  scripts: Scripts,
  ending: Ending,
): Promise<void> {
  const mark = `--supervised-in=${stateDir}`;
  const ports = workerPorts(config);
  // First: what is left of a service that died with its Redis ends sooner with one to say good-bye to.
  const redis = config.redisUrl === null ? await keepRedis(stateDir, logger, ending.soft) : null;
  await leftoversGone(mark, logger, ending.soft);
  const environment = {
    // Name look-ups and decoding share these threads; the system's own four are soon all waiting for a slow resolver.
    UV_THREADPOOL_SIZE: '16',
    // Loading a role takes half as long then, above all where workers die again and again.
    NODE_COMPILE_CACHE: join(stateDir, 'compile-cache'),
    ...process.env,
    REDIS_URL: redis?.url ?? config.redisUrl ?? '',
  };
  const keep = (role: string, script: string, more: NodeJS.ProcessEnv = {}): Promise<void> =>
    keepAlive(async () => {
      try {
        const execArgv = [...process.execArgv, ...(role === 'worker' ? workerOptions : [])];
        // It throws where there is no memory for another process.
        const child = fork(script, [mark], { env: { ...environment, ...more }, execArgv });
        await runChild(child, role, logger, ending);
      } catch (error) {
        logger.error({ child: role, err: error }, `${role} cannot be started`);
      }
    }, ending.soft);
  const workers = ports.map((port) => keep('worker', scripts.worker, { WORKER_METRICS_PORT: port }));
  await Promise.all([keep('api', scripts.api), ...workers]);
  await redis?.stop();
}

/** For each worker, where it shows its figures: the first at WORKER_METRICS_PORT, the others at the ports that follow. */
function workerPorts({ workerMetricsPort: first, workers, port: apiPort }: Config): string[] {
  return Array.from({ length: workers }, (_, index) => {
    if (first === null || first === 0) return String(first ?? '');
    const port = first + index;
    if (port <= portMax && port !== apiPort) return String(port);
    const whose = port === apiPort ? "the API's" : 'none';
    throw new StartError(
      `WORKER_METRICS_PORT is ${first}: worker ${index + 1} would get port ${port}, which is ${whose}`,
    );
  });
}

/** Children of a killed supervisor end by themselves; until then they may hold the port. */
async function leftoversGone(mark: string, logger: Logger, ending: AbortSignal): Promise<void> {
  const deadline = performance.now() + childEndMs;
  let pids = processesWith(mark);
  if (pids.length > 0) logger.info({ pids }, 'processes from before are still ending');
  while (pids.length > 0 && !ending.aborted) {
    if (performance.now() > deadline) for (const pid of pids) signalProcess(pid, 'SIGKILL');
    await sleep(20);
    pids = processesWith(mark);
  }
}

/** Runs the embedded Redis, on the same socket however often it dies, until `stop`. */
async function keepRedis(
  stateDir: string,
  logger: Logger,
  ending: AbortSignal,
): Promise<{ url: string; stop(): Promise<void> }> {
  const first = await startRedisServer(stateDir, logger, ending);
  let server: RedisServer | null = first;
  const stopping = new AbortController();
  const lives = keepAlive(async () => {
    try {
      server ??= await startRedisServer(stateDir, logger, stopping.signal);
      // The end may have come meanwhile, when there was no server yet to stop.
      if (stopping.signal.aborted) await server.stop();
      const how = await server.stopped;
      if (!stopping.signal.aborted) logger.error({ how }, 'redis died: it is started again');
    } catch (error) {
      logger.error({ err: error }, 'redis cannot be started');
    }
    server = null;
  }, stopping.signal);
  return {
    url: first.url,
    stop: async () => {
      stopping.abort();
      await server?.stop();
      await lives;
    },
  };
}

/** Lets one life follow another until `ending`, with a pause in between that grows while lives are short. */
async function keepAlive(live: () => Promise<void>, ending: AbortSignal): Promise<void> {
  let pauseMs = 0;
  while (!ending.aborted) {
    const startedAt = performance.now();
    await live();
    const well = performance.now() - startedAt >= wellAfterMs;
    pauseMs = well ? restartMsMin : Math.min(Math.max(restartMsMin, 2 * pauseMs), restartMsMax);
    // Rejects when the end comes, which the loop's condition then sees.
    await sleep(pauseMs, undefined, { signal: ending }).catch(() => {});
  }
}

/** One life of a child: resolves when it is gone. Ends it when asked to. Throws the system's error where it cannot begin. */
async function runChild(child: ChildProcess, role: string, logger: Logger, ending: Ending): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const kill = (): boolean => child.kill('SIGKILL');
  const end = (): void => {
    child.kill('SIGTERM');
    timer = setTimeout(kill, childEndMs);
  };
  ending.soft.addEventListener('abort', end);
  ending.hard.addEventListener('abort', kill);
  child.on('message', (message) => {
    const url = readyUrl(message);
    if (url !== null)
      logger.info({ api: url, docs: `${url}/docs` }, `the API listens at ${url}, its docs are at ${url}/docs`);
  });
  try {
    const [exitCode, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null];
    if (ending.soft.aborted) return;
    if (exitCode === startErrorExitCode) ending.fail();
    else logger.error({ child: role, childPid: child.pid, exitCode, signal }, `${role} died: it is started again`);
  } catch (error) {
    kill();
    throw error;
  } finally {
    clearTimeout(timer);
    ending.soft.removeEventListener('abort', end);
    ending.hard.removeEventListener('abort', kill);
  }
}
