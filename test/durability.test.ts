import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { SinkSpec } from '../src/schemas.ts';
import { temporaryFolder } from './helpers/folders.ts';

const storePage = fileURLToPath(new URL('fixtures/store-page.ts', import.meta.url));
const skip = spawnSync('strace', ['-V']).status === 0 ? false : 'strace is not there';

/** What a page's storing asks the kernel to bring to the disk: paths below the sink, in order. */
function synced(sink: Omit<SinkSpec, 'path'>): string[] {
  const dataDir = temporaryFolder();
  mkdirSync(dataDir, { recursive: true });
  const trace = join(temporaryFolder(), 'trace');
  const context = { dataDir, jobId: 'job', workerId: 'worker' };
  const command = [process.execPath, storePage, JSON.stringify({ ...sink, path: 'sink' }), JSON.stringify(context)];
  // -y writes the path of each descriptor.
  execFileSync('strace', ['-f', '-y', '-e', 'trace=fsync,fdatasync', '-o', trace, ...command]);
  const calls = readFileSync(trace, 'utf8').matchAll(/(?:fsync|fdatasync)\(\d+<([^>]*)>/g);
  return [...calls].map(([, path = '']) => path.slice(join(dataDir, 'sink').length + 1));
}

const shards = { shardBytes: 1_048_576, compression: 'none' } as const;
const sinks = [{ type: 'directory' }, { type: 'tar', ...shards }, { type: 'ndjson', ...shards }] as const;

for (const sink of sinks) {
  test(`a ${sink.type} sink syncs nothing unless that is ordered`, { skip }, () => {
    assert.deepEqual(synced({ ...sink, durability: 'process' }), []);
  });
}

test('with durability "power" each file is on the disk before it has its name, and then its folders', { skip }, () => {
  const paths = synced({ type: 'directory', durability: 'power' });
  const [files, folders] = [paths.slice(0, 21), paths.slice(21)];
  assert.ok(files.every((path) => path.startsWith('.gigafetch/tmp/')));
  assert.deepEqual(new Set(folders), new Set(['', '0', '1']));
});

for (const sink of sinks.slice(1)) {
  test(
    `with durability "power" a ${sink.type} shard and its index are synced once, and the folders they go to`,
    { skip },
    () => {
      const paths = synced({ ...sink, durability: 'power' });
      assert.equal(paths.filter((path) => path.startsWith('.gigafetch/tmp/')).length, 2);
      assert.deepEqual(paths.slice(-2), ['.gigafetch/shards', '']);
    },
  );
}
