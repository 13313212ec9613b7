import { execFileSync } from 'node:child_process';
import { createHash, hash, randomBytes } from 'node:crypto';
import { closeSync, ftruncateSync, mkdirSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import assert from 'node:assert/strict';
import { collector } from '../src/memory.ts';
import { BLOCK_BYTES, BlockFile, type Compression } from '../src/sinks/shards/block-file.ts';
import { shards as shardSinks } from '../src/sinks/shards/index.ts';
import type { ShardSinkSpec } from '../src/sinks/shards/shard-specs.ts';
import { damagedMembers, findMember, readMember } from '../src/sinks/shards/read-shard.ts';
import { tarEnd, TarLayout } from '../src/sinks/shards/tar.ts';
import { byName, decompress } from './conformance/shard-bodies.ts';
import { contents, openPlace, longShardConformance, shardConformance } from './conformance/shard-sink.ts';
import { sealedBody } from './conformance/sealed-body.ts';
import { failsWith, oddNames } from './conformance/sink.ts';
import { filesBelow, temporaryFolder } from './helpers/folders.ts';
import { memoryInUse } from './helpers/memory.ts';
import { openFiles } from './helpers/open-files.ts';

const spec = (type: ShardSinkSpec['type'], compression: Compression = 'none'): ShardSinkSpec => ({
  type,
  path: 'shards/a',
  shardBytes: 67_108_864,
  compression,
  durability: 'process',
});

for (const type of ['tar', 'ndjson'] as const) {
  for (const compression of ['none', 'gzip', 'zstd'] as const) shardConformance(spec(type, compression));
}
for (const sink of [spec('tar'), spec('tar', 'gzip'), spec('ndjson', 'zstd')]) longShardConformance(sink);

/** Whether the program is there; else the test is skipped. */
function has(t: TestContext, program: string): boolean {
  try {
    execFileSync(program, ['--version'], { stdio: 'pipe' });
    return true;
  } catch {
    t.skip(`${program} is not installed`);
    return false;
  }
}

/** Publishes one shard with these bodies; returns its path. */
async function shardOf(t: TestContext, of: ShardSinkSpec, stored: ReadonlyMap<string, Buffer>): Promise<string> {
  const { sink, shards } = await openPlace(t, of);
  const page = sink.page(0, 'nonce', [...stored.keys()]);
  for (const [name, body] of stored) page.put(name, body);
  await page.finish();
  await sink.shards.publish(0, 'nonce');
  return shards().get(0)!;
}

/** Whether this process has the file open. */
function isOpen(path: string): boolean {
  return openFiles(process.pid).includes(path);
}

const noProc = process.platform === 'linux' ? false : 'only Linux tells which files are open';
test('a shard that was checked is closed again', { skip: noProc, timeout: 20_000 }, async (t) => {
  for (const compression of ['none', 'gzip', 'zstd'] as const) {
    const shard = await shardOf(t, spec('tar', compression), new Map([['a', Buffer.from('the only one')]]));
    assert.deepEqual(await Array.fromAsync(damagedMembers(shard)), []);
    while (isOpen(shard)) await setImmediate(undefined, { signal: t.signal });
  }
});

const paxNames = ['é'.repeat(120), `${'ü'.repeat(110)}/`.repeat(12) + 'x', 'n'.repeat(250)];
const tarBodies = new Map<string, Buffer>([...oddNames, ...paxNames].map((name) => [name, Buffer.from(name)]));
tarBodies.set('empty', Buffer.alloc(0)).set('large', sealedBody('large', 1_000_000));

function extracted(dir: string): Map<string, Buffer> {
  return new Map(filesBelow(dir).map((path) => [path, readFileSync(join(dir, path))]));
}

const unzstd: Partial<Record<Compression, string>> = { zstd: 'zstd -dc "$1"' };
// Python has filters since 3.12, and distributions of older ones by their updates.
const python =
  'import sys, tarfile; tar = tarfile.open(fileobj=sys.stdin.buffer, mode="r|*"); ' +
  'tar.extraction_filter = getattr(tarfile, "data_filter", None); tar.extractall(sys.argv[1])';
const extractors: Record<string, string> = {
  tar: 'tar -x --warning=no-timestamp -f - -C "$2"',
  bsdtar: 'bsdtar -x -f - -C "$2"',
  python3: `python3 -c '${python}' "$2"`,
};

for (const [program, extract] of Object.entries(extractors)) {
  for (const compression of ['none', 'gzip', 'zstd'] as const) {
    test(`${program} reads a tar, ${compression}`, async (t) => {
      if (!has(t, program) || (compression === 'zstd' && !has(t, 'zstd'))) return;
      const stored = new Map(tarBodies);
      // It composes letters: two of the names are one to it.
      if (program === 'bsdtar') stored.delete('e\u0301');
      const shard = await shardOf(t, spec('tar', compression), stored);
      const out = temporaryFolder();
      const unpack = compression === 'gzip' ? 'gzip -dc "$1"' : (unzstd[compression] ?? 'cat "$1"');
      const env = { ...process.env, LC_ALL: 'C.UTF-8' };
      execFileSync('sh', ['-c', `${unpack} | ${extract}`, 'sh', shard, out], { env, stdio: 'pipe' });
      assert.deepEqual(byName(extracted(out)), byName(stored));
    });
  }
}

test('a member may be larger than a plain header can say', async (t) => {
  const sizeBytes = 9 * 2 ** 30;
  const file = { buffer: Buffer.alloc(65_536), used: 0 };
  const bodyAt = new TarLayout().head(file, 'large', '', sizeBytes, 1_700_000_000);
  const path = join(temporaryFolder(), 'large.tar');
  const fd = openSync(path, 'w');
  writeSync(fd, file.buffer.subarray(0, bodyAt));
  // A hole: it takes no room.
  ftruncateSync(fd, bodyAt + sizeBytes + tarEnd.length);
  closeSync(fd);
  const list = { tar: ['tar', '-tvf'], bsdtar: ['bsdtar', '-tvf'], python3: ['python3', '-m', 'tarfile', '-v', '-l'] };
  for (const [program, [command = '', ...args]] of Object.entries(list)) {
    await t.test(program, (t) => {
      if (!has(t, program)) return;
      const listed = execFileSync(command, [...args, path], { encoding: 'utf8' }).trim();
      assert.match(listed, new RegExp(` ${sizeBytes} .*large\\s*$`));
    });
  }
});

test('the members of a sample are next to each other, whenever they come', async (t) => {
  const { sink, shards, leftovers } = await openPlace(t, spec('tar'));
  const names = ['a/1.jpg', 'a/1.cls', 'a/2.jpg', 'a/2.cls', 'a/2.json', 'single', 'b/3.txt', 'a/1.late', 'x.a', 'x.b'];
  const page = sink.page(0, 'nonce', names);
  const large = page.open('a/1.jpg');
  page.put('a/2.cls', Buffer.from('2'));
  page.put('a/1.cls', Buffer.from('1'));
  page.put('b/3.txt', Buffer.from('3'));
  large.write(sealedBody('jpg', 100_000));
  page.put('a/2.json', Buffer.from('{}'));
  page.put('single', Buffer.from('s'));
  page.put('a/2.jpg', Buffer.from('j'));
  page.put('x.b', Buffer.from('x.a failed'));
  large.finish();
  page.put('a/1.late', Buffer.from('listed elsewhere'));
  await page.finish();
  await sink.shards.publish(0, 'nonce');
  const stored = await contents('tar', shards().get(0)!);
  const order = ['b/3.txt', 'single', 'a/2.cls', 'a/2.json', 'a/2.jpg', 'a/1.late', 'a/1.cls', 'a/1.jpg', 'x.b'];
  assert.deepEqual([...stored.keys()], order);
  assert.deepEqual(leftovers(), []);
});

test('more than fits in memory of samples that wait for a member goes to files meanwhile', async (t) => {
  const { sink, shards, leftovers } = await openPlace(t, spec('tar'));
  const body = Buffer.alloc(60_000, 'x');
  const keys = Array.from({ length: 200 }, (_, n) => `sample-${n}`);
  const page = sink.page(
    0,
    'nonce',
    keys.flatMap((key) => [`${key}.a`, `${key}.b`]),
  );
  for (const key of keys) page.put(`${key}.a`, body);
  assert.ok(leftovers().length > 30, 'files');
  for (const key of keys) page.put(`${key}.b`, body);
  await page.finish();
  await sink.shards.publish(0, 'nonce');
  const order = [...(await contents('tar', shards().get(0)!)).keys()];
  for (let n = 0; n < order.length; n += 2) assert.equal(order[n]?.slice(0, -2), order[n + 1]?.slice(0, -2));
  assert.deepEqual(leftovers(), []);
});

test('documents stay to the byte, but for line breaks', async (t) => {
  const documents = new Map([
    ['number', '1.0'],
    ['numbers', '[100000000000000000000, -0, 1e2]'],
    ['twice', '{"a":1,"a":2}'],
    ['escapes', '"\\u0000\\ud800 é\u2028"'],
    ['spaces', ' {"a" : [1 ,2]} '],
    ['lines', '{\r\n  "a": 1\n}\n'],
    ['mark', '\ufeff[]'],
  ]);
  const stored = new Map([...documents].map(([name, text]) => [name, Buffer.from(text)]));
  const shard = await shardOf(t, spec('ndjson'), stored);
  const expected = stored.set('lines', Buffer.from('{"a": 1}')).set('mark', Buffer.from('[]'));
  assert.deepEqual(await contents('ndjson', shard), expected);
  assert.equal(readFileSync(shard, 'utf8').split('\n')[0], '{"name":"number","url":"","document":1.0}');
});

test('what is not JSON fails its own document alone', async (t) => {
  const { sink, shards, leftovers } = await openPlace(t, spec('ndjson'));
  const page = sink.page(0, 'nonce', []);
  page.put('good', Buffer.from('1'));
  for (const body of ['', '<html>', '[1', '1 2', '"\n"']) {
    assert.throws(() => page.put('bad', Buffer.from(body)), failsWith('not_json'));
  }
  for (const pieces of [
    ['[1,', '2'],
    ['{"a":', 'x'],
    ['"\xff', '"'],
  ]) {
    const stream = page.open('bad');
    assert.throws(() => {
      for (const piece of pieces) stream.write(Buffer.from(piece, 'latin1'));
      stream.finish();
    }, failsWith('not_json'));
    stream.abort();
  }
  const stream = page.open('streamed');
  for (const piece of ['\ufeff[', '\n 1,', '\n', ' 2]\n']) stream.write(Buffer.from(piece));
  stream.finish();
  assert.equal((await page.finish()).members, 2);
  await sink.shards.publish(0, 'nonce');
  const expected = { good: '1', streamed: '[1,2]' };
  const found = await contents('ndjson', shards().get(0)!);
  assert.deepEqual(Object.fromEntries([...found].map(([name, body]) => [name, body.toString()])), expected);
  assert.deepEqual(leftovers(), []);
});

test('a full disk fails the shard with the words of the system and leaves nothing of it', async (t) => {
  const dataDir = temporaryFolder();
  const small = join(dataDir, 'shards');
  mkdirSync(small);
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', small], { stdio: 'pipe' });
  } catch {
    return t.skip('mounting a small file system is not allowed here');
  }
  t.after(() => execFileSync('umount', ['--lazy', small]));
  for (const compression of ['none', 'gzip'] as const) {
    const { sink, leftovers } = await openPlace(t, spec('tar', compression), dataDir);
    const full = failsWith('sink', /ENOSPC: no space left on device$/);
    const page = sink.page(0, 'full', []);
    const noise = randomBytes(60_000);
    await assert.rejects(async () => {
      for (let n = 0; n < 100; n++) page.put(`${n}`, noise);
      await page.finish();
    }, full);
    await assert.rejects(page.finish(), { reason: 'sink' });
    assert.deepEqual(leftovers(), []);
    const fits = sink.page(0, 'fits', []);
    fits.put('1', noise);
    await fits.finish();
    assert.ok(await sink.shards.publish(0, 'fits'));
  }
});

test('what was swept while a shard was written may be fetched again', async (t) => {
  const { sink, open } = await openPlace(t, spec('tar'));
  const page = sink.page(0, 'nonce', []);
  page.put('file', Buffer.from('x'));
  const sweeper = await open('worker-2');
  sweeper.sweep(new Set());
  await assert.rejects(page.finish(), { reason: 'sink', retryable: true });
  const again = sink.page(0, 'again', []);
  again.put('file', Buffer.from('x'));
  assert.equal((await again.finish()).members, 1);
});

test('blocks pile up no further than other threads compress them, and stay in order', async () => {
  for (const compression of ['gzip', 'zstd'] as const) {
    const path = join(temporaryFolder(), compression === 'gzip' ? 'blocks.gz' : 'blocks.zst');
    const notes: string[] = [];
    const file = new BlockFile(path, compression, (note, fileOffset) => notes.push(`${note} at ${fileOffset}`));
    const whole = createHash('sha256');
    // One for all: what a collection frees of so many may be freed by another thread, some time later.
    const block = Buffer.alloc(BLOCK_BYTES);
    const before = memoryInUse();
    for (let n = 0; n < 200; n++) {
      block.fill(`${n} `);
      whole.update(block);
      file.write(block);
      file.note = `${n}`;
      file.flush();
    }
    collector()();
    const heldBytes = memoryInUse() - before;
    assert.ok(heldBytes < 8 << 20, `${heldBytes} bytes more`);
    await file.finish(false);
    assert.equal(hash('sha256', decompress(path)), whole.digest('hex'));
    const offsets = notes.map((note) => Number(note.split(' at ')[1]));
    assert.deepEqual(
      notes.map((note) => Number.parseInt(note, 10)),
      [...Array(200).keys()],
    );
    assert.deepEqual(
      offsets,
      offsets.toSorted((a, b) => a - b),
    );
  }
});

test('with durability power, shards are written and published as well', async (t) => {
  const { sink, shards } = await openPlace(t, { ...spec('ndjson', 'gzip'), durability: 'power' });
  const page = sink.page(0, 'nonce', []);
  page.put('a', Buffer.from('[]'));
  await page.finish();
  await sink.shards.publish(0, 'nonce');
  assert.deepEqual(await contents('ndjson', shards().get(0)!), new Map([['a', Buffer.from('[]')]]));
});

test('one member of a large shard is read without reading the others', async (t) => {
  const stored = new Map(Array.from({ length: 2000 }, (_, n) => [`${n}`, sealedBody(`${n}`, 900)]));
  for (const compression of ['none', 'zstd'] as const) {
    const shard = await shardOf(t, spec('tar', compression), stored);
    const member = (await findMember(shard, '1999'))!;
    // Nothing before the member's own block is needed.
    const bytes = readFileSync(shard);
    writeFileSync(shard, bytes.fill(0, 0, member.frame ?? member.offset));
    assert.deepEqual(Buffer.concat(await Array.fromAsync(readMember(shard, member))), stored.get('1999'));
  }
});

test('shards cannot be opened outside of DATA_DIR', async () => {
  const context = { dataDir: temporaryFolder(), jobId: 'job', workerId: 'worker' };
  const open = shardSinks.open({ ...spec('tar'), path: '../x' }, context);
  await assert.rejects(open, failsWith('sink', /cannot be the path of a sink/));
});
