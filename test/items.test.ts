import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import type { Arbitrary } from 'fast-check';
import { Items } from '../jobs/items.ts';
import { collector } from '../src/memory.ts';
import type { BadItem, SourceFile } from '../src/sources/index.ts';
import { memoryInUse } from './helpers/memory.ts';

const few = fc.stringMatching(/^[a/?]{0,3}$/);
const size = fc.option(fc.nat());
const item: Arbitrary<SourceFile | BadItem> = fc.oneof(
  fc.record({ name: few, origin: few, path: few, sizeBytes: size }, { noNullPrototype: true }),
  fc
    .tuple(few, few, few, few, size)
    .map(([name, origin, before, after, sizeBytes]) => ({ name, origin, path: before + name + after, sizeBytes })),
  fc.record(
    { name: few, url: fc.option(few), bad: fc.constant('bad_item' as const), message: few },
    { noNullPrototype: true },
  ),
);

test('a run gives its items back as they were listed, whatever their URLs have in common', () => {
  fc.assert(
    fc.property(fc.array(fc.array(item)), (pages) => {
      const items = new Items([]);
      for (const page of pages) items.add(page);
      const all = pages.flat();
      const back = Array.from({ length: items.length }, (_, index) => items.at(index));
      assert.deepEqual(back, all);
      assert.equal(items.at(all.length), undefined);
      const names = all.map((item) => ('bad' in item ? null : item.name));
      assert.deepEqual(items.names(), names);
    }),
    { numRuns: 2000 },
  );
});

function pageOf(from: number): SourceFile[] {
  return Array.from({ length: 1000 }, (_, index) => {
    const name = `file-${String(from + index).padStart(11, '0')}`;
    return { name, origin: 'http://127.0.0.1:9', path: `/get/${name}?as=it-is`, sizeBytes: 100 };
  });
}

test('of files whose URLs differ by their names alone a run holds little more than the names', () => {
  const collect = collector();
  const count = 100_000;
  collect();
  const before = memoryInUse();
  const items = new Items([]);
  for (let from = 0; from < count; from += 1000) items.add(pageOf(from));
  collect();
  const bytes = (memoryInUse() - before) / count;
  assert.ok(bytes < 80, `${bytes} bytes a file`);
  assert.equal(items.length, count);
});
