import assert from 'node:assert/strict';
import { readFileSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { Failure, Job, JobPatch, JobRequest } from '../src/schemas.ts';
import { fileServer, type FileServer } from './helpers/file-server.ts';
import { filesBelow } from './helpers/folders.ts';
import { TestService } from './helpers/service.ts';

const service = new TestService();
before(() => service.start());
after(() => service.stop());

function order(server: FileServer, path: string, more: Partial<JobRequest> = {}): JobRequest {
  return { source: { type: 'listing', url: server.listUrl }, sink: { type: 'directory', path }, ...more };
}

async function call(method: string, path: string, body?: JobPatch): Promise<{ status: number; job: Job }> {
  const json =
    body === undefined ? {} : { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } };
  const answer = await fetch(service.url + path, { method, ...json });
  return { status: answer.status, job: (await answer.json()) as Job };
}

/** Asks for something of a job that must be accepted. */
async function ask(id: string, verb: string): Promise<Job> {
  const { status, job } = await call('POST', `/jobs/${id}/${verb}`);
  assert.equal(status, 202, JSON.stringify(job));
  return job;
}

/** The requests that came later than this many ms after the call. */
function laterThan(server: FileServer, ms: number, calledAtMs: number): string[] {
  return server.requests.filter(({ atMs }) => atMs > calledAtMs + ms).map(({ path }) => path);
}

/** Whole files, and everything else that lies in a sink, apart from what the service keeps there. */
function inSink(path: string): { files: string[]; temporary: string[] } {
  const all = filesBelow(join(service.dataDir, path));
  return {
    files: all.filter((name) => !name.startsWith('.gigafetch')),
    temporary: all.filter((name) => name.startsWith('.gigafetch/tmp/')),
  };
}

test('a paused job asks for nothing within a second, and goes on without fetching again what it stored', async (t) => {
  const server = await fileServer(t, { files: 3_000, pageSize: 500, latencyMs: 4 });
  const { id } = await service.post(order(server, 'paused', { limits: { concurrency: 16 } }));
  await service.until(id, ({ progress }) => progress.filesDownloaded > 700);
  const calledAt = performance.now();
  const paused = await ask(id, 'pause');
  assert.deepEqual([paused.state, paused.pausedReason], ['paused', 'user']);
  await ask(id, 'pause');
  await service.until(id, () => performance.now() - calledAt > 2_500);
  assert.deepEqual(laterThan(server, 1_000, calledAt), []);
  assert.deepEqual(inSink('paused').temporary, []);
  const stored = new Set(inSink('paused').files);
  assert.ok(stored.size > 700 && stored.size < 3_000);
  const byHand = join(service.dataDir, 'paused/2999.bin');
  writeFileSync(byHand, 'put there meanwhile');
  utimesSync(byHand, 1, 1);
  const before = server.requests.length;
  assert.equal((await ask(id, 'resume')).pausedReason, null);
  const { state, progress } = await service.ended(id);
  assert.deepEqual([state, progress.filesDownloaded, progress.filesSkipped], ['completed', 2_999, 1]);
  assert.equal(readFileSync(byHand, 'utf8'), 'put there meanwhile');
  const again = server.requests.slice(before).filter(({ path }) => stored.has(path.replace('/get/', '')));
  assert.deepEqual(again, []);
});

test('a cancelled job leaves whole files alone, and is at its end', async (t) => {
  const server = await fileServer(t, { files: 2_000, pageSize: 500, latencyMs: 4, fileBytes: 200_000 });
  const { id } = await service.post(order(server, 'cancelled'));
  await service.until(id, ({ progress }) => progress.filesDownloaded > 100);
  const calledAt = performance.now();
  const cancelled = await ask(id, 'cancel');
  assert.equal(cancelled.state, 'cancelled');
  assert.ok(cancelled.finishedAt);
  await service.until(id, () => performance.now() - calledAt > 2_000);
  assert.deepEqual(laterThan(server, 1_000, calledAt), []);
  const { files, temporary } = inSink('cancelled');
  assert.deepEqual(temporary, []);
  for (const name of files) assert.equal(statSync(join(service.dataDir, 'cancelled', name)).size, 200_000);
  const { job } = await call('POST', `/jobs/${id}/cancel`);
  assert.deepEqual({ ...job, progress: null }, { ...cancelled, progress: null });
  for (const verb of ['pause', 'resume', 'retry']) {
    assert.equal((await call('POST', `/jobs/${id}/${verb}`)).status, 409);
  }
  assert.equal((await call('PATCH', `/jobs/${id}`, { priority: 1 })).status, 409);
  assert.equal((await fetch(`${service.url}/jobs/${id}`, { method: 'DELETE' })).status, 204);
});

test('retry fetches just what failed, by reason and status, and lists nothing again', async (t) => {
  const server = await fileServer(t, { files: 3_000, pageSize: 1_000 });
  const well = [
    server.fault(/^\/get\/1\d\d\.bin$/, { status: 404 }),
    server.fault(/^\/get\/2\d\d\d\.bin$/, { status: 410 }),
    server.fault(/^\/get\/[45]\.bin$/, { headers: { 'content-encoding': 'gzip' }, body: 'no gzip' }),
  ];
  const { id } = await service.post(order(server, 'retried', { retry: { attempts: 1 } }));
  const first = await service.ended(id);
  assert.deepEqual(first.failures, { http_status: 1_100, decode: 2 });
  for (const restore of well) restore();
  const asked = (): string[] => server.requests.splice(0).map(({ path }) => path);
  asked();

  await ask(id, 'retry?statusCode=404');
  const second = await service.ended(id);
  assert.deepEqual([second.state, second.failures], ['completed_with_failures', { http_status: 1_000, decode: 2 }]);
  const hundred = Array.from({ length: 100 }, (_, index) => `/get/${100 + index}.bin`);
  assert.deepEqual(new Set(asked()), new Set(hundred));

  await ask(id, 'retry?reason=decode');
  assert.deepEqual((await service.ended(id)).failures, { http_status: 1_000 });
  assert.deepEqual(new Set(asked()), new Set(['/get/4.bin', '/get/5.bin']));

  server.fault('/get/2345.bin', { status: 418 });
  await ask(id, 'retry');
  const { failures, progress } = await service.ended(id, ({ progress: p }) => {
    assert.equal(p.filesListed, p.filesDownloaded + p.filesSkipped + p.filesFailed + p.filesPending);
  });
  assert.deepEqual(failures, { http_status: 1 });
  assert.deepEqual([progress.filesListed, progress.filesDownloaded, progress.filesFailed], [3_000, 2_999, 1]);
  assert.ok(asked().every((path) => /^\/get\/2\d\d\d\.bin$/.test(path)));
  const list = await service.get<{ failures: Failure[] }>(`/jobs/${id}/failures`);
  assert.deepEqual(
    list?.failures.map(({ name, statusCode }) => [name, statusCode]),
    [['2345.bin', 418]],
  );
});

test('retry goes on with a failed listing, by new headers', async (t) => {
  const server = await fileServer(t, { files: 500, pageSize: 100 });
  const restore = server.fault((path) => path.includes('next-marker'), { status: 401 });
  const { id } = await service.post(order(server, 'listing-retried', { headers: { authorization: 'old' } }));
  const failed = await service.ended(id);
  assert.deepEqual([failed.state, failed.error?.statusCode, failed.error?.page], ['failed', 401, 1]);
  restore();
  assert.equal((await call('PATCH', `/jobs/${id}`, { headers: { authorization: 'new' } })).status, 200);
  assert.equal((await ask(id, 'retry')).error, null);
  const job = await service.ended(id);
  assert.deepEqual([job.state, job.progress.filesDownloaded, job.progress.pagesListed], ['completed', 500, 5]);
  assert.equal(server.count('/list'), 1);
  assert.equal(server.requests.at(-1)?.headers['authorization'], 'new');
});

test('what waits to be tried again goes by the new headers', async (t) => {
  const server = await fileServer(t, { files: 20 });
  server.fault(/^\/get\//, { status: 500, times: 1 });
  const retry = { baseDelayMs: 4_000, maxDelayMs: 4_000 };
  const { id } = await service.post(order(server, 'again', { headers: { 'x-key': 'a' }, retry }));
  await service.until(id, ({ progress }) => progress.requestsRetried > 0);
  assert.equal((await call('PATCH', `/jobs/${id}`, { headers: { 'x-key': 'b' } })).status, 200);
  const patchedAt = performance.now();
  assert.equal((await service.ended(id)).state, 'completed');
  const later = server.requests.filter(({ atMs }) => atMs > patchedAt + 1_000);
  assert.ok(later.length > 0);
  assert.deepEqual(new Set(later.map(({ headers }) => headers['x-key'])), new Set(['b']));
});

test('limits and headers are in force on every worker within a second of their change', async (t) => {
  const server = await fileServer(t, { files: 200_000, pageSize: 1_000, latencyMs: 20 });
  const { id } = await service.post(
    order(server, 'changed', { headers: { 'x-key': 'a' }, limits: { concurrency: 32 } }),
  );
  await service.until(id, ({ progress }) => progress.filesDownloaded > 1_000);
  const calledAt = performance.now();
  const change = { name: 'slow', limits: { concurrency: 3, requestsPerSecond: 40 }, headers: { 'x-key': 'b' } };
  const { status, job } = await call('PATCH', `/jobs/${id}`, change);
  assert.deepEqual([status, job.name, job.limits.concurrency, job.limits.timeoutMs], [200, 'slow', 3, 30_000]);
  assert.ok(!('headers' in job));
  await service.until(id, () => performance.now() - calledAt > 3_000);
  const { requests } = server;
  const later = requests.filter(({ atMs }) => atMs > calledAt + 1_000 && atMs <= calledAt + 3_000);
  assert.ok(later.length > 0 && later.length <= 80, `${later.length} requests in two seconds`);
  assert.deepEqual(new Set(later.map(({ headers }) => headers['x-key'])), new Set(['b']));
  assert.ok(server.inFlight <= 3);
  await call('PATCH', `/jobs/${id}`, { limits: { concurrency: 32, requestsPerSecond: 0 } });
  const quickAt = performance.now();
  const fast = (): number => requests.filter(({ atMs }) => atMs > quickAt && atMs < quickAt + 2_000).length;
  await service.until(id, () => performance.now() - quickAt > 2_000);
  assert.ok(fast() > 500, `${fast()} requests in two seconds`);
  await ask(id, 'cancel');
});
