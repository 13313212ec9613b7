import assert from 'node:assert/strict';
import { once } from 'node:events';
import { after, before, test } from 'node:test';
import { EventSource } from 'undici';
import { EventReader, readEvents, told } from './helpers/event-reader.ts';
import { fileServer } from './helpers/file-server.ts';
import { startTestRedis, type TestRedis } from './helpers/redis.ts';
import { TestService } from './helpers/service.ts';
import { hearWakeUps } from './helpers/wake-ups.ts';

let redis: TestRedis;
let service: TestService;
before(async () => {
  redis = await startTestRedis();
  service = await new TestService({ REDIS_URL: redis.url }).start();
});
after(async () => {
  assert.equal(await service.stop(), 0);
  await redis.stop();
});

/** The states in the order they were shown, each once in a row. */
function statesIn({ events }: EventReader): string[] {
  const states = events.filter(({ event }) => event !== 'failure').map(({ job }) => job.state);
  return states.filter((state, index) => state !== states[index - 1]);
}

test('a job is shown as it is, how it goes on inside of a page, what failed, and its end', async (t) => {
  const server = await fileServer(t, { files: 1000 });
  server.fault('/get/7.bin', { status: 404 });
  const release = server.hold(/^\/get\/[5-9]\d\d\.bin/);
  const order = { type: 'listing', url: server.listUrl } as const;
  const { id, links } = await service.post({ source: order, limits: { concurrency: 16 } });
  const startedAt = performance.now();
  const reader = await readEvents(t, service.url + links.events);
  assert.equal(reader.answer.headers['content-type'], 'text/event-stream');
  await reader.until(({ event, job }) => event === 'progress' && job.progress.filesDownloaded === 499);
  assert.equal(reader.last?.job.progress.pagesDone, 0);
  release();
  assert.equal(await reader.ended, true);
  const elapsedMs = performance.now() - startedAt;

  const { events } = reader;
  assert.equal(events[0]?.event, 'snapshot');
  assert.equal(events.filter(({ event }) => event === 'snapshot').length, 1);
  assert.equal(told(events.at(-1)!), 'state completed_with_failures');
  assert.deepEqual(statesIn(reader).slice(-2), ['running', 'completed_with_failures']);
  const failures = events.filter(({ event }) => event === 'failure');
  assert.deepEqual(
    failures.map(({ failure }) => [failure.name, failure.reason, failure.statusCode, failure.attempts]),
    [['7.bin', 'http_status', 404, 1]],
  );
  const ids = events.map((event) => event.id);
  assert.deepEqual(
    ids,
    ids.toSorted((a, b) => a - b),
  );
  const shown = events.filter(({ event }) => event === 'progress').length;
  assert.ok(shown <= 1 + elapsedMs / 500, `${shown} in ${elapsedMs} ms`);
  assert.deepEqual(events.at(-1)?.job, await service.get(`/jobs/${id}`));
});

test('the API and the workers tell of every change of a job', async (t) => {
  const heard = await hearWakeUps(t, redis.url);
  const server = await fileServer(t, { files: 200, pageSize: 100 });
  const { id } = await service.post({ source: { type: 'listing', url: server.listUrl } });
  await service.ended(id);
  await fetch(`${service.url}/jobs/${id}`, { method: 'DELETE' });
  // It was accepted, begun, ended and deleted.
  await heard.until(() => heard.of(id).filter((change) => change === 'state').length === 4);
  assert.ok(heard.of(id).includes('progress'));
});

test('a client that knows the end is told so by 204, any other is shown the end and no more', async (t) => {
  const server = await fileServer(t, { files: 10 });
  const { id } = await service.post({ source: { type: 'listing', url: server.listUrl } });
  await service.ended(id);
  const url = `${service.url}/jobs/${id}/events`;
  const reader = await readEvents(t, url);
  assert.equal(await reader.ended, true);
  assert.deepEqual(reader.events.map(told), ['snapshot completed', 'state completed']);
  const last = reader.last!.id;
  const finishedAt = Date.parse(reader.last!.job.finishedAt!);
  for (const [lastEventId, status] of [
    [last, 204],
    [finishedAt + 1, 204],
    [finishedAt, 200],
    [finishedAt - 1000, 200],
    ['', 200],
    ['x', 200],
  ] as const) {
    const again = await readEvents(t, url, { headers: { 'last-event-id': String(lastEventId) } });
    assert.equal(again.answer.statusCode, status, String(lastEventId));
    assert.equal(await again.ended, true);
    if (status === 200) assert.deepEqual(again.events.map(told), ['snapshot completed', 'state completed']);
  }
});

test('an EventSource needs nothing but the URL, and stops by itself after the end', async (t) => {
  const server = await fileServer(t, { files: 10 });
  const { links } = await service.post({ source: { type: 'listing', url: server.listUrl } });
  const source = new EventSource(service.url + links.events);
  t.after(() => source.close());
  const states: string[] = [];
  source.addEventListener('state', (event) => {
    states.push((JSON.parse((event as unknown as { data: string }).data) as { state: string }).state);
  });
  while (source.readyState !== EventSource.CLOSED) await once(source, 'error');
  assert.equal(states.at(-1), 'completed');
  assert.equal(states.filter((state) => state === 'completed').length, 1);
});

test('the stream of all jobs shows those that there are, then each one that comes, to its end', async (t) => {
  const server = await fileServer(t, { files: 100 });
  const release = server.hold('/get/50.bin');
  const source = { type: 'listing', url: server.listUrl } as const;
  const { id: first } = await service.post({ source });
  const reader = await readEvents(t, `${service.url}/events`);
  await reader.until(({ event, job }) => event === 'snapshot' && job.id === first);
  const { id: second } = await service.post({ source });
  await reader.until(({ event, job }) => event === 'state' && job.id === second);
  release();
  for (const id of [first, second]) {
    await reader.until(({ event, job }) => event === 'state' && job.id === id && job.state === 'completed');
  }
  const { id: third } = await service.post({ source });
  await reader.until(({ event, job }) => event === 'state' && job.id === third && job.state === 'completed');
  assert.equal(reader.answer.closed, false);
  for (const id of [first, second, third]) {
    const events = reader.events.filter(({ job }) => job.id === id);
    assert.equal(events.filter(({ event }) => event === 'snapshot').length, id === first ? 1 : 0);
    assert.equal(events.filter(({ job }) => job.state === 'completed').length, 1);
  }
});

test('open streams, also of clients that do not read, end at SIGTERM and delay nothing', async (t) => {
  const own = await new TestService().start();
  const server = await fileServer(t, { files: 10 });
  const release = server.hold('/get/5.bin');
  t.after(release);
  const { links } = await own.post({ source: { type: 'listing', url: server.listUrl } });
  const readers: EventReader[] = [];
  for (let index = 0; index < 20; index += 1) {
    readers.push(await readEvents(t, own.url + (index % 2 === 0 ? links.events : '/events')));
  }
  await readEvents(t, own.url + links.events, { reads: false });
  await Promise.all(readers.map((reader) => reader.until(({ event }) => event === 'snapshot')));
  const startedAt = performance.now();
  assert.equal(await own.stop(), 0);
  // What the processes have to close in is 7 s.
  assert.ok(performance.now() - startedAt < 6000);
  assert.deepEqual(new Set(await Promise.all(readers.map((reader) => reader.ended))), new Set([true]));
});
