import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync, readdirSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { setImmediate, setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { ChainStore } from '../jobs/store.ts';
import type { Job, JobRequest } from '../src/schemas.ts';
import { signalProcess } from '../src/processes.ts';
import { connectRedis } from '../src/redis.ts';
import { startFileServer } from './helpers/file-server.ts';
import { openFiles } from './helpers/open-files.ts';
import { startTestRedis } from './helpers/redis.ts';
import { startProcess } from './helpers/service-process.ts';
import { TestService } from './helpers/service.ts';

async function startService(t: TestContext, settings: Record<string, string>): Promise<TestService> {
  const service = new TestService({ PAGE_LOCK_MS: '500', ...settings });
  t.after(() => service.dispose());
  return service.start();
}

async function startServer(
  t: TestContext,
  answer: (request: IncomingMessage, response: ServerResponse) => void,
): Promise<{ server: Server; port: number }> {
  const server = createServer(answer).listen(0, '127.0.0.1');
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  await once(server, 'listening');
  return { server, port: (server.address() as AddressInfo).port };
}

const order = (url: string, path: string): JobRequest => ({
  source: { type: 'listing', url },
  sink: { type: 'directory', path },
});

/** A port as /proc/net/tcp writes it. */
const hex = (port: number): string => port.toString(16).toUpperCase().padStart(4, '0');

/** The inode of the socket at this end of a connection on this host (proc(5), /proc/net/tcp), "" if there is none. */
function inodeOf(localPort: number, remotePort: number): string {
  for (const line of readFileSync('/proc/net/tcp', 'latin1').split('\n')) {
    const [, local, remote, , , , , , , inode = ''] = line.trim().split(/\s+/);
    if (local?.endsWith(`:${hex(localPort)}`) && remote?.endsWith(`:${hex(remotePort)}`)) return inode;
  }
  return '';
}

/** Which of these processes has the client's end of a connection; undefined: none that /proc shows by now. */
function ownerOf(
  pids: readonly number[],
  { remotePort = 0, localPort = 0 }: IncomingMessage['socket'],
): number | undefined {
  const link = `socket:[${inodeOf(remotePort, localPort)}]`;
  return pids.find((pid) => openFiles(pid).includes(link));
}

/** Kills the worker that has the client's end of a connection; until /proc shows which one has it, it is looked for again. */
async function killOwner(service: TestService, socket: IncomingMessage['socket']): Promise<void> {
  while (!socket.destroyed) {
    const owner = ownerOf(service.pids('worker'), socket);
    if (owner !== undefined) return signalProcess(owner, 'SIGKILL');
    await setImmediate();
  }
}

test(
  'a page that kills its worker each time is put aside as worker_crash, while other pages and jobs go on',
  { skip: process.platform !== 'linux' && 'needs /proc' },
  async (t) => {
    const service = await startService(t, { WORKERS: '4' });
    let kills = 0;
    // Small pages, which are walked and fetched together where they come quickly.
    const { port } = await startServer(t, ({ url = '', socket }, response) => {
      if (url.startsWith('/list')) {
        const page = Number(new URL(url, 'http://h').searchParams.get('next-marker') ?? 0);
        const FileNames = Array.from({ length: 10 }, (_, index) => `${page * 10 + index}.bin`);
        const NextMarker = page < 99 ? String(page + 1) : undefined;
        response.end(JSON.stringify({ FileNames, NextMarker }));
      } else if (url === '/get/605.bin') {
        kills += 1;
        void killOwner(service, socket);
      } else {
        response.end('body');
      }
    });
    const healthy = await startFileServer({ files: 3_000, pageSize: 50, latencyMs: 20 });
    t.after(() => healthy.stop());

    const doomed = await service.post(order(`http://127.0.0.1:${port}/list`, 'doomed'));
    const other = await service.post(order(healthy.listUrl, 'other'));
    const [job, second] = await Promise.all([service.ended(doomed.id), service.ended(other.id)]);

    assert.equal(job.state, 'failed');
    assert.deepEqual(
      { ...job.error, message: '' },
      {
        reason: 'worker_crash',
        message: '',
        page: null,
        token: `http://127.0.0.1:${port}/list?next-marker=60`,
        statusCode: null,
      },
    );
    assert.match(job.error?.message ?? '', /begun 13 times/);
    assert.equal(kills, 12);
    // The page itself does not count; what it had stored stays.
    const { pagesListed, pagesDone, filesListed, filesDownloaded, filesFailed, filesPending } = job.progress;
    assert.deepEqual(
      [pagesListed, pagesDone, filesListed, filesDownloaded, filesFailed, filesPending],
      [100, 99, 990, 990, 0, 0],
    );
    const names = new Set(readdirSync(join(service.dataDir, 'doomed')));
    assert.ok(!names.has('605.bin'));
    const others = Array.from({ length: 1000 }, (_, index) => `${index}.bin`).filter(
      (_, index) => Math.floor(index / 10) !== 60,
    );
    assert.deepEqual(
      others.filter((name) => !names.has(name)),
      [],
    );
    assert.equal(second.state, 'completed');
    assert.equal(second.progress.filesDownloaded, 3_000);
    assert.equal(await service.stop(), 0);
  },
);

test(
  'a page of the listing that kills its worker each time takes none of the pages before it along',
  { skip: process.platform !== 'linux' && 'needs /proc' },
  async (t) => {
    const service = await startService(t, {});
    const { port } = await startServer(t, ({ url = '', socket }, response) => {
      const page = Number(new URL(url, 'http://h').searchParams.get('next-marker') ?? 0);
      if (page === 4) void killOwner(service, socket);
      else if (url.startsWith('/list')) {
        const FileNames = Array.from({ length: 20 }, (_, index) => `${page}-${index}.bin`);
        response.end(JSON.stringify({ FileNames, NextMarker: String(page + 1) }));
      } else response.end('body');
    });
    // Its pages are walked together, to fill a shard.
    const { source } = order(`http://127.0.0.1:${port}/list`, '');
    const { id } = await service.post({ source, sink: { type: 'tar', path: 'doomed' } });
    const job = await service.ended(id);
    assert.equal(job.state, 'failed');
    assert.equal(job.error?.reason, 'worker_crash');
    assert.equal(job.error.token, `http://127.0.0.1:${port}/list?next-marker=4`);
    assert.equal(job.progress.filesDownloaded, 80);
    assert.equal(await service.stop(), 0);
  },
);

test('a worker that runs out of memory takes nothing with it', async (t) => {
  const service = await startService(t, { NODE_OPTIONS: '--max-old-space-size=80' });
  const names = `"${'x'.repeat(80)}",`.repeat(10_000);
  const { port } = await startServer(t, (_request, response) => {
    response.write('{"FileNames":[');
    for (let count = 0; count < 40; count += 1) response.write(names);
    response.end('"last"]}');
  });
  const healthy = await startFileServer({ files: 500, pageSize: 50 });
  t.after(() => healthy.stop());
  const api = service.pids('api');

  const huge = await service.post(order(`http://127.0.0.1:${port}/list`, 'huge'));
  while (!service.output.includes('JavaScript heap out of memory') && !t.signal.aborted) await sleep(25);
  const small = await service.ended((await service.post(order(healthy.listUrl, 'small'))).id);
  assert.equal(small.state, 'completed');
  assert.equal(small.progress.filesDownloaded, 500);
  const { state, error } = (await service.get<Job>(`/jobs/${huge.id}`))!;
  assert.ok(state === 'running' || error?.reason === 'worker_crash', error?.message);
  assert.deepEqual(service.pids('api'), api);
  assert.equal(service.pids('redis').length, 1);
  assert.equal(await service.stop(), 0);
});

test('a page that was begun again and again runs alone on its worker, so that no other is killed with it', async (t) => {
  const redis = await startTestRedis();
  t.after(() => redis.stop());
  const service = await startService(t, { WORKERS: '0', REDIS_URL: redis.url });
  const server = await startFileServer({ files: ['suspect', 'other'], pageSize: 1 });
  t.after(() => server.stop());
  server.fault('/suspect', { status: 200, body: '{"FileNames":["suspect"]}' });
  server.fault('/other', { status: 200, body: '{"FileNames":["other"]}' });
  const releaseSuspect = server.hold('/get/suspect');
  const releaseOther = server.hold('/get/other');
  const other = await service.post(order(`${server.origin}/other`, 'other'));
  const suspect = await service.post(order(`${server.origin}/suspect`, 'suspect'));
  const client = connectRedis(redis.url, { patient: true });
  t.after(() => client.disconnect());
  const store = new ChainStore(client);
  for (let tries = 0; tries < 6; tries += 1) await store.begin(suspect.id, 0, 0, randomUUID());

  const worker = startProcess(fileURLToPath(new URL('../src/worker.ts', import.meta.url)), {
    REDIS_URL: redis.url,
    DATA_DIR: service.dataDir,
    STATE_DIR: service.stateDir,
    ALLOWED_NETWORKS: '127.0.0.0/8',
  });
  t.after(() => worker.process.kill('SIGKILL'));
  await server.requested('/get/suspect');
  // Whatever of the other page was on its way is aborted; the server may notice a little later.
  while (server.inFlight > 1 && !t.signal.aborted) await setImmediate();
  releaseSuspect();
  assert.equal((await service.ended(suspect.id)).state, 'completed');
  releaseOther();
  assert.equal((await service.ended(other.id)).state, 'completed');
});
