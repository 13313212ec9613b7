import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ChainStore, jobKeys } from '../jobs/store.ts';
import { readJob } from '../jobs/view.ts';
import { connectRedis } from '../src/redis.ts';
import { jobSpec } from './helpers/job-spec.ts';
import { startTestRedis } from './helpers/redis.ts';

test("a job's speed is the mean of the last five whole seconds, of those since its start where there were fewer", async (t) => {
  const server = await startTestRedis();
  const redis = connectRedis(server.url, { patient: true });
  t.after(async () => {
    redis.disconnect();
    await server.stop();
  });
  const store = new ChainStore(redis);
  await store.create({ id: 'j', spec: jobSpec(), firstToken: 'a', cap: 4, activeJobsMax: 10, idempotency: null });
  await store.begin('j', 0, 0, 'n');
  const { job, rate } = jobKeys('j');
  const [second] = (await redis.time()).map(Number) as [number, number];
  /** In each second so many; a minute ahead, so that it does not matter when it is read. */
  const each = async (counts: Record<string, number>): Promise<void> => {
    for (let at = second - 10; at < second + 60; at += 1) {
      await redis.hset(
        rate,
        Object.fromEntries(Object.entries(counts).map(([kind, count]) => [`${kind}${at}`, count])),
      );
    }
  };
  const shown = async () => {
    const { progress, limitedBy } = (await readJob(redis, 'j'))!.job;
    return [progress.filesPerSecond, progress.bytesPerSecond, limitedBy];
  };
  assert.deepEqual(await shown(), [0, 0, null], 'nothing was told');
  await each({ '': 300, b: 3_000_000_000, l: 10, i: 4 });
  await redis.hset(job, 'startedAt', (second - 20) * 1000);
  assert.deepEqual(await shown(), [300, 3_000_000_000, null]);
  await each({ i: 6 });
  assert.deepEqual(await shown(), [300, 3_000_000_000, 'listing']);
  await redis.del(rate);
  await redis.hset(rate, { [second]: 100, [`b${second}`]: 1000 });
  await redis.hset(job, 'startedAt', second * 1000 + 900);
  let seconds = 0;
  while (seconds < 1) seconds = Number((await redis.time())[0]) - second;
  const [files, bytes] = await shown();
  assert.ok([100, 50, 33.3].includes(Number(files)), `${files} in ${seconds} s`);
  assert.equal(bytes, Math.round(Number(files) * 10));
});
