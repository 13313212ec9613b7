import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { Job, JobRequest } from '../src/schemas.ts';
import { fileServer, type FileServer } from './helpers/file-server.ts';
import { TestService } from './helpers/service.ts';

const service = new TestService();
before(() => service.start());
after(() => service.stop());

function order(server: FileServer, path: string, more: Partial<JobRequest> = {}): JobRequest {
  return { source: { type: 'listing', url: server.listUrl }, sink: { type: 'directory', path }, ...more };
}

const cancel = (id: string) => fetch(`${service.url}/jobs/${id}/cancel`, { method: 'POST' });
const downloaded = async (id: string) => (await service.get<Job>(`/jobs/${id}`))?.progress.filesDownloaded ?? 0;

test('a job whose server hangs holds back no other, however many pages it has in flight', async (t) => {
  const hanging = await fileServer(t, { files: 4_000, pageSize: 64 });
  hanging.hold(/^\/get/);
  const { id } = await service.post(order(hanging, 'hanging', { limits: { concurrency: 1_500 } }));
  await service.until(id, ({ progress }) => progress.pagesListed >= 20);
  const server = await fileServer(t, { files: 2_000, pageSize: 1_000 });
  const small = await service.post(order(server, 'small-beside-hanging'));
  const job = await service.ended(small.id);
  assert.deepEqual([job.state, job.progress.filesDownloaded], ['completed', 2_000]);
  assert.equal(await downloaded(id), 0, 'and the other one hangs still');
  await cancel(id);
});

test('a small job beside ten giant ones is done while they have far to go', async (t) => {
  const server = await fileServer(t, { files: 1_000_000, pageSize: 1_000, keepLog: false });
  const giants = await Promise.all(
    Array.from({ length: 10 }, (_, index) => service.post(order(server, `giant-${index}`))),
  );
  for (const { id } of giants) await service.until(id, ({ progress }) => progress.filesDownloaded > 0);
  const before = await Promise.all(giants.map(({ id }) => downloaded(id)));
  const little = await fileServer(t, { files: 2_000, pageSize: 1_000 });
  const { id } = await service.post(order(little, 'small-beside-giants'));
  const job = await service.ended(id);
  assert.equal(job.progress.filesDownloaded, 2_000);
  const meanwhile = await Promise.all(
    giants.map(async (giant, index) => (await downloaded(giant.id)) - (before[index] ?? 0)),
  );
  // With an even share none gets further than the small one, by more than what is in work.
  const most = Math.max(...meanwhile);
  assert.ok(most < 6_000, `a giant fetched ${most} files meanwhile`);
  for (const giant of giants) await cancel(giant.id);
});

test('ten equal jobs share evenly, and one of higher priority gets more', async (t) => {
  const server = await fileServer(t, { files: 1_000_000, pageSize: 1_000, keepLog: false });
  const jobs = await Promise.all(
    Array.from({ length: 10 }, (_, index) => service.post(order(server, `equal-${index}`, { priority: 2 }))),
  );
  const counts = () => Promise.all(jobs.map(({ id }) => downloaded(id)));
  const first = jobs[0]!;
  /** What each of them fetches while the first one fetches so many. */
  const during = async (files: number) => {
    const start = await counts();
    await service.until(first.id, ({ progress }) => progress.filesDownloaded >= (start[0] ?? 0) + files);
    return (await counts()).map((count, index) => count - (start[index] ?? 0));
  };
  for (const { id } of jobs) await service.until(id, ({ progress }) => progress.filesDownloaded > 0);
  const even = await during(6_000);
  assert.ok(Math.max(...even) < 2 * Math.min(...even), `shares: ${even.join(', ')}`);
  await fetch(`${service.url}/jobs/${first.id}`, {
    method: 'PATCH',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ priority: 10 }),
  });
  // Workers have a second until it is in force, and what they fetch meanwhile tells nothing.
  await delay(1_000);
  const [preferred = 0, ...others] = await during(8_000);
  assert.ok(preferred > 2 * Math.max(...others), `${preferred} against ${others.join(', ')}`);
  for (const { id } of jobs) await cancel(id);
});
