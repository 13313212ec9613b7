import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { fileServer, startFileServer, type FileServer } from './helpers/file-server.ts';
import { filesBelow } from './helpers/folders.ts';
import { TestService, type Role } from './helpers/service.ts';
import { keyPrefix } from '../jobs/store.ts';
import { connectRedis } from '../src/redis.ts';
import { signalProcess } from '../src/processes.ts';
import type { Job } from '../src/schemas.ts';

const FILES = 6_000;
const PAGE = 200;

/** A page whose worker died is back after 15 s by default: shorter here, the path is the same. */
const settings = { PAGE_LOCK_MS: '1000' };

async function begin(
  t: TestContext,
  changes: Record<string, string> = {},
): Promise<{ service: TestService; server: FileServer; job: Job }> {
  const server = await startFileServer({ files: FILES, pageSize: PAGE, latencyMs: 2 });
  const service = await new TestService({ ...settings, ...changes }).start();
  t.after(async () => {
    service.killAll();
    await server.stop();
  });
  const job = await service.post({
    source: { type: 'listing', url: server.listUrl },
    sink: { type: 'directory', path: 'mirror' },
    limits: { concurrency: 32 },
  });
  return { service, server, job };
}

function checkAll(service: TestService, server: FileServer, job: Job): void {
  assert.equal(job.state, 'completed', service.output);
  assert.equal(job.progress.filesDownloaded, FILES);
  assert.equal(job.progress.filesListed, FILES);
  assert.equal(job.progress.bytesDownloaded, FILES * 100);
  assert.deepEqual([job.progress.filesFailed, job.progress.filesSkipped, job.progress.filesPending], [0, 0, 0]);
  const folder = join(service.dataDir, 'mirror');
  const names = readdirSync(folder).filter((name) => name !== '.gigafetch');
  assert.equal(names.length, FILES);
  for (const name of names) assert.deepEqual(readFileSync(join(folder, name)), Buffer.from(server.bodyOf(name)));
  const temporary = filesBelow(join(folder, '.gigafetch')).filter((path) => path.startsWith('tmp/'));
  assert.deepEqual(temporary, []);
}

/** Calls `act` each time another `every` files are done, `times` times; resolves with the job's end. */
async function during(service: TestService, id: string, every: number, times: number, act: () => Promise<void> | void) {
  for (let time = 1; time <= times; time += 1) {
    await service.until(id, ({ progress, state }) => progress.filesDownloaded >= time * every || state === 'completed');
    await act();
  }
  return service.ended(id);
}

/** How often a page went on only because its lock was seen to be gone, or by the sweeper, and not as it was given back. */
async function pagesNotGivenBack(service: TestService): Promise<number> {
  const redis = connectRedis(join(service.stateDir, 'redis', 'redis.sock'), { patient: true });
  const events = await redis.xrange(`${keyPrefix}:pages:events`, '-', '+');
  redis.disconnect();
  assert.ok(events.some(([, fields]) => fields.includes('completed')));
  return events.filter(([, fields]) => fields.includes('stalled') || fields.includes('failed')).length;
}

const killings: { roles: Role[]; title: string }[] = [
  { roles: ['worker'], title: 'workers killed in the middle of their pages lose nothing and count nothing twice' },
  { roles: ['api'], title: 'an API that is killed comes back, and the job goes on meanwhile' },
  { roles: ['redis'], title: 'a Redis that is killed comes back on its files, and the job goes on' },
  { roles: ['worker', 'api', 'redis'], title: 'everything but the supervisor killed at once loses nothing' },
];

for (const { roles, title } of killings) {
  test(title, { timeout: 120_000 }, async (t) => {
    const { service, server, job } = await begin(t);
    const ended = await during(service, job.id, FILES / 3, 2, () => {
      assert.ok(service.pids('redis').length <= 1);
      service.kill(...roles);
    });
    checkAll(service, server, ended);
    assert.equal(service.pids('redis').length, 1);
    assert.equal(await service.stop(), 0);
  });
}

test('after kill -9 of all at once the next start goes on where it stood', { timeout: 120_000 }, async (t) => {
  const { service, server, job } = await begin(t);
  const ended = await during(service, job.id, FILES / 3, 2, async () => {
    service.killAll();
    await service.start();
    assert.equal(service.pids('redis').length, 1);
  });
  checkAll(service, server, ended);
  assert.equal(await service.stop(), 0);
});

test('after kill -9 of all but Redis the next start takes it over', { timeout: 120_000 }, async (t) => {
  const { service, server, job } = await begin(t);
  const [redis] = service.pids('redis');
  const ended = await during(service, job.id, FILES / 3, 2, async () => {
    service.kill('supervisor', 'api', 'worker');
    await service.start();
    assert.deepEqual(service.pids('redis'), [redis]);
  });
  checkAll(service, server, ended);
  assert.equal(await service.stop(), 0);
});

test(
  'SIGTERM in the middle of a job ends the whole tree and hands the pages back at once',
  { timeout: 60_000 },
  async (t) => {
    const { service, server, job } = await begin(t, { PAGE_LOCK_MS: '20000' });
    await service.until(job.id, ({ progress }) => progress.filesDownloaded > FILES / 4);
    const began = performance.now();
    assert.equal(await service.stop(), 0);
    assert.ok(performance.now() - began < 10_000);
    assert.doesNotMatch(service.output, /not closed within/);
    for (const role of ['supervisor', 'api', 'worker', 'redis'] as const) assert.deepEqual(service.pids(role), []);
    await service.start();
    checkAll(service, server, await service.ended(job.id));
    assert.equal(await pagesNotGivenBack(service), 0);
    assert.equal(await service.stop(), 0);
  },
);

test('the page of a worker that is asked to end is begun by another at once', { timeout: 60_000 }, async (t) => {
  // One page: no other worker is told to have one.
  const server = await fileServer(t, { files: 100, pageSize: 100 });
  const service = await new TestService({ PAGE_LOCK_MS: '20000' }).start();
  t.after(() => service.dispose());
  const release = server.hold('/get/50.bin');
  const { id } = await service.post({
    source: { type: 'listing', url: server.listUrl },
    sink: { type: 'directory', path: 'mirror' },
  });
  await server.requested('/get/50.bin');
  let busy: number | undefined;
  while (busy === undefined && !t.signal.aborted) {
    busy = (await service.workers()).find(({ pagesInWork }) => pagesInWork > 0)?.pid;
  }
  signalProcess(busy ?? 0, 'SIGTERM');
  await server.requested('/get/50.bin', 2);
  release();
  const job = await service.ended(id);
  assert.equal(job.state, 'completed');
  assert.equal(job.progress.filesDownloaded, 100);
  // Else it was not given back, but asked for again after a timeout.
  assert.equal(job.progress.requestsRetried, 0);
  assert.equal(await pagesNotGivenBack(service), 0);
  assert.equal(await service.stop(), 0);
});
