import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { FastifyInstance, LightMyRequestResponse } from 'fastify';
import { pino } from 'pino';
import { createJobService, type JobService } from '../jobs/service.ts';
import { ChainStore } from '../jobs/store.ts';
import { buildApp } from '../src/app.ts';
import { connectRedis } from '../src/redis.ts';
import type { Job } from '../src/schemas.ts';
import { noLimiter, openConfig } from './helpers/app.ts';
import { unknownId } from './helpers/fake-service.ts';
import { startTestRedis, type TestRedis } from './helpers/redis.ts';
import { urlFiles } from './helpers/url-files.ts';

const source = { type: 'listing', url: 'http://127.0.0.1:3900/list' };
const logger = pino({ level: 'silent' });

let redis: TestRedis;
const services: JobService[] = [];
const apps: FastifyInstance[] = [];

// Two API processes on one Redis, as far as each can tell.
before(async () => {
  redis = await startTestRedis();
  for (let index = 0; index < 2; index += 1) {
    const service = createJobService({ redisUrl: redis.url, activeJobsMax: 100, urlFiles: urlFiles(), logger });
    services.push(service);
    apps.push(buildApp({ config: openConfig, service, limiter: noLimiter, logger }));
  }
  for (const app of apps) {
    while ((await app.inject('/readyz')).statusCode !== 200) await new Promise(setImmediate);
  }
});

after(async () => {
  for (const app of apps) await app.close();
  for (const service of services) await service.close();
  await redis.stop();
});

function api(index: 0 | 1): FastifyInstance {
  const app = apps[index];
  assert.ok(app !== undefined);
  return app;
}

function post(index: 0 | 1, payload: object, key?: string): Promise<LightMyRequestResponse> {
  const headers = key === undefined ? {} : { 'idempotency-key': key };
  return api(index).inject({ method: 'POST', url: '/jobs', payload, headers });
}

test('a job that one API accepted is shown in full by another, its headers by none', async () => {
  const posted = await post(0, {
    name: 'mine',
    source: { ...source, sizeField: '/size', nameField: '/name', next: { in: 'page' } },
    headers: { authorization: 'Bearer secret' },
    limits: { concurrency: 3 },
  });
  assert.equal(posted.statusCode, 202, posted.body);
  const job = posted.json<Job>();
  assert.equal(posted.headers.location, `/jobs/${job.id}`);
  assert.match(job.id, /^[0-9a-f]{8}-[0-9a-f]{4}-7/);
  assert.deepEqual(
    { ...job, id: '', createdAt: '', links: {}, sink: { ...job.sink, path: '' } },
    {
      id: '',
      name: 'mine',
      state: 'queued',
      pausedReason: null,
      waitingReason: 'no_worker',
      limitedBy: null,
      dataId: null,
      source: {
        type: 'listing',
        url: 'http://127.0.0.1:3900/list',
        fileUrl: 'get/{name}',
        namesField: '/FileNames',
        nameField: '/name',
        sizeField: '/size',
        next: { in: 'page', param: 'page', first: 1 },
        markerParam: 'next-marker',
      },
      sink: { type: 'directory', path: '', durability: 'process', manifest: false },
      priority: 5,
      existing: 'skip',
      filter: { include: [], exclude: [], maxFiles: 0 },
      dryRun: false,
      retry: { attempts: 5, baseDelayMs: 300, maxDelayMs: 30_000, maxOutageMs: 900_000 },
      limits: {
        concurrency: 3,
        requestsPerSecond: 0,
        timeoutMs: 30_000,
        minBytesPerSecond: 1024,
        maxFileBytes: 1_073_741_824,
        maxFailures: 100_000,
      },
      progress: {
        pagesListed: 0,
        pagesDone: 0,
        listingDone: false,
        filesTotal: null,
        filesListed: 0,
        filesDownloaded: 0,
        filesSkipped: 0,
        filesFailed: 0,
        filesPending: 0,
        requestsRetried: 0,
        bytesDownloaded: 0,
        filesPerSecond: 0,
        bytesPerSecond: 0,
        etaSeconds: null,
      },
      failures: {},
      error: null,
      createdAt: '',
      startedAt: null,
      finishedAt: null,
      links: {},
    },
  );
  assert.equal(job.sink.path, job.id);
  const self = `/jobs/${job.id}`;
  const [events, failures, manifest] = ['events', 'failures', 'manifest'].map((part) => `${self}/${part}`);
  assert.deepEqual(job.links, { self, events, failures, manifest });
  assert.deepEqual((await api(1).inject(`/jobs/${job.id}`)).json(), job);
  assert.deepEqual((await api(1).inject('/jobs?limit=1')).json<{ jobs: Job[] }>().jobs, [job]);
});

test('of the same order sent to two APIs at once under one key there is one job', async () => {
  const body = { name: 'once', source };
  const answers = await Promise.all([0, 1, 0, 1].map((index) => post(index as 0 | 1, body, 'one-key')));
  assert.deepEqual(new Set(answers.map(({ statusCode }) => statusCode)), new Set([202]));
  assert.equal(new Set(answers.map((answer) => answer.json<Job>().id)).size, 1);
  assert.equal(answers.filter(({ headers }) => headers['idempotency-replayed'] === 'true').length, 3);
  assert.equal((await post(1, { ...body, name: 'twice' }, 'one-key')).statusCode, 422);
});

test('a sink path that an active job writes to is a 409 on every API', async () => {
  const body = { source, sink: { type: 'directory', path: 'taken' } };
  const answers = await Promise.all([post(0, body), post(1, body)]);
  assert.deepEqual(
    answers.map(({ statusCode }) => statusCode).toSorted((a, b) => a - b),
    [202, 409],
  );
});

test('jobs are listed newest first, page by page and by state', async () => {
  const ids: string[] = [];
  for (let index = 0; index < 5; index += 1) ids.unshift((await post(0, { source })).json<Job>().id);
  const seen: string[] = [];
  let query = '?limit=2&state=queued';
  while (seen.length < 5) {
    const { jobs, nextCursor } = (await api(1).inject(`/jobs${query}`)).json<{
      jobs: Job[];
      nextCursor: string | null;
    }>();
    seen.push(...jobs.map(({ id }) => id));
    query = `?limit=2&state=queued&cursor=${nextCursor}`;
  }
  assert.deepEqual(seen.slice(0, 5), ids);
  assert.deepEqual((await api(0).inject('/jobs?state=failed')).json(), { jobs: [], nextCursor: null });
});

test('an active job cannot be deleted, one that is not paused is shown as it is, an unknown one is a 404', async () => {
  const { id } = (await post(0, { source })).json<Job>();
  assert.equal((await api(1).inject({ method: 'DELETE', url: `/jobs/${id}` })).statusCode, 409);
  const resumed = await api(1).inject({ method: 'POST', url: `/jobs/${id}/resume` });
  assert.deepEqual([resumed.statusCode, resumed.json<Job>().state], [202, 'queued']);
  for (const [method, path] of [
    ['GET', ''],
    ['DELETE', ''],
    ['POST', '/resume'],
    ['GET', '/failures'],
    ['GET', '/manifest'],
    ['POST', '/verify'],
  ] as const) {
    assert.equal((await api(0).inject({ method, url: `/jobs/${unknownId}${path}` })).statusCode, 404);
  }
});

test('of many changes of one job at once, on every API, each is made', async (t) => {
  const { id } = (await post(0, { source })).json<Job>();
  const answers = await Promise.all(
    Array.from({ length: 60 }, (_, index) =>
      api(index % 2 === 0 ? 0 : 1).inject({
        method: 'PATCH',
        url: `/jobs/${id}`,
        payload: { headers: { [`x-${index}`]: 'set' } },
      }),
    ),
  );
  for (const { statusCode, body } of answers) assert.equal(statusCode, 200, body);
  const client = connectRedis(redis.url, { patient: true });
  t.after(() => client.disconnect());
  const order = await new ChainStore(client).order(id);
  assert.equal(Object.keys(order?.spec.headers ?? {}).length, 60);
});

test('many who ask for one job at once share its reads, and nobody is shown what was before he asked', async (t) => {
  const { id } = (await post(0, { source })).json<Job>();
  const watch = connectRedis(redis.url, { patient: true });
  t.after(() => watch.disconnect());
  const ask = async (): Promise<Job> => (await api(0).inject(`/jobs/${id}`)).json<Job>();
  const calls = async (): Promise<number> =>
    Number(/cmdstat_evalsha:calls=(\d+)/.exec(await watch.info('commandstats'))?.[1] ?? 0);
  await ask();
  const before = await calls();
  const beganMs = performance.now();
  const jobs = await Promise.all(Array.from({ length: 50 }, ask));
  const pauses = (performance.now() - beganMs) / 20;
  assert.deepEqual(new Set(jobs.map((job) => job.id)), new Set([id]));
  const reads = (await calls()) - before;
  assert.ok(reads >= 1 && reads <= 2 + pauses, `${reads} reads in ${pauses} pauses`);

  for (let concurrency = 1; concurrency <= 20; concurrency += 1) {
    const watching = Array.from({ length: 3 }, ask);
    const url = `/jobs/${id}`;
    assert.equal((await api(1).inject({ method: 'PATCH', url, payload: { limits: { concurrency } } })).statusCode, 200);
    assert.equal((await ask()).limits.concurrency, concurrency);
    await Promise.all(watching);
  }
  const unknown = await Promise.all([0, 1, 2].map(() => api(0).inject(`/jobs/${unknownId}`)));
  assert.deepEqual(
    unknown.map(({ statusCode }) => statusCode),
    [404, 404, 404],
  );
});

test('a job without failures has an empty list of them, in every form', async () => {
  const { id } = (await post(0, { source })).json<Job>();
  const get = (accept: string): Promise<LightMyRequestResponse> =>
    api(1).inject({ url: `/jobs/${id}/failures`, headers: { accept } });
  assert.deepEqual((await get('application/json')).json(), { failures: [], nextCursor: null });
  assert.equal((await get('application/x-ndjson')).body, '');
  assert.equal((await get('text/csv')).body, 'name,url,reason,statusCode,attempts,message,at\r\n');
  assert.equal((await api(0).inject(`/jobs/${id}/failures?cursor=9999999999999999999-0`)).statusCode, 200);
  assert.deepEqual((await api(0).inject('/workers')).json(), { workers: [] });
});
