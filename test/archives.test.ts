import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { jobKeys, sharedKeys } from '../jobs/store.ts';
import { connectRedis } from '../src/redis.ts';
import type { Job, JobRequest } from '../src/schemas.ts';
import { damagedMembers, readIndex, readMember } from '../src/sinks/shards/read-shard.ts';
import { fileServer, type FileServer } from './helpers/file-server.ts';
import { filesBelow } from './helpers/folders.ts';
import { TestService } from './helpers/service.ts';

const service = new TestService({ PAGE_LOCK_MS: '1000' });
before(() => service.start());
after(() => service.stop());

type Sink = NonNullable<JobRequest['sink']>;

function order(server: FileServer, sink: Sink, more: Partial<JobRequest> = {}): JobRequest {
  return { source: { type: 'listing', url: server.listUrl }, sink, ...more };
}

/** The published shards of a sink, without their indexes. */
function shardsIn(path: string): string[] {
  const root = join(service.dataDir, path);
  return readdirSync(root)
    .filter((name) => /\.(tar|ndjson)(\.gz|\.zst)?$/.test(name))
    .toSorted()
    .map((name) => join(root, name));
}

/** Every member of every shard, read by the index; none twice, none damaged. */
async function membersIn(path: string): Promise<Map<string, Buffer>> {
  const members = new Map<string, Buffer>();
  for (const shard of shardsIn(path)) {
    for await (const member of damagedMembers(shard)) assert.fail(`${member.name} is damaged`);
    for await (const member of readIndex(shard)) {
      assert.ok(!members.has(member.name), `${member.name} is there twice`);
      const pieces: Buffer[] = [];
      for await (const piece of readMember(shard, member)) pieces.push(piece);
      members.set(member.name, Buffer.concat(pieces));
    }
  }
  return members;
}

/** What a finished job's sink keeps for itself and nobody published. */
function leftIn(path: string): string[] {
  return filesBelow(join(service.dataDir, path, '.gigafetch')).filter((name) => name.includes('.tmp'));
}

async function expectAll(server: FileServer, path: string, count: number): Promise<void> {
  const members = await membersIn(path);
  assert.equal(members.size, count);
  for (const [name, body] of members) assert.deepEqual(body, Buffer.from(server.bodyOf(name)), name);
}

test('a shard that was taken away half done is made again, and none of its files counts as failed', async (t) => {
  const server = await fileServer(t, { files: 2_000, pageSize: 1_000 });
  const release = server.hold('/get/1500.bin');
  const { id } = await service.post(order(server, { type: 'tar', path: 'taken' }));
  await service.until(id, ({ progress }) => progress.filesDownloaded === 1_999);
  rmSync(join(service.dataDir, 'taken/.gigafetch/tmp'), { recursive: true });
  release();
  const job = await service.ended(id);
  assert.equal(job.state, 'completed');
  assert.deepEqual([job.progress.filesDownloaded, job.failures], [2_000, {}]);
  await expectAll(server, 'taken', 2_000);
});

test('files lie in shards of about the size that was ordered, each with its index', async (t) => {
  const server = await fileServer(t, { files: 5_000, pageSize: 100 });
  const sink = { type: 'tar', path: 'tar', shardBytes: 1_048_576 } as const;
  const { id } = await service.post(order(server, sink));
  const job = await service.ended(id);
  assert.deepEqual([job.state, job.progress.filesDownloaded, job.progress.pagesDone], ['completed', 5_000, 50]);
  await expectAll(server, 'tar', 5_000);
  const shards = shardsIn('tar');
  assert.ok(shards.length >= 4 && shards.length <= 12, `${shards.length} shards`);
  const listed = execFileSync('tar', ['-tf', shards[0] ?? ''], { encoding: 'utf8' })
    .trim()
    .split('\n');
  assert.ok(listed.length > 300);
  assert.deepEqual(leftIn('tar'), []);
});

test('failures are counted and retried into a shard of their own, and JSON goes to lines', async (t) => {
  const documents = Object.fromEntries(Array.from({ length: 300 }, (_, n) => [`${n}.json`, `{"n": ${n}.0}`]));
  const server = await fileServer(t, { files: { ...documents, 'x.json': 'no JSON' }, pageSize: 50 });
  const restore = server.fault('/get/7.json', { status: 404 });
  const sink = { type: 'ndjson', path: 'lines', compression: 'zstd' } as const;
  const { id } = await service.post(order(server, sink));
  assert.deepEqual((await service.ended(id)).failures, { not_json: 1, http_status: 1 });
  restore();
  await fetch(`${service.url}/jobs/${id}/retry?reason=http_status`, { method: 'POST' });
  const job = await service.ended(id);
  assert.deepEqual([job.failures, job.progress.filesDownloaded], [{ not_json: 1 }, 300]);
  const members = await membersIn('lines');
  assert.equal(members.size, 300);
  for (const [name, body] of members) assert.equal(body.toString(), documents[name]);
});

for (const compression of ['none', 'gzip'] as const) {
  test(`kills of workers and of everything neither lose nor double a member (${compression})`, async (t) => {
    const path = `killed-${compression}`;
    const server = await fileServer(t, { files: 6_000, pageSize: 200, latencyMs: 2 });
    const sink = { type: 'tar', path, shardBytes: 524_288, compression } as const;
    const { id } = await service.post(order(server, sink));
    for (const done of [500, 1_500, 2_500, 3_500]) {
      await service.until(id, ({ state, progress }) => state === 'completed' || progress.filesDownloaded > done);
      if (done !== 2_500) service.kill('worker');
      else {
        service.killAll();
        await service.start();
      }
    }
    const job: Job = await service.ended(id);
    assert.deepEqual([job.state, job.progress.filesDownloaded, job.progress.filesListed], ['completed', 6_000, 6_000]);
    await expectAll(server, path, 6_000);
  });
}

for (const end of ['completed', 'cancelled'] as const) {
  test(`what was counted and is gone before it got its name holds no job up that is to be ${end}`, async (t) => {
    const server = await fileServer(t, { files: 100 });
    const sink = { type: 'tar', path: `gone-${end}` } as const;
    const { id } = await service.post(order(server, sink));
    await service.ended(id);
    for (const shard of shardsIn(sink.path)) rmSync(shard);
    // As it is where Redis lost its latest operations, or the machine its latest files.
    const redis = connectRedis(join(service.stateDir, 'redis/redis.sock'), { patient: true });
    t.after(() => redis.disconnect());
    const { job, inFlight } = jobKeys(id);
    const state = end === 'completed' ? 'running' : end;
    await redis.multi().hset(job, { state }).hset(inFlight, 0, 's 1 n 0').sadd(sharedKeys.active, id).exec();
    await service.until(id, (job) => job.state === end);
    while ((await redis.sismember(sharedKeys.active, id)) === 1) t.signal.throwIfAborted();
    assert.equal((await fetch(`${service.url}/jobs/${id}`, { method: 'DELETE' })).status, 204);
    assert.match(service.output, new RegExp(`"job":"${id}".*is not there any more`));
  });
}

test('a cancelled job leaves whole shards alone', async (t) => {
  const server = await fileServer(t, { files: 20_000, pageSize: 500, latencyMs: 2 });
  const sink = { type: 'tar', path: 'cancelled', shardBytes: 262_144 } as const;
  const { id } = await service.post(order(server, sink));
  await service.until(id, ({ progress }) => progress.pagesDone > 2);
  await fetch(`${service.url}/jobs/${id}/cancel`, { method: 'POST' });
  // Workers let go of a job some seconds after its last page.
  await service.until(id, () => leftIn('cancelled').length === 0);
  const members = await membersIn('cancelled');
  assert.ok(members.size > 0);
  for (const [name, body] of members) assert.deepEqual(body, Buffer.from(server.bodyOf(name)));
  await service.until(id, ({ progress }) => progress.filesDownloaded === members.size);
});
