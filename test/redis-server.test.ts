import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';
import { Redis } from 'ioredis';
import { pino } from 'pino';
import { StartError } from '../src/errors.ts';
import { processesWith } from '../src/processes.ts';
import { startRedisServer, type RedisServer } from '../src/redis-server.ts';
import { temporaryFolder } from './helpers/folders.ts';
import { gone } from './helpers/service-process.ts';

const logger = pino({ level: 'silent' });
const root = temporaryFolder();
const started: RedisServer[] = [];
after(() => Promise.all(started.map((server) => server.stop())));

function newFolder(): string {
  return mkdtempSync(join(root, 'state-'));
}

async function start(stateDir: string): Promise<RedisServer> {
  const server = await startRedisServer(stateDir, logger);
  started.push(server);
  return server;
}

async function ask<T>(server: RedisServer, question: (redis: Redis) => Promise<T>): Promise<T> {
  const redis = new Redis(server.url, { retryStrategy: () => null });
  try {
    return await question(redis);
  } finally {
    redis.disconnect();
  }
}

test('the embedded Redis syncs every write before it acknowledges it, and listens on its socket alone', async () => {
  const stateDir = newFolder();
  const server = await start(stateDir);
  const setting = async (name: string): Promise<unknown> => ask(server, (redis) => redis.config('GET', name));
  assert.deepEqual(await setting('appendfsync'), ['appendfsync', 'always']);
  assert.deepEqual(await setting('appendonly'), ['appendonly', 'yes']);
  assert.deepEqual(await setting('maxmemory-policy'), ['maxmemory-policy', 'noeviction']);
  assert.deepEqual(await setting('save'), ['save', '']);
  assert.deepEqual(await setting('port'), ['port', '0']);
  assert.equal(server.url, join(stateDir, 'redis', 'redis.sock'));
  assert.equal(statSync(server.url).mode & 0o777, 0o700);
});

test('stop ends the server, and what was written is there at the next start', async () => {
  const stateDir = newFolder();
  const first = await start(stateDir);
  await ask(first, (redis) => redis.set('a', '1'));
  await first.stop();
  await first.stop();
  assert.deepEqual(processesWith('--dir', join(stateDir, 'redis')), []);
  const second = await start(stateDir);
  assert.equal(await ask(second, (redis) => redis.get('a')), '1');
});

test('kill -9 of the server is told, and every acknowledged write is there at the next start', async () => {
  const stateDir = newFolder();
  const first = await start(stateDir);
  const acknowledged: string[] = [];
  const writer = new Redis(first.url, { retryStrategy: () => null, maxRetriesPerRequest: 0 });
  const closed = new Promise((resolve) => writer.once('end', resolve));
  const enough = Promise.withResolvers<void>();
  writer.on('error', () => {});
  const write = async (key: string): Promise<void> => {
    await writer.set(key, '1');
    acknowledged.push(key);
    if (acknowledged.length === 1000) enough.resolve();
  };
  const writes = Promise.allSettled(Array.from({ length: 20_000 }, async (_, i) => write(`key-${i}`)));
  await enough.promise;
  process.kill(first.pid, 'SIGKILL');
  assert.equal(await first.stopped, 'SIGKILL');
  await closed;
  await writes;
  const second = await start(stateDir);
  assert.equal(await ask(second, (redis) => redis.exists(...acknowledged)), acknowledged.length);
});

test('a start that is called off leaves no server', async () => {
  const stateDir = newFolder();
  await assert.rejects(startRedisServer(stateDir, logger, AbortSignal.abort()), StartError);
  assert.deepEqual(processesWith('--dir', join(stateDir, 'redis')), []);
});

test('a server that is there already goes on, and its end is told', async () => {
  const stateDir = newFolder();
  const first = await start(stateDir);
  const second = await start(stateDir);
  assert.equal(second.pid, first.pid);
  process.kill(first.pid, 'SIGKILL');
  await second.stopped;
  const third = await start(stateDir);
  const fourth = await start(stateDir);
  await fourth.stop();
  await third.stopped;
});

test('a leftover server that does not answer is stopped, never doubled', async () => {
  const stateDir = newFolder();
  const first = await start(stateDir);
  await ask(first, (redis) => redis.set('a', '1'));
  process.kill(first.pid, 'SIGSTOP');
  const second = await start(stateDir);
  await gone(first.pid);
  assert.deepEqual(processesWith('--dir', join(stateDir, 'redis')), [second.pid]);
  assert.equal(await ask(second, (redis) => redis.get('a')), '1');
});

test('a leftover server whose socket was removed is stopped, never doubled', async () => {
  const stateDir = newFolder();
  const first = await start(stateDir);
  rmSync(first.url);
  const second = await start(stateDir);
  await gone(first.pid);
  assert.deepEqual(processesWith('--dir', join(stateDir, 'redis')), [second.pid]);
});

test('the server of another folder is left alone', async () => {
  const stateDir = newFolder();
  mkdirSync(`${stateDir}/a`);
  mkdirSync(`${stateDir}/a2`);
  const [first, second] = [await start(`${stateDir}/a2`), await start(`${stateDir}/a`)];
  assert.notEqual(first.pid, second.pid);
  await second.stop();
  assert.equal(await ask(first, (redis) => redis.ping()), 'PONG');
});

test('a STATE_DIR too deep for a socket path gets its socket in a private folder elsewhere', async () => {
  const stateDir = join(newFolder(), 'deep'.repeat(40), 'with spaces');
  mkdirSync(stateDir, { recursive: true });
  const first = await start(stateDir);
  assert.ok(first.url.length < 104);
  assert.equal(statSync(dirname(first.url)).mode & 0o777, 0o700);
  assert.equal((await start(stateDir)).pid, first.pid);
  await first.stop();

  chmodSync(dirname(first.url), 0o755);
  await assert.rejects(start(stateDir), isStartError(/not a private folder/));
  rmSync(dirname(first.url), { recursive: true });
});

test('data that Redis cannot load is one clear line', async () => {
  const stateDir = newFolder();
  const server = await start(stateDir);
  await ask(server, (redis) => redis.set('a', '1'));
  await server.stop();
  const files = join(stateDir, 'redis', 'appendonlydir');
  for (const file of readdirSync(files)) writeFileSync(join(files, file), 'garbage\n'.repeat(100));
  await assert.rejects(start(stateDir), isStartError(/redis-server ended at its start \(exit code 1\): .*redis\.log/));
});

test('no Redis on the path, or an old one, is one line with the remedy', async () => {
  const path = process.env['PATH'];
  const folder = newFolder();
  try {
    process.env['PATH'] = folder;
    await assert.rejects(start(folder), isStartError(/no Redis on the path: install .* or set REDIS_URL/));
    writeFileSync(join(folder, 'redis-server'), '#!/bin/sh\necho "Redis server v=6.0.16 sha=0:0"\n', { mode: 0o755 });
    await assert.rejects(start(folder), isStartError(/redis-server 6.0.16 is too old: install .* or set REDIS_URL/));
  } finally {
    process.env['PATH'] = path;
  }
});

function isStartError(message: RegExp): (error: unknown) => boolean {
  return (error) => error instanceof StartError && !error.message.includes('\n') && message.test(error.message);
}
