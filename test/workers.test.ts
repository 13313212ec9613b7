import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sharedKeys } from '../jobs/store.ts';
import { beat, holdMs, readWorkers, type WorkerSign } from '../jobs/workers.ts';
import { connectRedis } from '../src/redis.ts';
import { startTestRedis } from './helpers/redis.ts';

function sign(id: string): WorkerSign {
  const said = { host: 'here', pid: 1, startedAt: '', pagesInWork: 0, filesPerSecond: 0, memoryBytes: 0 };
  return { id, ...said, dataId: 'folder', place: null, consumer: id };
}

test('a worker that says nothing is known for as long as it may hold a page', async (t) => {
  const server = await startTestRedis();
  const redis = connectRedis(server.url, { patient: true });
  t.after(async () => {
    redis.disconnect();
    await server.stop();
  });
  const known = async (heardMs?: number) => (await readWorkers(redis, heardMs)).map(({ id }) => id);
  const silentFor = (ms: number) => redis.zincrby(sharedKeys.workers, -ms, 'silent');
  await beat(redis, sign('silent'));
  assert.deepEqual(await known(), ['silent']);
  await silentFor(8_000);
  assert.deepEqual(await known(), []);
  assert.deepEqual(await known(holdMs(10_000)), ['silent']);
  assert.deepEqual(await known(holdMs(1_000)), []);
  await silentFor(80_000);
  const heldMs = holdMs(100_000);
  await beat(redis, sign('other'), {}, heldMs);
  assert.deepEqual((await known(heldMs)).toSorted(), ['other', 'silent']);
  await beat(redis, sign('other'));
  assert.deepEqual(await known(heldMs), ['other']);
});
