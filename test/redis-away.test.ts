import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { FastifyInstance, InjectOptions } from 'fastify';
import { pino } from 'pino';
import { createJobService, type JobService } from '../jobs/service.ts';
import { buildApp } from '../src/app.ts';
import type { Job } from '../src/schemas.ts';
import { noLimiter, openConfig } from './helpers/app.ts';
import { unknownId } from './helpers/fake-service.ts';
import { startTestRedis, type TestRedis } from './helpers/redis.ts';
import { urlFiles } from './helpers/url-files.ts';

const answerMsMax = 2000;
const body = { source: { type: 'listing', url: 'http://127.0.0.1:3900/list' } };
const logger = pino({ level: 'silent' });

let redis: TestRedis;
let service: JobService;
let app: FastifyInstance;

before(async () => {
  redis = await startTestRedis();
  service = createJobService({ redisUrl: redis.url, activeJobsMax: 100, urlFiles: urlFiles(), logger });
  app = buildApp({ config: openConfig, service, limiter: noLimiter, logger });
  await ready();
});

after(async () => {
  await app.close();
  await service.close();
  await redis.stop();
});

async function ready(): Promise<void> {
  while ((await app.inject('/readyz')).statusCode !== 200) await new Promise(setImmediate);
}

async function post(): Promise<Job> {
  const response = await app.inject({ method: 'POST', url: '/jobs', payload: body });
  assert.equal(response.statusCode, 202, response.body);
  return response.json<Job>();
}

/** Every call that needs Redis, all at once. */
async function allUnavailable(id: string): Promise<void> {
  const calls: InjectOptions[] = [
    { method: 'POST', url: '/jobs', payload: body },
    { method: 'POST', url: '/jobs', payload: body, headers: { 'idempotency-key': 'k' } },
    { url: '/jobs' },
    { url: '/jobs?state=running' },
    { url: `/jobs/${id}` },
    { url: `/jobs/${unknownId}` },
    { method: 'DELETE', url: `/jobs/${id}` },
    { method: 'POST', url: `/jobs/${id}/resume` },
    { url: `/jobs/${id}/failures` },
    { url: `/jobs/${id}/failures`, headers: { accept: 'application/x-ndjson' } },
    { url: `/jobs/${id}/failures`, headers: { accept: 'text/csv' } },
    { url: '/workers' },
    { url: '/metrics' },
    { url: '/readyz' },
  ];
  await Promise.all(
    calls.map(async (call) => {
      const start = performance.now();
      const response = await app.inject(call);
      const name = JSON.stringify(call);
      assert.ok(performance.now() - start < answerMsMax, `${name} took ${performance.now() - start} ms`);
      assert.equal(response.statusCode, 503, `${name}: ${response.body}`);
      assert.match(String(response.headers['content-type']), /^application\/problem\+json/, name);
      assert.equal(response.headers['retry-after'], '1', name);
    }),
  );
  assert.equal((await app.inject('/livez')).statusCode, 200);
}

test('a Redis that hangs is a 503 within two seconds, and all goes on when it answers again', async () => {
  const { id } = await post();
  process.kill(redis.pid, 'SIGSTOP');
  try {
    await allUnavailable(id);
  } finally {
    process.kill(redis.pid, 'SIGCONT');
  }
  await ready();
  assert.equal((await app.inject(`/jobs/${id}`)).statusCode, 200);
  await post();
});

test('a Redis that was killed is a 503 within two seconds, and all goes on when it is back', async () => {
  const { id } = await post();
  await redis.kill();
  await allUnavailable(id);
  await redis.restart();
  await ready();
  assert.equal((await app.inject(`/jobs/${id}`)).statusCode, 200);
  await post();
});
