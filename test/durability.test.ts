import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { openSink, type SinkSpec } from '../src/sinks/index.ts';
import { temporaryFolder } from './helpers/folders.ts';

const storePage = fileURLToPath(new URL('fixtures/store-page.ts', import.meta.url));
const storeList = fileURLToPath(new URL('fixtures/store-list.ts', import.meta.url));
const skip = spawnSync('strace', ['-V']).status === 0 ? false : 'strace is not there';

const sinkPath = 'outer/sink';
/** Those that lead to the sink, and it: they are synced when it is opened. */
const way = ['../..', '..', '', '.gigafetch'];

/** What a script asks the kernel to bring to the disk: paths, in order. */
function syncedBy(...script: string[]): string[] {
  const trace = join(temporaryFolder(), 'trace');
  // -y writes the path of each descriptor.
  execFileSync('strace', ['-f', '-y', '-e', 'trace=fsync,fdatasync', '-o', trace, process.execPath, ...script]);
  const calls = readFileSync(trace, 'utf8').matchAll(/(?:fsync|fdatasync)\(\d+<([^>]*)>/g);
  return [...calls].map(([, path = '']) => path);
}

/** What a page's storing asks the kernel to bring to the disk: paths from the sink on, in order. */
function synced(sink: Omit<SinkSpec, 'path'> & { manifest?: boolean }): string[] {
  const dataDir = temporaryFolder();
  mkdirSync(dataDir, { recursive: true });
  const context = { dataDir, jobId: 'job', workerId: 'worker' };
  const paths = syncedBy(storePage, JSON.stringify({ ...sink, path: sinkPath }), JSON.stringify(context));
  return paths.map((path) => relative(join(dataDir, sinkPath), path));
}

const shards = { shardBytes: 1_048_576, compression: 'none' } as const;
const sinks = [
  { type: 'directory' },
  { type: 'directory', manifest: true },
  { type: 'tar', ...shards },
  { type: 'ndjson', ...shards },
] as const;

for (const sink of sinks) {
  test(`a ${JSON.stringify(sink)} sink syncs nothing unless that is ordered`, { skip }, () => {
    assert.deepEqual(synced({ ...sink, durability: 'process' }), []);
  });
}

test('with durability "power" each file is on the disk before it has its name, and then its folders', { skip }, () => {
  const paths = synced({ type: 'directory', durability: 'power' });
  assert.deepEqual(paths.splice(0, way.length), way);
  const [files, folders] = [paths.slice(0, 21), paths.slice(21)];
  assert.ok(files.every((path) => path.startsWith('.gigafetch/tmp/')));
  assert.deepEqual(new Set(folders), new Set(['', '0', '1']));
});

test('with durability "power" a name that cannot be stored fails alone, not its page', async () => {
  const context = { dataDir: temporaryFolder(), jobId: 'job', workerId: 'worker' };
  const sink = await openSink({ type: 'directory', path: 'sink', durability: 'power' }, context);
  // Its folder's path is longer than the system takes, once that of the sink is before it.
  const long = `${`${'x'.repeat(203)}/`.repeat(20)}file`;
  const link = 'outward/file';
  symlinkSync(tmpdir(), join(context.dataDir, 'sink/outward'));
  const page = sink.page(0, 'nonce', ['a', 'a/b', long, link]);
  page.put('a', Buffer.from('x'));
  assert.throws(() => page.put('a/b', Buffer.from('x')), { reason: 'name_conflict' });
  assert.throws(() => page.put(long, Buffer.from('x')), { reason: 'unsafe_name' });
  assert.throws(() => page.put(link, Buffer.from('x')), { reason: 'sink' });
  await page.finish?.();
  sink.close();
});

test('with durability "power" a manifest is synced too, and the folders it goes to', { skip }, () => {
  const paths = synced({ type: 'directory', durability: 'power', manifest: true });
  const own = '.gigafetch/manifests';
  assert.deepEqual(paths.slice(0, 5), [...way, own]);
  assert.equal(paths.filter((path) => path.startsWith('.gigafetch/tmp/')).length, 22);
  assert.deepEqual(paths.slice(-2), [`${own}/made`, `${own}/job`]);
});

for (const sink of sinks.slice(2)) {
  test(
    `with durability "power" a ${sink.type} shard and its index are synced once, and the folders they go to`,
    { skip },
    () => {
      const paths = synced({ ...sink, durability: 'power' });
      assert.deepEqual(paths.splice(0, way.length), way);
      assert.equal(paths.filter((path) => path.startsWith('.gigafetch/tmp/')).length, 2);
      assert.deepEqual(paths.slice(-2), ['.gigafetch/shards', '']);
    },
  );
}

test(
  "a folder's id and lists of URLs are on the disk, and the way there, before anything relies on them",
  { skip },
  () => {
    const dataDir = temporaryFolder();
    const uuid = /[\da-f]{8}-[\da-f-]{27}/;
    const paths = syncedBy(storeList, dataDir).map((path) => relative(dataDir, path).replace(uuid, 'ID'));
    const id = ['.gigafetch/ID/id', '.gigafetch/folder', '.gigafetch', ''];
    const upload = ['.gigafetch/uploads/ID.part', '.gigafetch/uploads/ID.json', '.gigafetch/uploads', '.gigafetch', ''];
    const uploaded = ['.gigafetch/lists', '.gigafetch', ''];
    const written = ['.gigafetch/lists/written.ID.part', '.gigafetch/lists', '.gigafetch', ''];
    assert.deepEqual(paths, [...id, ...upload, ...uploaded, ...written]);
  },
);
