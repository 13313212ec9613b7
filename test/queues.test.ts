import assert from 'node:assert/strict';
import { after, before, test, type TestContext } from 'node:test';
import type { FastifyInstance } from 'fastify';
import { pino } from 'pino';
import { createJobService, type JobService } from '../jobs/service.ts';
import { buildApp } from '../src/app.ts';
import { noLimiter, openConfig } from './helpers/app.ts';
import { startTestRedis, type TestRedis } from './helpers/redis.ts';
import { urlFiles } from './helpers/url-files.ts';

const logger = pino({ level: 'silent' });
let redis: TestRedis;
let service: JobService;

before(async () => {
  redis = await startTestRedis();
  service = createJobService({ redisUrl: redis.url, activeJobsMax: 10, urlFiles: urlFiles(), logger });
});
after(async () => {
  await service.close();
  await redis.stop();
});

async function appWith(t: TestContext, more: object = {}): Promise<FastifyInstance> {
  const app = buildApp({ config: { ...openConfig, queuesUi: true, ...more }, service, limiter: noLimiter, logger });
  t.after(() => app.close());
  while ((await app.inject('/readyz')).statusCode !== 200) await new Promise(setImmediate);
  return app;
}

test('the queue is shown at /queues, with all it loads from here and a policy that lets it', async (t) => {
  const app = await appWith(t);
  const payload = { source: { type: 'listing', url: 'http://127.0.0.1:9/list?sig=secret' }, headers: { x: 'secret' } };
  const { id } = (await app.inject({ method: 'POST', url: '/jobs', payload })).json<{ id: string }>();
  for (const url of ['/queues', '/queues/', '/queues/queue/pages']) {
    const page = await app.inject(url);
    assert.equal(page.statusCode, 200);
    assert.match(page.body, /<base href="\/queues\/" \/>/);
    assert.match(String(page.headers['content-security-policy']), /default-src 'self';.*base-uri 'self'/);
    const parts = [...page.body.matchAll(/(?:src|href)="(static\/[^"]+)"/g)].map(([, path]) => path);
    assert.ok(parts.length > 3);
    for (const part of parts) assert.equal((await app.inject(`/queues/${part}`)).statusCode, 200, part);
  }
  const queues = await app.inject('/queues/api/queues?activeQueue=pages&status=waiting&page=1&jobsPerPage=10');
  assert.match(queues.body, new RegExp(`"id":"${id}_0_0"`));
  assert.match(queues.body, /"readOnlyMode":true/);
  assert.doesNotMatch(queues.body, /secret/);
  assert.match(String((await app.inject('/docs')).headers['content-security-policy']), /base-uri 'none'/);
  assert.ok(!(await app.inject('/openapi.json')).body.includes('/queues'));
});

test('nobody changes the queue at /queues', async (t) => {
  const app = await appWith(t);
  const calls = [
    'pause',
    'pages/pause',
    'pages/empty',
    'pages/obliterate',
    'pages/add',
    'pages/1/retry',
    'pages/1/clean',
  ];
  for (const call of calls) {
    for (const method of ['PUT', 'POST', 'PATCH', 'DELETE'] as const) {
      const answer = await app.inject({ method, url: `/queues/api/queues/${call}`, payload: {} });
      assert.equal(answer.statusCode, 404, `${method} ${call}`);
    }
  }
});

test('at /queues the same callers are let in as everywhere, and errors are told the same way', async (t) => {
  const app = await appWith(t, { apiTokens: ['token'] });
  const status = async (url: string, headers: Record<string, string>): Promise<number> => {
    const answer = await app.inject({ url, headers });
    if (answer.statusCode >= 400) assert.match(String(answer.headers['content-type']), /^application\/problem\+json/);
    return answer.statusCode;
  };
  const authorization = 'Bearer token';
  for (const url of ['/queues', '/queues/api/queues', '/queues/static/images/logo.svg']) {
    assert.equal(await status(url, {}), 401);
    assert.equal(await status(url, { authorization: 'Bearer other' }), 401);
    assert.equal(await status(url, { authorization, host: 'evil.example' }), 403);
    assert.equal(await status(url, { authorization }), 200);
  }
});

test('without QUEUES_UI there is no /queues', async (t) => {
  const app = await appWith(t, { queuesUi: false });
  for (const url of ['/queues', '/queues/api/queues']) assert.equal((await app.inject(url)).statusCode, 404);
});
