import assert from 'node:assert/strict';
import { EventEmitter, once } from 'node:events';
import type { ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Writable } from 'node:stream';
import { after, afterEach, before, beforeEach, test, type TestContext } from 'node:test';
import type { FastifyInstance } from 'fastify';
import { Redis } from 'ioredis';
import { pino } from 'pino';
import { EventStream } from '../jobs/event-stream.ts';
import { packFailure } from '../jobs/failures.ts';
import { createJobService, type JobService } from '../jobs/service.ts';
import { ChainStore } from '../jobs/store.ts';
import { WakeUpSender } from '../jobs/wake-ups.ts';
import { buildApp } from '../src/app.ts';
import type { Failure } from '../src/schemas.ts';
import { noLimiter, openConfig } from './helpers/app.ts';
import { EventReader, readEvents, told } from './helpers/event-reader.ts';
import { failuresOf, unknownId } from './helpers/fake-service.ts';
import { jobSpec } from './helpers/job-spec.ts';
import { startTestRedis, type TestRedis } from './helpers/redis.ts';
import { hearWakeUps } from './helpers/wake-ups.ts';
import { urlFiles } from './helpers/url-files.ts';

const token = 'a-token';
const headers = { authorization: `Bearer ${token}` };

let server: TestRedis;
let redis: Redis;
let store: ChainStore;
let wakeUps: WakeUpSender;
before(async () => {
  server = await startTestRedis();
  redis = new Redis(server.url);
  redis.on('error', () => {});
  store = new ChainStore(redis);
  wakeUps = new WakeUpSender(redis);
});
after(async () => {
  redis.disconnect();
  await server.stop();
});
beforeEach(() => redis.flushall());

/** What the API has logged in this test; `line` is emitted for each. */
const logged = new EventEmitter();
let lines: string[] = [];
afterEach(() => {
  lines = [];
});
const log = new Writable({
  write(line: Buffer, _encoding, done) {
    lines.push(line.toString());
    logged.emit('line');
    done();
  },
});

interface Api {
  readonly app: FastifyInstance;
  readonly service: JobService;
  readonly url: string;
}

async function startApi(t: TestContext, settings: { heartbeatMs?: number; streamsMax?: number } = {}): Promise<Api> {
  const logger = pino(log);
  const service = createJobService({
    redisUrl: server.url,
    activeJobsMax: 1000,
    urlFiles: urlFiles(),
    logger,
    ...settings,
  });
  const app = buildApp({ config: { ...openConfig, apiTokens: [token] }, service, limiter: noLimiter, logger });
  t.after(async () => {
    await app.close();
    await service.close();
  });
  await app.listen({ host: '127.0.0.1', port: 0 });
  while ((await app.inject('/readyz')).statusCode !== 200) await new Promise(setImmediate);
  return { app, service, url: `http://127.0.0.1:${(app.server.address() as AddressInfo).port}` };
}

function watch(t: TestContext, { url }: Api, path: string, reads = true): Promise<EventReader> {
  return readEvents(t, url + path, { headers, reads });
}

/** A job of one page, which some worker has begun. */
async function startJob(id: string, urlLength = 0): Promise<void> {
  const spec = jobSpec({ sink: { type: 'directory', path: id, durability: 'process' } });
  const source = { ...spec.source, url: `http://127.0.0.1:9/${'x'.repeat(urlLength)}` };
  const firstToken = 'a';
  await store.create({
    id,
    spec: { ...spec, source },
    firstToken,
    cap: 4,
    activeJobsMax: 1000,
    idempotency: null,
  });
  await store.begin(id, 0, 0, 'n');
}

/** Its page is done: `downloaded` files, and those that failed. */
async function endJob(id: string, downloaded: number, failures: readonly Failure[] = []): Promise<void> {
  const filesListed = downloaded + failures.length;
  await store.advance(id, 0, 'n', { cap: 4, listed: filesListed, tokens: ['a'], next: null });
  const counts = { filesListed, filesDownloaded: downloaded, filesFailed: failures.length };
  await store.commit(id, 0, 'n', counts, failures.map(packFailure));
}

const jobId = (index: number): string => `019a9f3c-6c2e-7d4b-9f60-${String(index).padStart(12, '0')}`;

test('progress is told of at once and then every half second at most, a state at once', async (t) => {
  const heard = await hearWakeUps(t, server.url);
  const startedAt = performance.now();
  for (let index = 0; index < 100; index += 1) wakeUps.told('a', 'progress');
  wakeUps.told('b', 'progress');
  await heard.until(() => heard.of('a').length === 1 && heard.of('b').length === 1);
  await heard.until(() => heard.of('a').length === 2);
  assert.ok(performance.now() - startedAt >= 499, 'it was not held back');
  wakeUps.told('a', 'state');
  await heard.until(() => heard.of('a').includes('state'));
  assert.deepEqual(heard.of('a'), ['progress', 'progress', 'state']);
  assert.deepEqual(heard.of('b'), ['progress']);
});

/** How often any job was read so far. */
async function reads(): Promise<number> {
  return Number(/cmdstat_exec:calls=(\d+)/.exec(await redis.info('commandstats'))?.[1] ?? 0);
}

test('a thousand streams of one job are served by a few reads of it', async (t) => {
  const api = await startApi(t);
  await startJob(jobId(1));
  const readsBefore = await reads();
  const startedAt = performance.now();
  const readers: EventReader[] = [];
  for (let index = 0; index < 1000; index += 50) {
    const more = Array.from({ length: 50 }, () => watch(t, api, `/jobs/${jobId(1)}/events`));
    readers.push(...(await Promise.all(more)));
  }
  await Promise.all(readers.map((reader) => reader.until(({ event }) => event === 'snapshot')));
  await endJob(jobId(1), 3);
  wakeUps.told(jobId(1), 'state');
  await Promise.all(readers.map((reader) => reader.ended));
  const elapsedMs = performance.now() - startedAt;
  for (const reader of readers) {
    assert.equal(reader.events[0]?.event, 'snapshot');
    assert.equal(told(reader.last!), 'state completed');
    assert.equal(reader.last?.job.progress.filesDownloaded, 3);
  }
  const made = (await reads()) - readsBefore;
  assert.ok(made <= 3 + elapsedMs / 500, `${made} reads in ${elapsedMs} ms`);
});

/** Pauses and resumes a job, each seen by a reader, until `is` holds. Returns how many events that were. */
async function pauseAndResume(id: string, reader: EventReader, is: () => boolean): Promise<number> {
  let events = 0;
  for (let epoch = 0; !is(); epoch += 1) {
    for (const state of ['paused', 'running']) {
      await (state === 'paused' ? store.pause(id, 'user', epoch) : store.resume(id));
      wakeUps.told(id, 'state');
      events += 1;
      const seen = events;
      await reader.until(() => reader.events.length > seen);
      assert.equal(told(reader.last!), `state ${state}`);
    }
    assert.ok(epoch < 1000, 'it is buffered without end');
  }
  return events;
}

test('a reader that is too slow is cut off, and the others see every event', async (t) => {
  const api = await startApi(t);
  await startJob(jobId(1), 200_000);
  const good = await watch(t, api, `/jobs/${jobId(1)}/events`);
  const slow = await watch(t, api, '/events', false);
  await good.until(({ event }) => event === 'snapshot');
  await pauseAndResume(jobId(1), good, () => lines.some((line) => line.includes('too slow')));
  slow.answer.resume();
  assert.equal(await slow.ended, false);
  assert.equal(good.answer.closed, false);
});

test('a reader that takes nothing between two heartbeats is cut off', () => {
  const stream = new EventStream();
  assert.equal(stream.beat(), true);
  stream.read();
  assert.equal(stream.beat(), true);
  assert.equal(stream.destroyed, false);
  assert.equal(stream.beat(), false);
  assert.equal(stream.destroyed, true);
});

test('a stream begins with when to come again, and says now and then that it is there', async (t) => {
  const api = await startApi(t, { heartbeatMs: 10 });
  const reader = await watch(t, api, '/events');
  while (reader.comments < 3) await reader.changed();
  assert.equal(reader.retryMs, 1000);
  assert.deepEqual(reader.events, []);
});

test('without a token, for no job, and without Redis there is no stream but a problem', async (t) => {
  const api = await startApi(t);
  await startJob(jobId(1));
  const statusOf = async (path: string, sent = headers): Promise<number | undefined> => {
    const { answer } = await readEvents(t, api.url + path, { headers: sent });
    assert.match(String(answer.headers['content-type']), /^application\/problem\+json/);
    return answer.statusCode;
  };
  for (const path of ['/events', `/jobs/${jobId(1)}/events`, `/jobs/${unknownId}/events`]) {
    assert.equal(await statusOf(path, { authorization: 'Bearer other' }), 401);
  }
  assert.equal(await statusOf(`/jobs/${unknownId}/events`), 404);
  assert.equal(await statusOf('/jobs/x/events'), 404);
  assert.equal(await statusOf('/events?x=1'), 400);
  const head = await api.app.inject({ method: 'HEAD', url: '/events', headers });
  assert.equal(head.statusCode, 404);
  await server.kill();
  assert.equal(await statusOf('/events'), 503);
  assert.equal(await statusOf(`/jobs/${jobId(1)}/events`), 503);
  await server.restart();
});

test('one stream too many is a 503, until another one has ended', async (t) => {
  const api = await startApi(t, { streamsMax: 2 });
  await startJob(jobId(1));
  const [first] = [await watch(t, api, '/events'), await watch(t, api, `/jobs/${jobId(1)}/events`)];
  const third = await watch(t, api, '/events');
  assert.equal(third.answer.statusCode, 503);
  assert.equal(third.answer.headers['retry-after'], '1');
  first.close();
  while ((await watch(t, api, '/events')).answer.statusCode !== 200);
});

test('a change that nobody told of, and one while Redis was restarted, are shown all the same', async (t) => {
  const api = await startApi(t);
  await startJob(jobId(1));
  const readers = [await watch(t, api, `/jobs/${jobId(1)}/events`), await watch(t, api, '/events')];
  const allSee = (what: string): Promise<unknown> =>
    Promise.all(readers.map((reader) => reader.until((event) => event.job.id === jobId(1) && told(event) === what)));
  await allSee('snapshot running');
  await store.pause(jobId(1), 'user', 0);
  await allSee('state paused');
  await server.kill();
  await server.restart();
  await once(redis, 'ready');
  await store.resume(jobId(1));
  await allSee('state running');
  await startJob(jobId(2));
  await readers[1]!.until((event) => event.job.id === jobId(2) && told(event) === 'state running');
  // Wake-ups are heard again, too.
  await store.begin(jobId(1), 0, 1, 'n');
  await endJob(jobId(1), 1);
  wakeUps.told(jobId(1), 'state');
  await allSee('state completed');
});

test('of failures the newest is shown, and those of the past are not', async (t) => {
  const api = await startApi(t);
  const failures = failuresOf(3);
  await startJob(jobId(1));
  const reader = await watch(t, api, `/jobs/${jobId(1)}/events`);
  await reader.until(({ event }) => event === 'snapshot');
  await endJob(jobId(1), 2, failures);
  wakeUps.told(jobId(1), 'state');
  assert.equal(await reader.ended, true);
  assert.deepEqual(reader.events.map(told), [
    'snapshot running',
    `failure ${failures[2]!.name}`,
    'state completed_with_failures',
  ]);
  const [snapshot, failure, state] = reader.events;
  assert.deepEqual(failure?.failure, failures[2]);
  // Who has seen no more than the failure has not seen the end.
  assert.equal(failure?.id, snapshot?.id);
  assert.ok(state!.id > Date.parse(state!.job.finishedAt!));
  const late = await watch(t, api, `/jobs/${jobId(1)}/events`);
  assert.equal(await late.ended, true);
  assert.deepEqual(late.events.map(told), ['snapshot completed_with_failures', 'state completed_with_failures']);
});

test('a job that goes on after its end is watched like any other, also by who has seen that end', async (t) => {
  const api = await startApi(t);
  await startJob(jobId(1));
  await endJob(jobId(1), 1);
  const path = `/jobs/${jobId(1)}/events`;
  const before = await watch(t, api, path);
  assert.equal(await before.ended, true);
  await redis
    .multi()
    .hset(`{gigafetch}:job:${jobId(1)}`, 'state', 'running')
    .sadd('{gigafetch}:active', jobId(1))
    .exec();
  const lastEventId = String(before.last?.id);
  const reader = await readEvents(t, api.url + path, { headers: { ...headers, 'last-event-id': lastEventId } });
  assert.equal(told(await reader.until(() => true)), 'snapshot running');
});

test('a stream ends when its job is deleted', async (t) => {
  const api = await startApi(t);
  await startJob(jobId(1));
  const reader = await watch(t, api, `/jobs/${jobId(1)}/events`);
  await reader.until(({ event }) => event === 'snapshot');
  // Only one that is not active can be deleted; that it has come to its end shall not be what ends the stream.
  await redis.srem('{gigafetch}:active', jobId(1));
  await api.service.delete(jobId(1));
  assert.equal(await reader.ended, true);
});

test('the stream of all jobs shows each of hundreds once before it goes on with them', async (t) => {
  const api = await startApi(t);
  const ids = Array.from({ length: 320 }, (_, index) => jobId(index));
  for (const id of ids) await startJob(id);
  const readers = await Promise.all([watch(t, api, '/events'), watch(t, api, '/events')]);
  for (const id of ids) {
    await endJob(id, 1);
    wakeUps.told(id, 'state');
  }
  for (const reader of readers) {
    for (const id of ids) await reader.until(({ event, job }) => event === 'state' && job.id === id);
    const of = (event: string): string[] =>
      reader.events.filter((seen) => seen.event === event).map(({ job }) => job.id);
    assert.equal(new Set(of('snapshot')).size, of('snapshot').length, 'one was shown twice as it is');
    assert.equal(new Set(of('state')).size, of('state').length, 'an end was shown twice');
    assert.deepEqual(new Set(of('state')), new Set(ids));
  }
});

test('the API closes at once although a reader has stopped reading in the middle of much', async (t) => {
  const api = await startApi(t);
  await startJob(jobId(1), 60_000);
  const good = await watch(t, api, `/jobs/${jobId(1)}/events`);
  await good.until(({ event }) => event === 'snapshot');
  const responses: ServerResponse[] = [];
  api.app.server.once('request', (_request, response: ServerResponse) => responses.push(response));
  const slow = await watch(t, api, '/events', false);
  let rounds = 0;
  const stuck = (): boolean => {
    rounds = responses[0]?.writableNeedDrain === true ? rounds + 1 : 0;
    return rounds === 4;
  };
  await pauseAndResume(jobId(1), good, stuck);
  await api.app.close();
  assert.equal(await good.ended, true);
  slow.answer.resume();
  assert.equal(await slow.ended, false);
});
