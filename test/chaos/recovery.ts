/**
 * `npm run recovery -- --times 20`: how long it takes until all is well again, as rows of a table. With the default settings, two
 * workers, and a job of 500 files a second in pages of 100.
 */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type { Redis } from 'ioredis';
import { jobKeys, keyPrefix, sharedKeys } from '../../jobs/store.ts';
import type { WorkerSign } from '../../jobs/workers.ts';
import { signalProcess } from '../../src/processes.ts';
import { connectRedis } from '../../src/redis.ts';
import { startFileServer, type FileServer } from '../helpers/file-server.ts';
import { killProcesses, startProcess } from '../helpers/service-process.ts';
import { TestService, type Role } from '../helpers/service.ts';
import { call } from './calls.ts';

const GIVE_UP_MS = 60_000;
/** So long after the last request a job counts as quiet: it starts one every 2 ms. */
const QUIET_MS = 1_500;

/** What dies again and again is started again after pauses that grow; what lived so long begins anew. */
const RESTED_MS = 3_500;

const { values } = parseArgs({
  options: { times: { type: 'string', default: '20' }, only: { type: 'string', default: '' } },
});

/** A service with a job that would go on for days. */
interface Scene {
  readonly service: TestService;
  readonly server: FileServer;
  readonly redis: Redis;
  readonly job: string;
}

/** Resolves with how long it took until `is` holds, in ms. */
async function until(what: string, is: () => Promise<boolean> | boolean): Promise<number> {
  const begun = performance.now();
  while (!(await is())) {
    if (performance.now() - begun > GIVE_UP_MS) throw new Error(`in vain: ${what}`);
    await sleep(5);
  }
  return performance.now() - begun;
}

async function postJob({ service, server }: Pick<Scene, 'service' | 'server'>): Promise<string> {
  const { id } = await service.post({
    source: { type: 'range', url: `${server.origin}/get/{0..99999999}.bin`, pageSize: 100 },
    limits: { requestsPerSecond: 500 },
  });
  return id;
}

/** Until a file is asked for after now. */
function untilRequested({ server }: Scene): Promise<number> {
  const before = server.requests.length;
  return until('a request', () => server.requests.length > before);
}

async function untilBusy(scene: Scene): Promise<void> {
  const before = scene.server.requests.length;
  await until('two workers', async () => (await scene.service.workers()).length === 2);
  await until('requests', () => scene.server.requests.length > before + 300);
}

/** The entries that a worker has in work, each as its flag in the in-flight hash is. */
async function pagesOf({ redis, job }: Scene, pid: number): Promise<Map<string, string>> {
  const signs = (await redis.hvals(sharedKeys.workersSaid)).map((sign) => JSON.parse(sign) as WorkerSign);
  // In a namespace of its own it does not know the number by which it is killed here.
  const sign = signs.find((one) => one.pid === pid) ?? signs.find((one) => one.pid < 10);
  const pages = new Map<string, string>();
  for (const hint of await redis.lrange(`${keyPrefix}:pages:active`, 0, -1)) {
    const holder = await redis.get(`${keyPrefix}:pages:${hint}:lock`);
    const seq = hint.split('_').at(-1)!;
    const entry = await redis.hget(jobKeys(job).inFlight, seq);
    if (sign !== undefined && entry !== null && holder?.startsWith(`${sign.consumer}:`)) pages.set(seq, entry);
  }
  return pages;
}

/** Until others have begun all of these pages. */
function untilInWork({ redis, job }: Scene, pages: ReadonlyMap<string, string>): Promise<number> {
  return until('its pages are in work again', async () => {
    const entries = await redis.hmget(jobKeys(job).inFlight, ...pages.keys());
    return [...pages.values()].every((before, index) => {
      const now = entries[index] ?? '';
      return now === '' || (now.split(' ')[2] !== before.split(' ')[2] && now.split(' ')[2] !== '-');
    });
  });
}

async function pagesBack(scene: Scene, pid: number, signal: 'SIGKILL' | 'SIGSTOP'): Promise<number> {
  let pages = new Map<string, string>();
  await until('it has pages', async () => (pages = await pagesOf(scene, pid)).size > 0);
  signalProcess(pid, signal);
  return untilInWork(scene, pages);
}

/** How long after the answer to `verb` the last request came. */
async function quietAfter({ service, server }: Scene, job: string, verb: 'pause' | 'cancel'): Promise<number> {
  const { status } = await call(`${service.url}/jobs/${job}/${verb}`, 'POST');
  if (status !== 202) throw new Error(`${verb} was answered ${status}`);
  const answered = performance.now();
  const last = (): number => server.requests.at(-1)?.atMs ?? 0;
  await until('quiet', () => performance.now() - Math.max(answered, last()) > QUIET_MS);
  return Math.max(0, last() - answered);
}

/** Kills these, starts the service anew, and tells when the API was ready and when files were fetched again. */
async function restart(scene: Scene, roles: readonly Role[]): Promise<number> {
  const { service } = scene;
  service.kill(...roles);
  await until('the supervisor is gone', () => service.pids('supervisor').length === 0);
  const begun = performance.now();
  await service.start();
  await untilRequested(scene);
  return performance.now() - begun;
}

const kinds: Record<string, (scene: Scene) => Promise<number>> = {
  'a worker killed: its pages in work again': (scene) => pagesBack(scene, scene.service.pids('worker')[0]!, 'SIGKILL'),
  'the API killed: it answers again': async ({ service }) => {
    await sleep(RESTED_MS);
    const [before] = service.pids('api');
    service.kill('api');
    return until('an answer', async () => service.pids('api')[0] !== before && (await service.get('/readyz')) !== null);
  },
  'Redis killed: files are fetched again': async (scene) => {
    await sleep(RESTED_MS);
    const [before] = scene.service.pids('redis');
    const begun = performance.now();
    scene.service.kill('redis');
    await until('another Redis', () => ![undefined, before].includes(scene.service.pids('redis')[0]));
    await untilRequested(scene);
    return performance.now() - begun;
  },
  'everything killed: files are fetched again, from the restart': (scene) =>
    restart(scene, ['supervisor', 'worker', 'api', 'redis']),
  'the supervisor killed: files are fetched again, from the restart': (scene) => restart(scene, ['supervisor']),
  'the supervisor and Redis killed: files are fetched again, from the restart': (scene) =>
    restart(scene, ['supervisor', 'redis']),
  'pause: the last request after the answer': async (scene) => {
    const ms = await quietAfter(scene, scene.job, 'pause');
    await call(`${scene.service.url}/jobs/${scene.job}/resume`, 'POST');
    return ms;
  },
  'resume: files are fetched again': async (scene) => {
    await quietAfter(scene, scene.job, 'pause');
    const resumed = performance.now();
    await call(`${scene.service.url}/jobs/${scene.job}/resume`, 'POST');
    await untilRequested(scene);
    return performance.now() - resumed;
  },
  'cancel: the last request after the answer': async (scene) => {
    await call(`${scene.service.url}/jobs/${scene.job}/pause`, 'POST');
    const other = await postJob(scene);
    await untilRequested(scene);
    await sleep(500);
    const ms = await quietAfter(scene, other, 'cancel');
    await call(`${scene.service.url}/jobs/${scene.job}/resume`, 'POST');
    return ms;
  },
  'a worker of another host killed: its pages in work again': async (scene) => {
    const pid = await workerElsewhere(scene);
    return pagesBack(scene, pid, 'SIGKILL');
  },
  'a worker stopped (SIGSTOP): its pages in work again': async (scene) => {
    const [pid] = scene.service.pids('worker');
    const ms = await pagesBack(scene, pid!, 'SIGSTOP');
    signalProcess(pid!, 'SIGKILL');
    return ms;
  },
};

/** A worker in a namespace of process ids of its own: as from another host, nobody can see whether it lives. */
async function workerElsewhere({ service }: Scene): Promise<number> {
  const script = fileURLToPath(new URL('../fixtures/elsewhere.ts', import.meta.url));
  const elsewhere = startProcess(script, {
    REDIS_URL: join(service.stateDir, 'redis', 'redis.sock'),
    DATA_DIR: service.dataDir,
    STATE_DIR: service.stateDir,
    ALLOWED_NETWORKS: '127.0.0.0/8',
  });
  await elsewhere.line((line) => (String(line.msg).startsWith('worker started') ? true : undefined));
  const child = spawnSync('pgrep', ['-P', String(elsewhere.pid)], { encoding: 'utf8' }).stdout;
  return Number(child.trim().split('\n')[0]);
}

const server = await startFileServer({ files: 100_000_000, latencyMs: 20 });
const service = await new TestService().start();
const redis = connectRedis(join(service.stateDir, 'redis', 'redis.sock'), { patient: true });
const scene: Scene = { service, server, redis, job: await postJob({ service, server }) };
process.stdout.write('| what | times | median s | most s |\n| --- | --- | --- | --- |\n');
for (const [what, measure] of Object.entries(kinds)) {
  if (!what.includes(values.only)) continue;
  const seconds: number[] = [];
  while (seconds.length < Number(values.times)) {
    await untilBusy(scene);
    seconds.push((await measure(scene)) / 1000);
    server.requests.length = 0;
  }
  seconds.sort((a, b) => a - b);
  const [median, most] = [seconds[Math.floor(seconds.length / 2)], seconds.at(-1)].map((value) => value?.toFixed(2));
  process.stdout.write(`| ${what} | ${seconds.length} | ${median} | ${most} |\n`);
}
service.killAll();
killProcesses();
process.exit(0);
