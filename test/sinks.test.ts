import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import assert from 'node:assert/strict';
import type { FetchError } from '../src/errors.ts';
import type { DirectorySinkSpec } from '../src/sinks/directory.ts';
import type { Found, Sink } from '../src/sinks/index.ts';
import { failsWith, oddNames, openSink, sinkConformance } from './conformance/sink.ts';
import { filesBelow, temporaryFolder } from './helpers/folders.ts';

const spec: DirectorySinkSpec = { type: 'directory', path: 'mirrors/a', durability: 'process' };

for (const [kind, changes] of Object.entries({ directory: {}, 'directory with a manifest': { manifest: true } })) {
  sinkConformance(kind, {
    spec: { ...spec, ...changes },
    stored: (dataDir) => {
      const root = join(dataDir, spec.path);
      const names = filesBelow(root).filter((name) => !name.startsWith('.gigafetch/'));
      return new Map(names.sort().map((name) => [name, readFileSync(join(root, name))]));
    },
    // A manifest in the making is empty still: these pages are not finished.
    leftovers: (dataDir) =>
      filesBelow(join(dataDir, spec.path, '.gigafetch/tmp')).filter(
        (name) => kind === 'directory' || !isEmpty(dataDir, name),
      ),
  });
}

function isEmpty(dataDir: string, name: string): boolean {
  return statSync(join(dataDir, spec.path, '.gigafetch/tmp', name)).size === 0;
}

/** A DATA_DIR with an open sink in it and a folder beside it that nothing may touch. */
async function place(t: TestContext) {
  const dataDir = temporaryFolder();
  const outside = temporaryFolder();
  writeFileSync(join(outside, 'file'), 'outside');
  const { sink, writer } = await openSink(spec, dataDir);
  t.after(() => sink.close());
  return { dataDir, outside, root: join(dataDir, spec.path), writer, sink };
}

/** Mounts a small memory file system, or skips the test where that is not allowed. */
function mountSmall(t: TestContext, dir: string): boolean {
  mkdirSync(dir, { recursive: true });
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', dir], { stdio: 'pipe' });
  } catch {
    t.skip('mounting a small file system is not allowed here');
    return false;
  }
  t.after(() => execFileSync('umount', ['--lazy', dir]));
  return true;
}

/** Lets job-1 have begun at that time; returns the file that says so. */
function begunAt(dataDir: string, seconds: number): string {
  const start = join(dataDir, spec.path, '.gigafetch/job-1.start');
  mkdirSync(join(start, '..'), { recursive: true });
  writeFileSync(start, '');
  utimesSync(start, seconds, seconds);
  return start;
}

/** What the first attempt at a page that lists other names, and a later one, find under a name. */
function foundBy(sink: Sink, name: string): (Found | null)[] {
  return [true, false].map((isFirst) => sink.page(0, 'nonce', ['x', 'y'], isFirst).find(name));
}

/** So many names, of which one is given. */
function names(given: string, at: number, count: number): string[] {
  return Array.from({ length: count }, (_, index) => (index === at ? given : `${index}`));
}

test('in a folder that was empty when the job was begun, the first attempt at a page looks for nothing', async (t) => {
  const { dataDir, root, sink, writer } = await place(t);
  writer.put('a', Buffer.from('a'));
  const ours = { whose: 'ours', sizeBytes: 1 };
  assert.deepEqual(foundBy(sink, 'a'), [null, ours]);
  const other = await openSink(spec, dataDir, { workerId: 'worker-2' });
  t.after(() => other.sink.close());
  assert.deepEqual(foundBy(other.sink, 'a'), [null, ours], 'another worker of the job');
  writeFileSync(join(root, 'later'), '');
  for (const [jobId, whose] of [
    ['job-1', 'ours'],
    ['job-2', 'theirs'],
  ] as const) {
    const { sink: late } = await openSink(spec, dataDir, { jobId, workerId: `${jobId}-3` });
    t.after(() => late.close());
    assert.deepEqual(late.page(0, 'nonce', [], false).find('a'), { whose, sizeBytes: 1 });
    assert.equal(late.page(0, 'nonce', [], true).find('a') === null, jobId === 'job-1');
  }
});

test('an attempt that says that it is the first looks for all names of its page where some are there', async (t) => {
  const { root, sink, writer } = await place(t);
  writer.put('there', Buffer.from('a'));
  symlinkSync('nowhere', join(root, 'link'));
  const looks = (listed: string[]): boolean => sink.page(0, 'nonce', listed, true).find('there') !== null;
  for (const [index, count] of [
    [0, 1],
    [0, 5000],
    [7, 5000],
    [625, 5000],
  ] as const) {
    assert.ok(looks(names('there', index, count)), `${index} of ${count}`);
    assert.ok(looks(names('link', index, count)), `${index} of ${count}`);
  }
  assert.ok(!looks(names('elsewhere', 0, 5000)));
  assert.ok(!looks([]));
});

test('in a folder that had something in it, or may have had, every attempt looks', async (t) => {
  for (const put of [
    (dataDir: string) => begunAt(dataDir, 1_000_000_000),
    (dataDir: string) => mkdirSync(join(dataDir, spec.path, 'folder'), { recursive: true }),
    (dataDir: string) => {
      mkdirSync(join(dataDir, spec.path), { recursive: true });
      symlinkSync('nowhere', join(dataDir, spec.path, 'link'));
    },
  ]) {
    const dataDir = temporaryFolder();
    put(dataDir);
    const { sink, writer } = await openSink(spec, dataDir);
    t.after(() => sink.close());
    writer.put('a', Buffer.from('a'));
    assert.deepEqual(sink.page(0, 'nonce', ['x'], true).find('a'), { whose: 'ours', sizeBytes: 1 });
  }
});

test('links that stay inside the sink are followed', async (t) => {
  const { root, writer } = await place(t);
  writer.put('real/file', Buffer.from('inside'));
  symlinkSync('real', join(root, 'folder'));
  symlinkSync(join(root, 'real/file'), join(root, 'name'));
  assert.deepEqual(writer.find('folder/file'), { whose: 'ours', sizeBytes: 6 });
  assert.deepEqual(writer.find('name'), { whose: 'ours', sizeBytes: 6 });
  writer.put('folder/other', Buffer.from('through the link'));
  assert.equal(readFileSync(join(root, 'real/other'), 'utf8'), 'through the link');
});

test('links that lead out of the sink are refused, and nothing is stored there', async (t) => {
  const { root, outside, writer } = await place(t);
  symlinkSync(outside, join(root, 'out'));
  symlinkSync(join(outside, 'file'), join(root, 'name'));
  mkdirSync(join(root, 'deep'));
  symlinkSync('../../..', join(root, 'deep/up'));
  const refused = failsWith('sink', /is a symbolic link that leads out of the sink/);
  for (const name of ['out/file', 'out/new', 'out/new/new', 'name', 'deep/up/x']) {
    assert.throws(() => writer.find(name), refused, name);
  }
  for (const name of ['out/file', 'out/new', 'out/new/new', 'deep/up/x']) {
    assert.throws(() => writer.put(name, Buffer.from('x')), refused, name);
    assert.throws(() => writer.open(name), refused, name);
  }
  writer.put('name', Buffer.from('in place of the link'));
  assert.deepEqual(filesBelow(outside), ['file']);
  assert.equal(readFileSync(join(outside, 'file'), 'utf8'), 'outside');
});

test('links that lead nowhere or to what the service keeps for itself are refused', async (t) => {
  const { root, writer } = await place(t);
  symlinkSync('nothing', join(root, 'dangling'));
  symlinkSync('loop', join(root, 'loop'));
  symlinkSync('.', join(root, 'self'));
  symlinkSync('.gigafetch/tmp', join(root, 'private'));
  assert.throws(() => writer.find('dangling'), failsWith('sink', /leads nowhere \(ENOENT\)/));
  assert.throws(() => writer.find('loop/x'), failsWith('sink', /leads nowhere \(ELOOP\)/));
  assert.throws(() => writer.find('self/x'), failsWith('sink', /leads to \.gigafetch/));
  assert.throws(() => writer.put('private/x', Buffer.from('x')), failsWith('sink', /leads to \.gigafetch/));
});

test('a sink cannot be opened outside of DATA_DIR, nor in what another sink keeps for itself', async (t) => {
  const { dataDir, outside } = await place(t);
  symlinkSync(outside, join(dataDir, 'out'));
  symlinkSync('mirrors/a/.gigafetch', join(dataDir, 'inside'));
  mkdirSync(join(dataDir, 'linked'));
  symlinkSync(outside, join(dataDir, 'linked/.gigafetch'));
  writeFileSync(join(dataDir, 'file'), '');
  const open = (path: string) => openSink({ type: 'directory', path, durability: 'process' }, dataDir);
  for (const path of ['..', '../x', 'a/../../x', '/tmp', '', 'a//b', 'mirrors/a/.GIGAfetch/x']) {
    await assert.rejects(open(path), failsWith('sink', /cannot be the path of a sink/), path);
  }
  await assert.rejects(open('out'), failsWith('sink', /leads out of DATA_DIR/));
  await assert.rejects(open('out/deeper'), failsWith('sink', /leads out of DATA_DIR/));
  await assert.rejects(open('linked'), failsWith('sink', /leads out of the sink/));
  await assert.rejects(open('file'), failsWith('sink', /cannot be opened: "file" is a file, not a folder/));
  assert.deepEqual(filesBelow(outside), ['file']);
});

test('a full disk fails the file with the words of the system and leaves no half of it', async (t) => {
  const dataDir = temporaryFolder();
  if (!mountSmall(t, join(dataDir, 'small'))) return;
  const { sink, writer } = await openSink({ type: 'directory', path: 'small/a', durability: 'process' }, dataDir);
  t.after(() => sink.close());
  const full = failsWith('sink', /ENOSPC: no space left on device$/);
  const body = Buffer.alloc(100_000, 'x');
  for (let n = 0; n < 10; n++) writer.put(`file-${n}`, body);
  assert.throws(() => writer.put('too-much', body), full);
  const stream = writer.open('too-much');
  assert.throws(() => {
    for (;;) stream.write(body);
  }, full);
  stream.abort();

  const root = join(dataDir, 'small/a');
  const names = filesBelow(root).filter((name) => !/\.(start|empty)$/.test(name));
  assert.deepEqual(
    names.sort(),
    [...Array(10).keys()].map((n) => `file-${n}`),
  );
  for (const name of names) assert.equal(statSync(join(root, name)).size, body.length);
  unlinkSync(join(root, 'file-0'));
  writer.put('fits-again', body);
});

test('a file system that became read-only fails the file with the words of the system', async (t) => {
  const dataDir = temporaryFolder();
  if (!mountSmall(t, join(dataDir, 'small'))) return;
  const { writer } = await openSink({ type: 'directory', path: 'small/a', durability: 'process' }, dataDir);
  execFileSync('mount', ['-o', 'remount,ro', join(dataDir, 'small')]);
  assert.throws(() => writer.put('x', Buffer.from('x')), failsWith('sink', /EROFS: read-only file system$/));
  assert.throws(() => writer.open('folder/x'), failsWith('sink', /EROFS/));
  const open = openSink({ type: 'directory', path: 'small/b', durability: 'process' }, dataDir);
  await assert.rejects(open, failsWith('sink', /"small\/b" cannot be opened: EROFS/));
});

test('lost permission fails the file with the words of the system', async (t) => {
  const { root, writer } = await place(t);
  writer.put('folder/file', Buffer.from('x'));
  chmodSync(join(root, 'folder'), 0o555);
  chmodSync(join(root, '.gigafetch/tmp/worker-1'), 0o777);
  const denied = failsWith('sink', /(EACCES: permission denied|EPERM: operation not permitted)$/);
  const root0 = process.geteuid?.() === 0;
  // Root may do everything: for a moment this process is nobody. Every check on the way is synchronous.
  if (root0) process.seteuid?.(65_534);
  try {
    assert.throws(() => writer.put('folder/other', Buffer.from('x')), denied);
    assert.throws(() => writer.put('folder/below/other', Buffer.from('x')), denied);
  } finally {
    if (root0) process.seteuid?.(0);
    chmodSync(join(root, 'folder'), 0o755);
  }
  writer.put('folder/other', Buffer.from('x'));
  assert.deepEqual(filesBelow(join(root, '.gigafetch/tmp')), []);
});

test('another file system mounted inside the sink is named as the cause', async (t) => {
  const { root, writer } = await place(t);
  if (!mountSmall(t, join(root, 'mounted'))) return;
  const refused = failsWith('sink', /another file system is mounted inside the sink/);
  assert.throws(() => writer.put('mounted/x', Buffer.from('x')), refused);
});

test('folders that were taken away meanwhile are made again', async (t) => {
  const { root, writer } = await place(t);
  writer.put('a/b/1', Buffer.from('1'));
  rmSync(join(root, 'a'), { recursive: true });
  rmSync(join(root, '.gigafetch/tmp'), { recursive: true });
  writer.put('a/b/2', Buffer.from('2'));
  rmSync(join(root, '.gigafetch/tmp'), { recursive: true });
  const stream = writer.open('a/b/3');
  rmSync(join(root, 'a'), { recursive: true });
  stream.finish();
  assert.ok(existsSync(join(root, 'a/b/3')));
});

test('a streamed body that was swept while it came may be fetched again', async (t) => {
  const { dataDir, root, writer } = await place(t);
  const stream = writer.open('large');
  const sweeper = await openSink(spec, dataDir, { workerId: 'worker-2' });
  sweeper.sink.sweep(new Set());
  stream.write(Buffer.from('lost'));
  assert.throws(
    () => stream.finish(),
    (error: FetchError) => error.reason === 'sink' && error.retryable,
  );
  stream.abort();
  assert.ok(!existsSync(join(root, 'large')));
  sweeper.sink.close();
});

test('a path that is too long as a whole is an unsafe name', async (t) => {
  const { writer } = await place(t);
  const name = `${'x'.repeat(200)}/`.repeat(20) + 'x'.repeat(70);
  assert.throws(() => writer.put(name, Buffer.from('x')), failsWith('unsafe_name', /ENAMETOOLONG/));
  const stream = writer.open(name);
  assert.throws(() => stream.finish(), failsWith('unsafe_name', /ENAMETOOLONG/));
  stream.abort();
});

test('opening waits until the clock of the file system is past the begin of the job', async (t) => {
  const dataDir = temporaryFolder();
  const start = begunAt(dataDir, Date.now() / 1000 + 0.1);
  const begunMs = statSync(start).mtimeMs;
  const { sink, writer } = await openSink(spec, dataDir);
  t.after(() => sink.close());
  assert.equal(statSync(start).mtimeMs, begunMs, 'never rewritten');
  writer.put('file', Buffer.from('x'));
  assert.equal(writer.find('file')?.whose, 'ours');
});

test('a file exactly as old as the begin of the job is theirs', async (t) => {
  const dataDir = temporaryFolder();
  const begun = Date.now() / 1000 - 60;
  begunAt(dataDir, begun);
  const { sink, writer } = await openSink(spec, dataDir);
  t.after(() => sink.close());
  for (const [name, seconds] of [
    ['same', begun],
    ['later', begun + 0.001],
  ] as const) {
    writer.put(name, Buffer.from('x'));
    utimesSync(join(dataDir, spec.path, name), seconds, seconds);
  }
  assert.equal(writer.find('same')?.whose, 'theirs');
  assert.equal(writer.find('later')?.whose, 'ours');
});

test('what is not a file is a conflict where a file must be, and put replaces a link without following it', async (t) => {
  const { root, writer } = await place(t);
  execFileSync('mkfifo', [join(root, 'pipe')]);
  assert.throws(() => writer.find('pipe'), failsWith('name_conflict'));
  writer.put('target', Buffer.from('kept'));
  symlinkSync('target', join(root, 'link'));
  writer.put('link', Buffer.from('new'));
  assert.throws(() => readlinkSync(join(root, 'link')));
  assert.equal(readFileSync(join(root, 'target'), 'utf8'), 'kept');
});

test('a note holds for the file it was written about, whoever looks, until that is another', async (t) => {
  const { dataDir, root, writer } = await place(t);
  for (const name of oddNames) {
    writer.note?.(name, 'nothing is there');
    assert.equal(writer.noted?.(name), null);
    writer.put(name, Buffer.from('x'));
    assert.equal(writer.noted?.(name), null);
    writer.note?.(name, `of ${name}`);
  }
  const { sink, writer: later } = await openSink({ ...spec, durability: 'power' }, dataDir, { jobId: 'job-2' });
  t.after(() => sink.close());
  for (const name of oddNames) assert.equal(later.noted?.(name), `of ${name}`);
  assert.deepEqual(filesBelow(join(root, '.gigafetch/tmp')), []);

  const [stored = '', touched = '', longer = '', gone = ''] = oddNames;
  later.put(stored, Buffer.from('y'));
  utimesSync(join(root, touched), 1, 1);
  const { atimeMs, mtimeMs } = statSync(join(root, longer));
  writeFileSync(join(root, longer), 'xx');
  utimesSync(join(root, longer), atimeMs / 1000, mtimeMs / 1000);
  unlinkSync(join(root, gone));
  for (const name of [stored, touched, longer, gone]) assert.equal(later.noted?.(name), null, name);
});

test('a note that is damaged or cannot be written is none', async (t) => {
  const { root, outside, writer } = await place(t);
  const notes = join(root, '.gigafetch/notes');
  for (const damage of ['', '{"sizeBytes":1,', '[]', 'null']) {
    writer.put('file', Buffer.from('x'));
    writer.note?.('file', 'known');
    assert.equal(writer.noted?.('file'), 'known');
    for (const name of filesBelow(notes)) writeFileSync(join(notes, name), damage);
    assert.equal(writer.noted?.('file'), null);
  }
  rmSync(notes, { recursive: true });
  writer.note?.('file', 'known');
  assert.equal(writer.noted?.('file'), 'known', 'its folder was made again');

  for (const inTheWay of [() => writeFileSync(notes, ''), () => symlinkSync(outside, notes)]) {
    rmSync(notes, { recursive: true });
    inTheWay();
    const { sink, writer } = await openSink(spec, join(root, '../..'), { workerId: 'worker-2' });
    t.after(() => sink.close());
    writer.note?.('file', 'known');
    assert.equal(writer.noted?.('file'), null);
  }
  assert.deepEqual(filesBelow(outside), ['file']);
});
