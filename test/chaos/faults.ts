/** Everything that a round of chaos may do to the service. */
import { existsSync, readdirSync, readFileSync, renameSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Redis } from 'ioredis';
import { failpoints, type FailpointName } from '../../src/failpoint.ts';
import { signalProcess } from '../../src/processes.ts';
import type { Fault as ServerFault, FileServer } from '../helpers/file-server.ts';
import { gone, startProcess } from '../helpers/service-process.ts';
import type { Role } from '../helpers/service.ts';
import { cuts } from './append-only-file.ts';
import { steering } from './steering.ts';
import type { World } from './world.ts';

/** What a fault entitles the service to. */
export interface Allowance {
  /** Requests in flight may be made again, and live counts may go back. */
  readonly again?: true;
  /** What was acknowledged may be undone. */
  readonly undone?: true;
  /** Files may fail with the reason `sink`. */
  readonly sink?: true;
  /** Redis may not answer, or not know of a lock: workers report what they could not do. */
  readonly redis?: true;
  /** Jobs that have ended may run again. */
  readonly retried?: true;
  /** The requests for files that it answers wrongly are made again. */
  readonly answers?: true;
}

export interface Fault {
  /** How often it is drawn, compared with others. */
  readonly weight: number;
  /** How long it may last, in ms; [0, 0]: it is over at once. */
  readonly lastsMs: readonly [number, number];
  readonly allows: Allowance;
  /** It is injected before the jobs are posted. */
  readonly early?: true;
  /** It is injected when all jobs have ended. */
  readonly late?: true;
  /** It starts or ends processes that others do too: one such fault at a time. */
  readonly exclusive?: true;
  /** Does it; `dice` (from 0 up to 1) chooses where there is a choice. Returns what undoes it; null: it could not be done. */
  readonly inject: (world: World, dice: number) => Promise<Undo | null>;
}

export type Undo = () => Promise<void> | void;

const NOTHING: Undo = () => {};
const INSTANT = [0, 0] as const;
const ANSWER_MS = 1000;
const everyRole: readonly Role[] = ['supervisor', 'worker', 'api', 'redis'];
const workerScript = fileURLToPath(new URL('../../src/worker.ts', import.meta.url));
const FAKETIME = ['/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1', '/usr/lib/faketime/libfaketime.so.1'];

function pick<T>(from: readonly T[], dice: number): T | undefined {
  return from[Math.floor(dice * from.length)];
}

function end(role: Role, signal: 'SIGKILL' | 'SIGTERM', weight: number, allows: Allowance): Fault {
  return {
    weight,
    lastsMs: INSTANT,
    allows,
    inject: async ({ service }, dice) => {
      const pid = pick(service.pids(role), dice);
      if (pid === undefined) return null;
      signalProcess(pid, signal);
      return NOTHING;
    },
  };
}

/** Ends the service as a person does, and starts it again. */
const restart: Fault = {
  weight: 2,
  lastsMs: INSTANT,
  allows: { again: true },
  exclusive: true,
  inject: async ({ service }) => {
    const exitCode = await service.stop();
    if (exitCode !== 0) throw new Error(`the service ended with ${exitCode}`);
    await service.start();
    return NOTHING;
  },
};

/** Kills these at the same moment, and starts the service again. */
function killAndStart(roles: readonly Role[], weight: number): Fault {
  return {
    weight,
    lastsMs: INSTANT,
    allows: { again: true, redis: true },
    exclusive: true,
    inject: async ({ service }) => {
      const pids = roles.flatMap((role) => service.pids(role));
      for (const pid of pids) signalProcess(pid, 'SIGKILL');
      await Promise.all(pids.map(gone));
      await service.start();
      return NOTHING;
    },
  };
}

function stop(role: Role, weight: number, lastsMs: Fault['lastsMs'], more: Partial<Fault> = {}): Fault {
  return {
    weight,
    lastsMs,
    allows: { again: true, redis: true },
    ...more,
    inject: async ({ service }, dice) => {
      const pid = pick(service.pids(role), dice);
      if (pid === undefined) return null;
      signalProcess(pid, 'SIGSTOP');
      return () => signalProcess(pid, 'SIGCONT');
    },
  };
}

/** Stops all processes at once, for longer than any lock lasts. */
const stopAll: Fault = {
  weight: 2,
  lastsMs: [3500, 5000],
  allows: { again: true, redis: true },
  exclusive: true,
  inject: async ({ service }) => {
    const pids = everyRole.flatMap((role) => service.pids(role));
    for (const pid of pids) signalProcess(pid, 'SIGSTOP');
    return () => pids.forEach((pid) => signalProcess(pid, 'SIGCONT'));
  },
};

/** A process sends itself the signal between two steps of the protocol. */
function at(name: FailpointName, signal: 'SIGKILL' | 'SIGSTOP'): Fault {
  return {
    weight: name === 'created' ? 1 : 2,
    lastsMs: signal === 'SIGKILL' ? INSTANT : [1000, 4000],
    allows: { again: true, redis: true },
    ...(name === 'created' ? { early: true } : {}),
    inject: async (world) => {
      const { failpoints: folder, over } = world;
      const armed = join(folder, name);
      const before = new Set(readdirSync(folder));
      writeFileSync(armed, signal);
      while (existsSync(armed) && !over.signal.aborted) await world.last(10);
      rmSync(armed, { force: true });
      const taken = readdirSync(folder).find((file) => file.startsWith(`${name}.`) && !before.has(file));
      if (taken === undefined) return null;
      return () => signalProcess(Number(taken.slice(name.length + 1)), 'SIGCONT');
    },
  };
}

/** The server that the dice choose answers otherwise; `match`: which requests, by default all. */
function answers(weight: number, lastsMs: Fault['lastsMs'], fault: (dice: number) => ServerFault): Fault {
  return server(weight, lastsMs, (target, dice) => target.fault(() => true, fault(dice)));
}

function server(
  weight: number,
  lastsMs: Fault['lastsMs'],
  inject: (target: FileServer, dice: number) => Promise<Undo> | Undo,
): Fault {
  return {
    weight,
    lastsMs,
    allows: { answers: true, again: true },
    inject: async (world, dice) => {
      const target = pick(world.jobs, dice)?.server;
      if (target === undefined) return null;
      world.serversInTrouble += 1;
      const undo = await inject(target, (dice * world.jobs.length) % 1);
      return async () => {
        await undo();
        world.serversInTrouble -= 1;
      };
    },
  };
}

/** Redis comes back as it was at an earlier moment, but not before the jobs were accepted. */
const rollback: Fault = {
  weight: 5,
  lastsMs: INSTANT,
  allows: { again: true, undone: true, redis: true },
  exclusive: true,
  inject: async ({ service, appendOnlyFile, acceptedBytes }, dice) => {
    const [supervisor] = service.pids('supervisor');
    const [redis] = service.pids('redis');
    if (supervisor === undefined || redis === undefined) return null;
    signalProcess(supervisor, 'SIGSTOP');
    signalProcess(redis, 'SIGKILL');
    await gone(redis);
    const places = cuts(readFileSync(appendOnlyFile)).filter((place) => place >= acceptedBytes);
    // Most often to a moment ago, sometimes to long before.
    const place = pick(places, 1 - (1 - dice) ** 3);
    if (place !== undefined) truncateSync(appendOnlyFile, place);
    signalProcess(supervisor, 'SIGCONT');
    return NOTHING;
  },
};

/** Closes all connections of the Redis behind this socket. Resolves with false where that could not be done. */
async function cutAll(socket: string): Promise<boolean> {
  const redis = new Redis(socket, {
    lazyConnect: true,
    enableReadyCheck: false,
    retryStrategy: () => null,
    maxRetriesPerRequest: 0,
    commandTimeout: ANSWER_MS,
  });
  redis.on('error', () => {});
  try {
    await redis.connect();
    await redis.call('CLIENT', 'KILL', 'SKIPME', 'yes');
    return true;
  } catch {
    return false;
  } finally {
    redis.disconnect();
  }
}

const cutConnections: Fault = {
  weight: 3,
  lastsMs: INSTANT,
  allows: { again: true, redis: true },
  inject: async ({ redisDir }) => ((await cutAll(join(redisDir, 'redis.sock'))) ? NOTHING : null),
};

/** Redis runs, but nobody reaches it: its socket is elsewhere, its connections are closed. */
const hideRedis: Fault = {
  weight: 1,
  lastsMs: [30_000, 30_000],
  allows: { again: true, redis: true },
  // Whoever starts the service would look for Redis in vain.
  exclusive: true,
  inject: async ({ redisDir }) => {
    const socket = join(redisDir, 'redis.sock');
    const hidden = `${socket}.hidden`;
    if (!existsSync(socket)) return null;
    renameSync(socket, hidden);
    const undo = (): void => {
      // One that was killed meanwhile has made itself another.
      if (!existsSync(socket)) renameSync(hidden, socket);
    };
    if (await cutAll(hidden)) return undo;
    undo();
    return null;
  },
};

const diskFull: Fault = {
  weight: 3,
  lastsMs: [50, 4000],
  allows: { sink: true },
  inject: async (world, dice) => world.fillDisk('dataDir', Math.floor(dice * 8)),
};

const stateDiskFull: Fault = {
  weight: 2,
  lastsMs: [50, 2000],
  allows: { again: true, redis: true },
  // The service cannot be started meanwhile.
  exclusive: true,
  inject: async (world, dice) => world.fillDisk('stateDir', Math.floor(dice * 4)),
};

/** One more worker, whose clock is off by up to ten minutes. */
const wrongClock: Fault = {
  weight: 3,
  lastsMs: [1000, 4000],
  allows: { again: true },
  inject: async (world, dice) => {
    const library = FAKETIME.find((path) => existsSync(path));
    if (library === undefined) return null;
    const seconds = Math.round((dice - 0.5) * 1200);
    const worker = startProcess(workerScript, {
      REDIS_URL: join(world.redisDir, 'redis.sock'),
      DATA_DIR: world.service.dataDir,
      STATE_DIR: world.service.stateDir,
      ALLOWED_NETWORKS: '127.0.0.0/8',
      PAGE_LOCK_MS: String(world.plan.lockMs),
      LD_PRELOAD: library,
      FAKETIME: `${seconds < 0 ? '' : '+'}${seconds}s`,
      FAKETIME_DONT_FAKE_MONOTONIC: '1',
    });
    world.extra.add(worker);
    return async () => {
      // Every second one says good-bye.
      signalProcess(worker.pid, Math.round(seconds) % 2 === 0 ? 'SIGKILL' : 'SIGTERM');
      await worker.ended;
      world.extra.delete(worker);
    };
  },
};

type Fixed =
  | `kill ${Role}`
  | 'end worker'
  | 'restart'
  | 'kill workers'
  | 'kill all'
  | 'kill all but redis'
  | `stop ${Role}`
  | 'stop worker long'
  | 'stop redis long'
  | 'stop all'
  | 'hide redis'
  | 'roll back redis'
  | 'cut connections'
  | 'fill disk'
  | 'fill disk of redis'
  | 'wrong clock'
  | 'server down'
  | 'server hangs'
  | 'server throttles'
  | 'server asks to wait'
  | 'server fails'
  | 'server cuts';

const fixed: Record<Fixed, Fault> = {
  'kill worker': end('worker', 'SIGKILL', 6, { again: true }),
  'kill api': end('api', 'SIGKILL', 2, {}),
  'kill redis': end('redis', 'SIGKILL', 5, { again: true, redis: true }),
  'end worker': end('worker', 'SIGTERM', 2, { again: true }),
  restart,
  'kill supervisor': killAndStart(['supervisor'], 3),
  'kill workers': {
    ...end('worker', 'SIGKILL', 3, { again: true }),
    inject: async ({ service }) => {
      service.kill('worker');
      return NOTHING;
    },
  },
  'kill all': killAndStart(everyRole, 5),
  'kill all but redis': killAndStart(['supervisor', 'worker', 'api'], 2),
  'stop worker': stop('worker', 6, [200, 4000]),
  'stop worker long': stop('worker', 1, [5500, 7000]),
  'stop api': stop('api', 1, [200, 3000]),
  'stop redis': stop('redis', 4, [200, 4000]),
  'stop redis long': stop('redis', 1, [30_000, 30_000]),
  'stop supervisor': stop('supervisor', 1, [200, 3000], { exclusive: true }),
  'stop all': stopAll,
  'hide redis': hideRedis,
  'roll back redis': rollback,
  'cut connections': cutConnections,
  'fill disk': diskFull,
  'fill disk of redis': stateDiskFull,
  'wrong clock': wrongClock,
  'server down': server(3, [50, 4000], async (target) => {
    await target.down();
    return () => target.up();
  }),
  'server hangs': server(2, [200, 4000], (target) => target.hold(() => true)),
  'server throttles': answers(2, [100, 2000], (dice) => ({ status: dice < 0.5 ? 503 : 429 })),
  'server asks to wait': answers(1, [50, 300], () => ({ status: 503, headers: { 'retry-after': '1' } })),
  'server fails': answers(2, [50, 1000], () => ({ status: 500, times: 1 })),
  'server cuts': answers(2, [50, 1000], (dice) => ({
    cut: { after: Math.floor(dice * 30), by: dice < 0.3 ? 'silence' : dice < 0.7 ? 'reset' : 'end' },
    times: 1,
  })),
};

type AtFailpoint = `${'die' | 'stop'} when ${FailpointName}`;

export type FaultName = Fixed | AtFailpoint | keyof typeof steering;

const atFailpoints = Object.fromEntries(
  failpoints.flatMap((name): [AtFailpoint, Fault][] => [
    [`die when ${name}`, at(name, 'SIGKILL')],
    [`stop when ${name}`, at(name, 'SIGSTOP')],
  ]),
) as Record<AtFailpoint, Fault>;

export const faults: Readonly<Record<FaultName, Fault>> = { ...fixed, ...steering, ...atFailpoints };

export const faultNames = Object.keys(faults) as FaultName[];
