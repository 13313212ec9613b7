import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Redis } from 'ioredis';
import { StartError } from '../src/errors.ts';
import { onEndSignals, requireRedisUrl } from '../src/process.ts';
import { commandLine, processesWith, signalProcess } from '../src/processes.ts';
import { temporaryFolder } from './helpers/folders.ts';
import { gone, killProcesses, startProcess, type ServiceProcess } from './helpers/service-process.ts';

const root = temporaryFolder();
const script = (name: string): string => fileURLToPath(new URL(name, import.meta.url));

interface Service extends ServiceProcess {
  readonly stateDir: string;
}

function startService(folder: string, environment: NodeJS.ProcessEnv = {}): Service {
  const stateDir = join(folder, 'state');
  const env = { DATA_DIR: join(folder, 'data'), STATE_DIR: stateDir, WORKERS: '2', REDIS_URL: undefined };
  return { ...startProcess(script('fixtures/supervisor.ts'), { ...env, ...environment }), stateDir };
}

const newFolder = (): string => mkdtempSync(join(root, 'service-'));
const redisIds = ({ stateDir }: Service): number[] => processesWith('--dir', join(stateDir, 'redis'));
const childIds = ({ stateDir }: Service): number[] => processesWith(`--supervised-in=${stateDir}`);

/** The ids of the API and the workers, once as many as `count` of those not in `but` are up. */
async function children(service: Service, count = 3, but: readonly number[] = []): Promise<number[]> {
  const pids = new Set<number>();
  while (pids.size < count) {
    pids.add(
      await service.line(({ what, pid }) =>
        what === 'up' && typeof pid === 'number' && !pids.has(pid) && !but.includes(pid) ? pid : undefined,
      ),
    );
  }
  return [...pids];
}

const redisUrl = async (service: Service): Promise<string> =>
  service.line(({ redis }) => (typeof redis === 'string' ? redis : undefined));

const redisServes = async (service: Service, but = 0): Promise<number> =>
  service.line(({ redisPid, msg }) =>
    msg === 'redis serves' && typeof redisPid === 'number' && redisPid !== but ? redisPid : undefined,
  );

const said = async (service: Service, pid: number, what: string): Promise<true> =>
  service.line((line) => (line['pid'] === pid && line['what'] === what ? true : undefined));

async function ask<T>(url: string, question: (redis: Redis) => Promise<T>): Promise<T> {
  const redis = new Redis(url, { retryStrategy: () => null });
  try {
    return await question(redis);
  } finally {
    redis.disconnect();
  }
}

function nothingIsLeft(service: Service): void {
  assert.deepEqual([...redisIds(service), ...childIds(service)], []);
}

after(async () => {
  killProcesses();
  const left = processesWith('--dir').concat(processesWith(script('fixtures/child.ts')));
  const ours = left.filter((pid) => commandLine(pid)?.includes(root));
  for (const pid of ours) signalProcess(pid, 'SIGKILL');
  await Promise.all(ours.map(gone));
});

test('the service starts Redis, the API and the workers, says where the API is, and SIGTERM ends all of them', async () => {
  const service = startService(newFolder());
  const message = await service.line(({ api, msg }) => (typeof api === 'string' ? msg : undefined));
  assert.equal(message, 'the API listens at http://127.0.0.1:4711, its docs are at http://127.0.0.1:4711/docs');
  const pids = await children(service);
  assert.equal(await ask(await redisUrl(service), (redis) => redis.ping()), 'PONG');
  service.process.kill('SIGTERM');
  assert.deepEqual(await service.ended, { code: 0, signal: null });
  await Promise.all(pids.map((pid) => said(service, pid, 'closed')));
  nothingIsLeft(service);
  assert.deepEqual(service.errors, []);
});

test('Ctrl-C, which reaches every process of the terminal, ends the children while Redis still serves them', async () => {
  const service = startService(newFolder(), { FIXTURE: 'needs-redis' });
  const pids = await children(service);
  process.kill(-service.pid, 'SIGINT');
  assert.deepEqual(await service.ended, { code: 0, signal: null });
  await Promise.all(pids.map(async (pid) => said(service, pid, 'closed')));
  nothingIsLeft(service);
});

test('a Ctrl-C that comes twice at once, as under npm, is one, and a later one is a second', (t) => {
  const now = t.mock.method(performance, 'now', () => 1_000);
  const calls: string[] = [];
  const stop = onEndSignals({ first: () => calls.push('first'), again: () => calls.push('again') });
  process.emit('SIGINT');
  process.emit('SIGINT');
  assert.deepEqual(calls, ['first']);
  now.mock.mockImplementation(() => 1_600);
  process.emit('SIGTERM');
  assert.deepEqual(calls, ['first', 'again']);
  stop();
  assert.deepEqual([process.listenerCount('SIGINT'), process.listenerCount('SIGTERM')], [0, 0]);
});

test('a second Ctrl-C, later, kills children that do not close', async () => {
  const service = startService(newFolder(), { FIXTURE: 'never-closes' });
  const pids = await children(service);
  const startedAt = performance.now();
  service.process.kill('SIGINT');
  await Promise.all(pids.map((pid) => said(service, pid, 'closing')));
  // Only while there is something to kill: a press that comes when the supervisor listens no more ends it as any process.
  const presses = setInterval(() => {
    if (childIds(service).length === pids.length) service.process.kill('SIGINT');
  }, 100);
  try {
    assert.deepEqual(await service.ended, { code: 1, signal: null });
  } finally {
    clearInterval(presses);
  }
  // The deadlines, which the kill forestalls, are 7 and 8 s.
  assert.ok(performance.now() - startedAt < 5_000);
  nothingIsLeft(service);
});

test('children that never close are gone within 10 s after one SIGTERM', async () => {
  const service = startService(newFolder(), { FIXTURE: 'never-closes' });
  const pids = await children(service);
  process.kill(pids[0] ?? 0, 'SIGSTOP');
  const startedAt = performance.now();
  service.process.kill('SIGTERM');
  assert.deepEqual(await service.ended, { code: 0, signal: null });
  assert.ok(performance.now() - startedAt < 10_000);
  nothingIsLeft(service);
});

test('each worker gets a port of its own for its figures; a row that leaves the ports ends the start', async () => {
  const service = startService(newFolder(), { WORKERS: '3', WORKER_METRICS_PORT: '9464', PORT: '0' });
  for (const wanted of ['9464', '9465', '9466']) {
    await service.line(({ what, metricsPort }) => (what === 'up' && metricsPort === wanted ? true : undefined));
  }
  service.process.kill('SIGTERM');
  assert.deepEqual(await service.ended, { code: 0, signal: null });
  for (const [first, port, error] of [
    ['65535', '3000', /worker 2 would get port 65536/],
    ['2998', '3000', /worker 3 would get port 3000, which is the API's/],
  ] as const) {
    const wrong = startService(newFolder(), { WORKERS: '3', WORKER_METRICS_PORT: first, PORT: port });
    assert.equal((await wrong.ended).code, 1);
    assert.match(wrong.errors.join('\n'), error);
    nothingIsLeft(wrong);
  }
});

test('a child that is killed is replaced, again and again', async () => {
  const service = startService(newFolder(), { WORKERS: '0' });
  const killed: number[] = [];
  for (let i = 0; i < 3; i++) {
    const [pid = 0] = await children(service, 1, killed);
    process.kill(pid, 'SIGKILL');
    killed.push(pid);
  }
  const [pid = 0] = await children(service, 1, killed);
  assert.deepEqual(childIds(service), [pid]);
  service.process.kill('SIGTERM');
  await service.ended;
  nothingIsLeft(service);
});

test('a child that dies at its start again and again is started again after pauses that double', async () => {
  const service = startService(newFolder(), { FIXTURE: 'bug', WORKERS: '0' });
  const deaths = new Map<unknown, number>();
  while (deaths.size < 6) {
    const [pid, at] = await service.line(({ child, childPid, time }) =>
      child === 'api' && !deaths.has(childPid) ? [childPid, Date.parse(String(time))] : undefined,
    );
    deaths.set(pid, at);
  }
  const times = [...deaths.values()];
  const gaps = times.slice(1).map((at, index) => at - (times[index] ?? 0));
  for (const [index, leastMs] of [100, 200, 400, 800, 1600].entries()) {
    // A timer may be a millisecond early, and times are told in whole ones.
    assert.ok((gaps[index] ?? 0) >= leastMs - 2, gaps.join());
  }
  service.process.kill('SIGTERM');
  assert.equal((await service.ended).code, 0);
});

test('where the system refuses a new process, it is asked again and again', async () => {
  const service = startService(newFolder(), { FIXTURE: 'no-children', WORKERS: '0', REDIS_URL: 'redis://127.0.0.1:1' });
  const refused = new Set<unknown>();
  while (refused.size < 2) {
    refused.add(
      await service.line(({ msg, time }) => (msg === 'api cannot be started' && !refused.has(time) ? time : undefined)),
    );
  }
  service.process.kill('SIGTERM');
  assert.equal((await service.ended).code, 0);
});

test('a child that ends by a bug is replaced after it printed its stack', async () => {
  const service = startService(newFolder(), { FIXTURE: 'bug', WORKERS: '0' });
  const dead = new Set<unknown>();
  while (dead.size < 2) {
    dead.add(
      await service.line(({ childPid, exitCode }) => (exitCode === 1 && !dead.has(childPid) ? childPid : undefined)),
    );
  }
  service.process.kill('SIGTERM');
  assert.equal((await service.ended).code, 0);
  assert.match(service.errors.join('\n'), /TypeError: a bug\n +at /);
});

for (const [fixture, stack] of [
  ['throws-later', /TypeError: a bug in a callback\n +at throwBug/],
  ['rejects-unheard', /TypeError: a bug nobody waited for\n +at /],
] as const) {
  test(`an error that nobody catches (${fixture}) ends a child with its stack, and it is replaced`, async () => {
    const service = startService(newFolder(), { FIXTURE: fixture, WORKERS: '1' });
    const [first = 0] = await children(service, 1);
    await service.line(({ childPid, exitCode }) => (childPid === first && exitCode === 1 ? true : undefined));
    await children(service, 1, [first]);
    service.process.kill('SIGTERM');
    assert.equal((await service.ended).code, 0);
    assert.match(service.errors.join('\n'), stack);
    nothingIsLeft(service);
  });
}

test('a child that cannot start as it is set up ends the whole service with its one line', async () => {
  const service = startService(newFolder(), { FIXTURE: 'start-error', WORKERS: '0' });
  assert.deepEqual(await service.ended, { code: 1, signal: null });
  assert.deepEqual(service.errors, ['gigafetch: the port is taken']);
  nothingIsLeft(service);
});

test('kill -9 of Redis: it is back on the same socket with every acknowledged write', async () => {
  const service = startService(newFolder());
  const url = await redisUrl(service);
  const first = await redisServes(service);
  const pids = await children(service);
  await ask(url, (redis) => redis.set('a', '1'));
  process.kill(first, 'SIGKILL');
  const second = await redisServes(service, first);
  assert.equal(await ask(url, (redis) => redis.get('a')), '1');
  assert.deepEqual(redisIds(service), [second]);
  assert.deepEqual(new Set(childIds(service)), new Set(pids));
  service.process.kill('SIGTERM');
  await service.ended;
  nothingIsLeft(service);
});

test('SIGTERM while Redis is just starting again leaves nothing behind', async () => {
  const service = startService(newFolder(), { WORKERS: '0' });
  const first = await redisServes(service);
  await children(service, 1);
  process.kill(first, 'SIGKILL');
  await service.line(({ how }) => (how === 'SIGKILL' ? true : undefined));
  while (redisIds(service).length === 0) await new Promise(setImmediate);
  service.process.kill('SIGTERM');
  assert.equal((await service.ended).code, 0);
  nothingIsLeft(service);
});

test('kill -9 of the supervisor: its children end, and the next start goes on with the same Redis', async () => {
  const folder = newFolder();
  const first = startService(folder, { FIXTURE: 'closes-slowly' });
  const pids = await children(first);
  const redis = await redisServes(first);
  await ask(await redisUrl(first), (redis) => redis.set('a', '1'));
  first.process.kill('SIGKILL');
  const second = startService(folder);
  const newPids = await children(second);
  for (const pid of pids) assert.equal(commandLine(pid), null);
  assert.equal(await redisServes(second), redis);
  assert.deepEqual(redisIds(second), [redis]);
  assert.deepEqual(new Set(childIds(second)), new Set(newPids));
  assert.equal(await ask(await redisUrl(second), (redis) => redis.get('a')), '1');

  // An adopted Redis is watched and ended like one of its own.
  process.kill(redis, 'SIGKILL');
  await redisServes(second, redis);
  second.process.kill('SIGTERM');
  assert.equal((await second.ended).code, 0);
  nothingIsLeft(second);
});

test('after kill -9 of the supervisor and Redis, Redis is back before the children that are left have ended', async () => {
  const folder = newFolder();
  const first = startService(folder, { WORKERS: '1' });
  const [left] = await children(first, 2);
  // It cannot end by itself.
  signalProcess(left!, 'SIGSTOP');
  for (const pid of [first.pid, ...redisIds(first)]) signalProcess(pid, 'SIGKILL');
  await gone(first.pid);

  const second = startService(folder, { WORKERS: '1' });
  await redisServes(second);
  assert.deepEqual(childIds(second), [left]);
  signalProcess(left!, 'SIGKILL');
  await children(second, 2, [left!]);
  signalProcess(second.pid, 'SIGTERM');
  await second.ended;
});

test('kill -9 of everything at once: the next start has every acknowledged write and one Redis', async () => {
  const folder = newFolder();
  const first = startService(folder);
  const pids = await children(first);
  const redis = await redisServes(first);
  await ask(await redisUrl(first), (redis) => redis.set('a', '1'));
  for (const pid of [first.pid, redis, ...pids]) process.kill(pid, 'SIGKILL');
  const second = startService(folder);
  await children(second);
  assert.equal(await ask(await redisUrl(second), (redis) => redis.get('a')), '1');
  assert.deepEqual(redisIds(second), [await redisServes(second)]);
  second.process.kill('SIGTERM');
  await second.ended;
  nothingIsLeft(second);
});

test('of two started at the same instant on one STATE_DIR one goes on, the other ends with one line', async () => {
  const folder = newFolder();
  const both = [startService(folder), startService(folder)];
  const { service: loser, end } = await Promise.race(
    both.map(async (service) => ({ service, end: await service.ended })),
  );
  assert.deepEqual(end, { code: 1, signal: null });
  assert.equal(loser.errors.length, 1);
  assert.match(
    loser.errors[0] ?? '',
    /^gigafetch: Gigafetch is already running on STATE_DIR \(\/.*\): stop it, or set/,
  );
  const winner = both.find((service) => service !== loser);
  assert.ok(winner);
  await children(winner);
  assert.deepEqual(redisIds(winner), [await redisServes(winner)]);
  winner.process.kill('SIGTERM');
  assert.equal((await winner.ended).code, 0);
  nothingIsLeft(winner);
});

test('with REDIS_URL the service runs no Redis of its own and hands the URL on', async () => {
  const service = startService(newFolder(), { REDIS_URL: 'redis://127.0.0.1:1', WORKERS: '1' });
  assert.equal(await redisUrl(service), 'redis://127.0.0.1:1');
  await children(service, 2);
  assert.deepEqual(redisIds(service), []);
  service.process.kill('SIGTERM');
  assert.equal((await service.ended).code, 0);
});

test('folders that are one by a symbolic link, or cannot be made, are one line', async () => {
  const folder = newFolder();
  mkdirSync(join(folder, 'data'));
  symlinkSync('data', join(folder, 'state'));
  const linked = startService(folder);
  assert.equal((await linked.ended).code, 1);
  assert.match(linked.errors.join('\n'), /^gigafetch: by their links, STATE_DIR .* are not two separate folders$/);
  const impossible = startService(newFolder(), { STATE_DIR: '/dev/null/state' });
  assert.equal((await impossible.ended).code, 1);
  assert.match(impossible.errors.join('\n'), /^gigafetch: DATA_DIR or STATE_DIR cannot be created: .*ENOTDIR.*$/);
});

test('npm start with a bad setting ends with one line', async () => {
  const main = startProcess(script('../src/main.ts'), { PORT: 'http' });
  assert.deepEqual(await main.ended, { code: 1, signal: null });
  assert.deepEqual(main.errors, ['gigafetch: PORT is "http"; it must be a whole number from 0 to 65535']);
});

test('a role without a supervisor closes at SIGINT, and exits with 78 where it cannot start as it is set up', async () => {
  const role = startProcess(script('fixtures/child.ts'), {});
  await role.line(({ what }) => (what === 'up' ? true : undefined));
  role.process.kill('SIGINT');
  assert.deepEqual(await role.ended, { code: 0, signal: null });
  await role.line(({ what }) => (what === 'closed' ? true : undefined));
  const failing = startProcess(script('fixtures/child.ts'), { FIXTURE: 'start-error' });
  assert.deepEqual(await failing.ended, { code: 78, signal: null });
  assert.deepEqual(failing.errors, ['gigafetch: the port is taken']);
});

test('a single role needs REDIS_URL', () => {
  assert.equal(requireRedisUrl({ redisUrl: '/x.sock' }), '/x.sock');
  assert.throws(() => requireRedisUrl({ redisUrl: null }), StartError);
});
