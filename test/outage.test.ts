import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { Failure, JobRequest } from '../src/schemas.ts';
import { fileServer, type FileServer } from './helpers/file-server.ts';
import { TestService } from './helpers/service.ts';

const service = new TestService();
before(() => service.start());
after(() => service.stop());

/** One attempt for everything: nothing here may cost any. */
function order(server: FileServer, path: string, retry: JobRequest['retry'] = {}): JobRequest {
  return {
    source: { type: 'listing', url: server.listUrl },
    sink: { type: 'directory', path },
    retry: { attempts: 1, baseDelayMs: 1, ...retry },
    limits: { timeoutMs: 1000, concurrency: 32 },
  };
}

test('a server that dies in the middle of a job and comes back costs no file an attempt', async (t) => {
  const server = await fileServer(t, { files: 10_000, pageSize: 1_000, latencyMs: 1 });
  const { id } = await service.post(order(server, 'dies'));
  await service.until(id, ({ progress }) => progress.filesDownloaded > 500);
  await server.down();
  // Long enough for pages to be given back: a probe that finds it down has been made several times by then.
  const down = performance.now();
  const during = await service.until(id, () => performance.now() - down > 5_000);
  assert.equal(during.state, 'running');
  await server.up();
  const job = await service.ended(id);
  // A body that was cut by its end is told from a server that is down, and cost its attempt.
  assert.ok(job.progress.filesFailed <= 32 && Object.keys(job.failures).every((reason) => reason === 'truncated'));
  assert.equal(job.progress.filesDownloaded, 10_000 - job.progress.filesFailed);
});

test('a server that is down from the start is waited for', async (t) => {
  const server = await fileServer(t, { files: 50 });
  await server.down();
  const { id } = await service.post(order(server, 'late'));
  const { startedAt } = await service.until(id, (job) => job.startedAt !== null);
  const since = Date.parse(startedAt ?? '');
  // Some probes have found it down by then.
  await service.until(id, () => Date.now() - since > 1_000);
  await server.up();
  const job = await service.ended(id);
  assert.equal(job.state, 'completed');
  assert.equal(job.progress.filesDownloaded, 50);
});

test('after maxOutageMs the job pauses itself, and resume goes on', async (t) => {
  const server = await fileServer(t, { files: 2_000, pageSize: 200, latencyMs: 5 });
  const { id } = await service.post(order(server, 'outage', { maxOutageMs: 500 }));
  await service.until(id, ({ progress }) => progress.filesDownloaded > 300);
  await server.down();
  const paused = await service.ended(id);
  assert.deepEqual([paused.state, paused.pausedReason], ['paused', 'outage']);
  await server.up();
  assert.equal((await fetch(`${service.url}/jobs/${id}/resume`, { method: 'POST' })).status, 202);
  const job = await service.ended(id);
  assert.match(job.state, /^completed/);
  assert.equal(job.progress.filesDownloaded + job.progress.filesFailed, 2_000);
});

test('Retry-After holds the whole origin, on every worker, and costs no attempt', async (t) => {
  const server = await fileServer(t, { files: 2_000, pageSize: 100, latencyMs: 5 });
  server.fault('/get/777.bin', { status: 429, headers: { 'retry-after': '2' }, times: 1 });
  const { id } = await service.post(order(server, 'throttled'));
  const job = await service.ended(id);
  assert.equal(job.state, 'completed');
  const told = server.requests.find(({ path }) => path === '/get/777.bin')?.atMs ?? 0;
  // The other worker hears of it within a pulse or two.
  const quiet = server.requests.filter(({ atMs }) => atMs > told + 900 && atMs < told + 1_950);
  assert.deepEqual(quiet, []);
  assert.equal(server.count('/get/777.bin'), 2);
});

test('a file that alone gets no answer spends its attempts and fails, and the rest arrives', async (t) => {
  const server = await fileServer(t, { files: 400, pageSize: 100 });
  server.fault('/get/42.bin', { cut: { after: 'start', by: 'reset' } });
  server.fault('/get/43.bin', { status: 504 });
  server.fault('/get/399.bin', { cut: { after: 'start', by: 'silence' } });
  const { id } = await service.post(order(server, 'alone', { attempts: 3 }));
  const job = await service.ended(id);
  assert.equal(job.state, 'completed_with_failures');
  assert.equal(job.progress.filesDownloaded, 397);
  const { failures } = (await service.get<{ failures: Failure[] }>(`/jobs/${id}/failures`))!;
  const told = failures.map(({ name, reason, attempts }) => `${name} ${reason} ${attempts}`);
  assert.deepEqual(told.sort(), ['399.bin timeout 3', '42.bin connection 3', '43.bin http_status 3']);
});

test('files that are redirected to a dead origin fail after maxOutageMs, and the job does not pause', async (t) => {
  const server = await fileServer(t, { files: 400, pageSize: 100 });
  const dead = await fileServer(t, { files: 1 });
  await dead.down();
  server.fault(/^\/get\/[1-5]\.bin/, { status: 302, headers: { location: `${dead.origin}/away` } });
  const { id } = await service.post(order(server, 'led-away', { maxOutageMs: 1_000 }));
  const job = await service.ended(id);
  assert.deepEqual([job.state, job.failures], ['completed_with_failures', { connection: 5 }]);
  assert.equal(job.progress.filesDownloaded, 395);
});

test('a file that is redirected to another dead origin each time spends its attempts', async (t) => {
  const server = await fileServer(t, { files: 100 });
  let asked = 0;
  const elsewhere = (): string => `http://127.0.1.${(asked += 1)}:1/`;
  server.fault('/get/7.bin', {
    status: 302,
    headers: Object.defineProperty({}, 'location', { get: elsewhere, enumerable: true }),
  });
  const { id } = await service.post(order(server, 'led-astray', { attempts: 3 }));
  const job = await service.ended(id);
  assert.deepEqual([job.state, job.failures], ['completed_with_failures', { connection: 1 }]);
  assert.equal(asked, 3);
});

test('an origin that all files are redirected to is waited for, and pauses the job', async (t) => {
  const server = await fileServer(t, { files: 400, pageSize: 100 });
  const store = await fileServer(t, { files: 400, latencyMs: 20 });
  server.fault((path) => path.startsWith('/get/'), { status: 307, headers: { location: `${store.origin}/get/0.bin` } });
  const { id } = await service.post(order(server, 'led-to-a-store', { maxOutageMs: 1_000 }));
  await service.until(id, ({ progress }) => progress.filesDownloaded > 40);
  await store.down();
  const paused = await service.ended(id);
  assert.deepEqual([paused.state, paused.pausedReason], ['paused', 'outage']);
});

test('files without an answer wait for no long download of the same origin', async (t) => {
  const server = await fileServer(t, { files: { long: 'x'.repeat(200_000), a: '', b: '', c: '' } });
  server.fault('/get/long', { cut: { after: 150_000, by: 'silence' } });
  server.fault(/^\/get\/[abc]$/, { cut: { after: 'start', by: 'reset' } });
  const { id } = await service.post({
    ...order(server, 'long'),
    limits: { timeoutMs: 10_000, minBytesPerSecond: 0 },
  });
  const told = service.until(id, ({ progress }) => progress.filesFailed === 3).then(() => 'all told');
  assert.equal(await Promise.race([told, server.abandoned('/get/long').then(() => 'the download ended')]), 'all told');
  assert.equal((await fetch(`${service.url}/jobs/${id}/cancel`, { method: 'POST' })).status, 202);
  await service.ended(id);
});

test('a file that alone stays throttled for maxOutageMs fails, and the job does not pause', async (t) => {
  const server = await fileServer(t, { files: 1_500, pageSize: 100, latencyMs: 50 });
  server.fault('/get/5.bin', { status: 503 });
  const { id } = await service.post(order(server, 'one-throttled', { maxOutageMs: 1_000, maxDelayMs: 20 }));
  const job = await service.ended(id);
  assert.deepEqual([job.state, job.progress.filesFailed], ['completed_with_failures', 1]);
  assert.deepEqual(job.failures, { http_status: 1 });
});

test('a file that stays throttled when it is all that is left fails after maxOutageMs', async (t) => {
  const server = await fileServer(t, { files: 300, pageSize: 100 });
  server.fault('/get/299.bin', { status: 503 });
  const { id } = await service.post(order(server, 'last-throttled', { maxOutageMs: 1_000, maxDelayMs: 20 }));
  const job = await service.ended(id);
  assert.deepEqual([job.state, job.failures], ['completed_with_failures', { http_status: 1 }]);
  assert.equal(job.progress.filesDownloaded, 299);
});

test('such a file fails too where its page is given back meanwhile, again and again', async (t) => {
  const server = await fileServer(t, { files: 30, pageSize: 10 });
  server.fault('/get/29.bin', { status: 503, headers: { 'retry-after': '4' } });
  const { id } = await service.post(order(server, 'given-back', { maxOutageMs: 6_000 }));
  const many = server.requested('/get/29.bin', 8).then(() => null);
  const job = await Promise.race([service.ended(id), many]);
  assert.ok(job !== null, 'its time begins anew with each attempt at its page');
  assert.deepEqual([job.state, job.failures], ['completed_with_failures', { http_status: 1 }]);
  assert.equal(job.progress.filesDownloaded, 29);
});

test('such a file fails too where only workers that are gone fetched another one', async (t) => {
  const server = await fileServer(t, { files: 2 });
  server.fault('/get/1.bin', { status: 503, headers: { 'retry-after': '2' } });
  const { id } = await service.post(order(server, 'others-fetched', { maxOutageMs: 4_000 }));
  await service.until(id, ({ progress }) => progress.filesDownloaded === 1);
  service.kill('worker');
  const job = await service.ended(id);
  assert.deepEqual([job.state, job.failures], ['completed_with_failures', { http_status: 1 }]);
});

test('where the listing is answered and all files are throttled, the job pauses after maxOutageMs', async (t) => {
  const server = await fileServer(t, { files: 30, pageSize: 10 });
  server.fault(/^\/get\//, { status: 429, headers: { 'retry-after': '1' } });
  const { id } = await service.post(order(server, 'all-throttled', { maxOutageMs: 3_000 }));
  const many = server.requested('/get/29.bin', 30).then(() => null);
  const job = await Promise.race([service.ended(id), many]);
  assert.ok(job !== null, 'it goes on for ever');
  assert.deepEqual([job.state, job.pausedReason, job.progress.filesFailed], ['paused', 'outage', 0]);
});
