import assert from 'node:assert/strict';
import { test } from 'node:test';
import { HintConsumer, PageQueue } from '../jobs/queue.ts';
import { connectRedis } from '../src/redis.ts';
import { startTestRedis } from './helpers/redis.ts';

test('a hint that a worker whose clock is ahead put off for an hour is taken up', async (t) => {
  const server = await startTestRedis();
  const redis = connectRedis(server.url, { patient: true });
  const queue = new PageQueue(redis);
  const takes = { first: Promise.withResolvers<void>(), second: Promise.withResolvers<void>() };
  let taken = 0;
  const consumer = new HintConsumer(redis, {
    concurrency: 1,
    lockMs: 10_000,
    take: async () => {
      taken += 1;
      takes[taken === 1 ? 'first' : 'second'].resolve();
      return taken === 1 ? { kind: 'later', delayMs: 3_600_000 } : { kind: 'done' };
    },
    onError: (error) => assert.fail(error),
  });
  t.after(async () => {
    await consumer.close(() => {});
    await queue.close();
    redis.disconnect();
    await server.stop();
  });
  await queue.add('job', { epoch: 0, seqs: [0] });
  await takes.first.promise;
  while ((await redis.zcard('{gigafetch}:pages:delayed')) === 0) await new Promise(setImmediate);
  await queue.add('job', { epoch: 0, seqs: [0] });
  assert.equal(taken, 1);
  await queue.takeUpOverdue();
  await takes.second.promise;
});
