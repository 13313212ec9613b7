import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { Failure, Job } from '../src/schemas.ts';
import { fileServer, type FileServer } from './helpers/file-server.ts';
import { filesBelow } from './helpers/folders.ts';
import { TestService } from './helpers/service.ts';

const service = new TestService();
before(() => service.start());
after(async () => {
  assert.equal(await service.stop(), 0);
});

function namesIn(path: string): string[] {
  return filesBelow(join(service.dataDir, path)).filter((file) => !file.startsWith('.gigafetch/'));
}

function checkBytes(server: FileServer, path: string, names: readonly string[]): void {
  for (const name of names) {
    assert.deepEqual(readFileSync(join(service.dataDir, path, name)), Buffer.from(server.bodyOf(name)), name);
  }
}

function checkSum({ progress: p }: Job): void {
  assert.equal(p.filesListed, p.filesDownloaded + p.filesSkipped + p.filesFailed + p.filesPending);
}

test('a job fetches every file of a paginated listing, each once', async (t) => {
  const server = await fileServer(t, { files: 5_300, pageSize: 1_000 });
  const posted = await service.post({
    source: { type: 'listing', url: server.listUrl },
    sink: { type: 'directory', path: 'all/of/it' },
  });
  assert.match(posted.state, /^(queued|running)$/);
  const job = await service.ended(posted.id, checkSum);
  assert.equal(job.state, 'completed');
  assert.deepEqual(
    { ...job.progress, filesPerSecond: 0, bytesPerSecond: 0 },
    {
      pagesListed: 6,
      pagesDone: 6,
      listingDone: true,
      filesTotal: 5_300,
      filesListed: 5_300,
      filesDownloaded: 5_300,
      filesSkipped: 0,
      filesFailed: 0,
      filesPending: 0,
      requestsRetried: 0,
      bytesDownloaded: 530_000,
      filesPerSecond: 0,
      bytesPerSecond: 0,
      etaSeconds: null,
    },
  );
  const names = namesIn('all/of/it');
  assert.equal(names.length, 5_300);
  checkBytes(server, 'all/of/it', names);
  for (const name of names) assert.equal(server.count(server.pathOf(name)), 1, name);
});

for (const next of ['marker', 'next-file', 'url', 'link', 'page', 'offset'] as const) {
  test(`a listing whose pages are chained by ${next} is walked to its end`, async (t) => {
    const server = await fileServer(t, { files: 950, pageSize: 100, next });
    const forms = {
      marker: {},
      'next-file': {},
      url: {},
      link: { next: { in: 'link' } },
      page: { next: { in: 'page' } },
      offset: { next: { in: 'offset' } },
    } as const;
    const posted = await service.post({
      source: { type: 'listing', url: server.listUrl, ...forms[next] },
      sink: { type: 'directory', path: `by-${next}` },
    });
    const job = await service.ended(posted.id);
    assert.equal(job.state, 'completed');
    assert.equal(job.progress.filesDownloaded, 950);
    checkBytes(server, `by-${next}`, namesIn(`by-${next}`));
  });
}

test('files that fail are told, with their reasons, and the rest arrives', async (t) => {
  const server = await fileServer(t, { files: 300, pageSize: 100 });
  server.fault('/get/7.bin', { status: 404 });
  server.fault('/get/8.bin', { status: 500 });
  server.fault('/get/9.bin', { status: 503, times: 2 });
  const posted = await service.post({
    source: { type: 'listing', url: server.listUrl },
    sink: { type: 'directory', path: 'some-fail' },
    retry: { attempts: 3, baseDelayMs: 1 },
  });
  const job = await service.ended(posted.id);
  assert.equal(job.state, 'completed_with_failures');
  assert.equal(job.progress.filesDownloaded, 298);
  assert.equal(job.progress.filesFailed, 2);
  assert.equal(job.progress.requestsRetried, 4);
  assert.deepEqual(job.failures, { http_status: 2 });
  const { failures } = (await service.get<{ failures: Failure[] }>(`/jobs/${job.id}/failures`))!;
  const told = failures.map(({ name, statusCode, attempts, reason }) => [name, statusCode, attempts, reason]);
  assert.deepEqual(
    told.sort(([a], [b]) => String(a).localeCompare(String(b))),
    [
      ['7.bin', 404, 1, 'http_status'],
      ['8.bin', 500, 3, 'http_status'],
    ],
  );
});

test('a second job over the same folder skips what is there, one that overwrites fetches it again', async (t) => {
  const server = await fileServer(t, { files: 500, pageSize: 100 });
  const order = {
    source: { type: 'listing', url: server.listUrl },
    sink: { type: 'directory', path: 'twice' },
  } as const;
  await service.ended((await service.post(order)).id);
  const skipped = await service.ended((await service.post(order)).id);
  assert.equal(skipped.progress.filesSkipped, 500);
  assert.equal(server.count(server.pathOf('0.bin')), 1);
  const again = await service.ended((await service.post({ ...order, existing: 'overwrite' })).id);
  assert.equal(again.progress.filesDownloaded, 500);
  assert.equal(server.count(server.pathOf('0.bin')), 2);
});

test('pages of ten names are walked several in one go', async (t) => {
  const server = await fileServer(t, { files: 3_000, pageSize: 10 });
  const posted = await service.post({
    source: { type: 'listing', url: server.listUrl },
    sink: { type: 'directory', path: 'tiny' },
  });
  const job = await service.ended(posted.id);
  assert.equal(job.state, 'completed');
  assert.equal(job.progress.filesDownloaded, 3_000);
  assert.equal(job.progress.pagesDone, 300);
});

test('a listing that cannot be read fails the job after what was listed before is fetched', async (t) => {
  const server = await fileServer(t, { files: 1_000, pageSize: 100 });
  let pages = 0;
  server.fault((path) => path.startsWith('/list?') && ++pages > 5, { status: 403 });
  const posted = await service.post({
    source: { type: 'listing', url: server.listUrl },
    sink: { type: 'directory', path: 'cut' },
  });
  const job = await service.ended(posted.id);
  assert.equal(job.state, 'failed');
  assert.equal(job.error?.reason, 'http_status');
  assert.equal(job.error?.statusCode, 403);
  assert.equal(job.error?.page, job.progress.pagesListed);
  assert.equal(job.progress.filesPending, 0);
  assert.equal(job.progress.filesDownloaded, job.progress.pagesListed * 100);
});

test('never more requests in flight than the job says, over all workers together', async (t) => {
  const server = await fileServer(t, { files: 600, pageSize: 50, latencyMs: 5 });
  const posted = await service.post({
    source: { type: 'listing', url: server.listUrl },
    sink: { type: 'directory', path: 'bounded' },
    limits: { concurrency: 7 },
  });
  const job = await service.ended(posted.id);
  assert.equal(job.progress.filesDownloaded, 600);
  assert.ok(server.maxInFlight <= 7, `${server.maxInFlight} in flight`);
});

test('never more requests in a second than the job says, over all workers together', async (t) => {
  const server = await fileServer(t, { files: 500, pageSize: 50 });
  const posted = await service.post({
    source: { type: 'listing', url: server.listUrl },
    sink: { type: 'directory', path: 'paced' },
    limits: { requestsPerSecond: 200 },
  });
  const job = await service.ended(posted.id);
  assert.equal(job.progress.filesDownloaded, 500);
  const times = server.requests.map(({ atMs }) => atMs);
  for (const [index, at] of times.entries()) {
    const later = times[index + 220];
    // 10 % for requests that were started in time and arrived late.
    assert.ok(later === undefined || later - at >= 1000, `more than 220 requests within ${later! - at} ms`);
  }
});

test('a job pauses itself at maxFailures, and resume goes on', async (t) => {
  const server = await fileServer(t, { files: 1_000, pageSize: 100 });
  const mend = server.fault(/^\/get\//, { status: 403 });
  const posted = await service.post({
    source: { type: 'listing', url: server.listUrl },
    sink: { type: 'directory', path: 'expired' },
    limits: { maxFailures: 100 },
  });
  const paused = await service.ended(posted.id);
  assert.equal(paused.state, 'paused');
  assert.equal(paused.pausedReason, 'max_failures');
  assert.ok(paused.progress.filesFailed >= 100 && paused.progress.filesFailed < 1_000);
  mend();
  const answer = await fetch(`${service.url}/jobs/${posted.id}/resume`, { method: 'POST' });
  assert.equal(answer.status, 202);
  const job = await service.ended(posted.id);
  assert.equal(job.state, 'completed_with_failures');
  // While it was paused, pages that were then run again still showed their failures.
  assert.ok(job.progress.filesFailed >= 100 && job.progress.filesFailed <= paused.progress.filesFailed);
  assert.equal(job.progress.filesDownloaded, 1_000 - job.progress.filesFailed);
});

test('a listing that leads back to itself fails the job and says so', async (t) => {
  const server = await fileServer(t, { files: 400, pageSize: 100 });
  const pages = ['a', 'b', 'c', 'd'];
  for (const [index, page] of pages.entries()) {
    const body = JSON.stringify({ FileNames: [`${index}.bin`], NextMarker: pages[(index + 1) % pages.length] });
    server.fault((path) => path === `/loop?next-marker=${page}`, { status: 200, body });
  }
  const posted = await service.post({
    source: { type: 'listing', url: `${server.origin}/loop?next-marker=a`, fileUrl: '/get/{name}' },
    sink: { type: 'directory', path: 'looping' },
  });
  const job = await service.ended(posted.id);
  assert.equal(job.state, 'failed');
  assert.equal(job.error?.reason, 'listing_loop');
});
