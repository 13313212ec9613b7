import assert from 'node:assert/strict';
import { test } from 'node:test';
import { collector } from '../src/memory.ts';
import type { SinkSpec } from '../src/sinks/index.ts';
import { openSink } from '../src/sinks/index.ts';
import { Checked, openStored } from '../src/sinks/stored.ts';
import { temporaryFolder } from './helpers/folders.ts';
import { memoryInUse } from './helpers/memory.ts';

const FILES = 100_000;
const PAGE = 20_000;
const MORE_BYTES_MAX = 16 << 20;
const body = Buffer.from('"a small document of about a hundred bytes, as there are very many"');

const specs: readonly SinkSpec[] = [
  { type: 'directory', path: 'files', durability: 'process', manifest: true },
  { type: 'tar', path: 'tar', durability: 'process', shardBytes: 67_108_864, compression: 'none' },
  { type: 'ndjson', path: 'ndjson', durability: 'process', shardBytes: 67_108_864, compression: 'zstd' },
];

for (const spec of specs) {
  test(`${spec.type}: 100,000 files are told of and compared with flat memory`, async () => {
    const dataDir = temporaryFolder();
    const sink = await openSink(spec, { dataDir, jobId: 'job', workerId: 'worker' });
    const collect = collector();
    const before = memoryInUse();
    let most = 0;
    const look = (): void => {
      collect();
      most = Math.max(most, memoryInUse() - before);
    };
    // Those of the directory are one file by many names: what is made of each is the same.
    const nameOf = (index: number): string => (spec.type === 'directory' ? `${index % 10}` : `file-${index}`);
    const pages = FILES / PAGE;
    for (let seq = 0; seq < pages; seq += 1) {
      const page = sink.page(seq, 'nonce', []);
      for (let index = 0; index < PAGE; index += 1) {
        page.put(nameOf(seq * PAGE + index), body, { origin: 'http://host', path: `/${index}` });
        if (index % 10_000 === 0) look();
      }
      await page.finish?.();
      assert.ok(await sink.publisher?.publish(seq, 'nonce'));
    }
    sink.close();
    const stored = await openStored(spec, { dataDir, jobId: 'job' });
    let lines = 0;
    let pieces = 0;
    for (let seq = 0; seq < pages; seq += 1) {
      for await (const piece of stored.lines(seq)) {
        lines += piece.toString().split('\n').length - 1;
        pieces += 1;
        if (pieces % 100 === 0) look();
      }
    }
    assert.equal(lines, FILES);
    const checked = new Checked(0, new AbortController().signal);
    for (let seq = 0; seq < pages; seq += 1) {
      for await (const finding of stored.check(seq, checked)) assert.fail(JSON.stringify(finding));
      look();
    }
    assert.deepEqual([checked.filesChecked, checked.filesRight, checked.filesInManifest], [FILES, FILES, FILES]);
    assert.ok(most < MORE_BYTES_MAX, `${most} bytes more`);
  });
}
