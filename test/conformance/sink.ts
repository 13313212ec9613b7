/** What every sink must do, as tests. A kind opts in by telling how to look at what it stored. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { randomInt } from 'node:crypto';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import assert from 'node:assert/strict';
import type { FetchError } from '../../src/errors.ts';
import type { SinkSpec } from '../../src/sinks/index.ts';
import { openSink as open, type BodyWriter, type PageWriter, type Sink } from '../../src/sinks/index.ts';
import { temporaryFolder } from '../helpers/folders.ts';
import { memoryInUse } from '../helpers/memory.ts';
import { isSealed, sealedBody } from './sealed-body.ts';

export interface StoredView {
  readonly spec: SinkSpec;
  /** What is stored in that DATA_DIR, by name. */
  stored(dataDir: string): Map<string, Buffer>;
  /** Half-done pieces in that DATA_DIR. */
  leftovers(dataDir: string): string[];
}

const rounds = 20;
export const oddNames = [
  'with space',
  '.hidden',
  '..x',
  'back\\slash',
  '%2e%2e%2F',
  'new\nline',
  'quote"\'`$(x);*?|<>',
  '日本語/🙂',
  'e\u0301',
  '\u00e9',
  '-rf',
  'UPPER',
  'upper',
  'x'.repeat(255),
  `${'é'.repeat(127)}x`,
];

/** A matcher for `assert.throws` and `assert.rejects`: a FetchError of this reason and message, never to be retried. */
export function failsWith(reason: FetchError['reason'], message = /./): (error: FetchError) => true {
  return (error) => {
    assert.equal(error.name, 'FetchError', String(error));
    assert.equal(error.reason, reason, error.message);
    assert.match(error.message, message);
    assert.equal(error.retryable, false);
    return true;
  };
}

/** Opens the sink in a DATA_DIR, closed when the test ends. */
export async function openSink(
  spec: SinkSpec,
  dataDir: string,
  { jobId = 'job-1', workerId = 'worker-1' } = {},
): Promise<{ sink: Sink; writer: PageWriter }> {
  const sink = await open(spec, { dataDir, jobId, workerId });
  return { sink, writer: sink.page(0, 'nonce', []) };
}

function writeAll(writer: BodyWriter, body: Buffer, chunkBytes: number): void {
  for (let at = 0; at < body.length; at += chunkBytes) writer.write(body.subarray(at, at + chunkBytes));
}

/** Defines the tests for one kind of sink. */
export function sinkConformance(kind: string, view: StoredView): void {
  const { spec } = view;

  test(`${kind}: a body that was put is there, whole, also an empty one`, async () => {
    const dataDir = temporaryFolder();
    const { sink, writer } = await openSink(spec, dataDir);
    const bodies = new Map([0, 1, 100, 65_536].map((bytes) => [`a/${bytes}`, sealedBody('x', bytes).subarray(-bytes)]));
    bodies.set('a/0', Buffer.alloc(0));
    for (const [name, body] of bodies) writer.put(name, body);
    sink.close();
    assert.deepEqual(view.stored(dataDir), bodies);
    assert.deepEqual(view.leftovers(dataDir), []);
  });

  test(`${kind}: a streamed body is there, whole, only after finish`, async () => {
    const dataDir = temporaryFolder();
    const { sink, writer } = await openSink(spec, dataDir);
    const body = sealedBody('stream', 300_000);
    const first = writer.open('s/1');
    const second = writer.open('s/2');
    writeAll(first, body, 65_536);
    writer.put('s/3', body);
    writeAll(second, body, 1000);
    assert.deepEqual([...view.stored(dataDir).keys()], ['s/3']);
    first.finish();
    second.finish();
    writer.open('s/empty').finish();
    sink.close();
    const expected = new Map([1, 2, 3].map((n) => [`s/${n}`, body]));
    assert.deepEqual(view.stored(dataDir), expected.set('s/empty', Buffer.alloc(0)));
    assert.deepEqual(view.leftovers(dataDir), []);
  });

  test(`${kind}: an aborted body leaves nothing, and what was there before stays`, async () => {
    const dataDir = temporaryFolder();
    const { sink, writer } = await openSink(spec, dataDir);
    writer.put('kept', Buffer.from('before'));
    for (const name of ['kept', 'new']) {
      const body = writer.open(name);
      body.write(Buffer.from('half'));
      body.abort();
      body.abort();
      assert.throws(() => body.write(Buffer.from('more')), failsWith('sink'));
    }
    sink.close();
    assert.deepEqual(view.stored(dataDir), new Map([['kept', Buffer.from('before')]]));
    assert.deepEqual(view.leftovers(dataDir), []);
  });

  test(`${kind}: storing again replaces what was there`, async () => {
    const dataDir = temporaryFolder();
    const { sink, writer } = await openSink(spec, dataDir);
    writer.put('put', Buffer.from('long before'));
    writer.put('put', Buffer.from('after'));
    writer.put('streamed', Buffer.from('long before'));
    const body = writer.open('streamed');
    body.write(Buffer.from('after'));
    body.finish();
    sink.close();
    const after = Buffer.from('after');
    assert.deepEqual(
      view.stored(dataDir),
      new Map([
        ['put', after],
        ['streamed', after],
      ]),
    );
  });

  test(`${kind}: odd and long names are stored to the byte`, async () => {
    const dataDir = temporaryFolder();
    const { sink, writer } = await openSink(spec, dataDir);
    for (const name of oddNames) {
      assert.equal(writer.find(name), null);
      writer.put(name, Buffer.from(name));
      assert.equal(writer.find(name)?.sizeBytes, Buffer.byteLength(name));
    }
    sink.close();
    assert.deepEqual(view.stored(dataDir), new Map(oddNames.map((name) => [name, Buffer.from(name)])));
  });

  test(`${kind}: what this job stored is ours, on every worker; what another job stored is theirs`, async () => {
    const dataDir = temporaryFolder();
    // No time passes between storing and opening: this is where clock ticks would show.
    for (let n = 0; n < 20; n++) {
      const { sink, writer } = await openSink(spec, dataDir, { jobId: `job-${n}` });
      if (n > 0) assert.deepEqual(writer.find(`file-${n - 1}`), { whose: 'theirs', sizeBytes: 4 });
      assert.equal(writer.find(`file-${n}`), null);
      writer.put(`file-${n}`, Buffer.from('body'));
      assert.deepEqual(writer.find(`file-${n}`), { whose: 'ours', sizeBytes: 4 });
      const other = await openSink(spec, dataDir, { jobId: `job-${n}`, workerId: 'worker-2' });
      assert.deepEqual(other.writer.find(`file-${n}`), { whose: 'ours', sizeBytes: 4 });
      other.sink.close();
      sink.close();
    }
  });

  test(`${kind}: a file where a folder must be, or the reverse, is a name conflict`, async () => {
    const { sink, writer } = await openSink(spec, temporaryFolder());
    writer.put('file', Buffer.from('x'));
    writer.put('folder/file', Buffer.from('x'));
    const conflict = failsWith('name_conflict');
    for (const name of ['file/below', 'file/far/below', 'folder']) {
      assert.throws(() => writer.find(name), conflict);
      assert.throws(() => writer.put(name, Buffer.from('y')), conflict);
      assert.throws(() => {
        const body = writer.open(name);
        try {
          body.finish();
        } finally {
          body.abort();
        }
      }, conflict);
    }
    assert.equal(writer.find('file')?.sizeBytes, 1);
    assert.equal(writer.find('folder/file')?.sizeBytes, 1);
    sink.close();
  });

  test(`${kind}: a large body is streamed with flat memory`, async () => {
    const dataDir = temporaryFolder();
    const { sink, writer } = await openSink(spec, dataDir);
    const chunk = Buffer.alloc(1 << 20, 'x');
    const body = writer.open('large');
    const before = memoryInUse();
    for (let n = 0; n < 128; n++) body.write(chunk);
    const grownBytes = memoryInUse() - before;
    body.finish();
    assert.ok(grownBytes < 16 << 20, `${grownBytes} bytes more`);
    assert.equal(writer.find('large')?.sizeBytes, 128 << 20);
    sink.close();
  });

  test(`${kind}: a worker killed at any point leaves whole files, and leftovers that a sweep removes`, async () => {
    const dataDir = temporaryFolder();
    const { sink } = await openSink(spec, dataDir, { workerId: 'sweeper' });
    let left = 0;
    for (let round = 0; round < rounds; round++) {
      const context = { dataDir, jobId: 'job-1', workerId: `killed-${round}` };
      const path = fileURLToPath(new URL('sink-child.ts', import.meta.url));
      const child = fork(path, [JSON.stringify(spec), JSON.stringify(context), String(round)]);
      const reports = randomInt(1, 8);
      const ended = once(child, 'exit').then(([code]) => assert.notEqual(code, 1, 'the child failed'));
      for (let n = 0; n < reports; n++) await Promise.race([once(child, 'message'), ended]);
      // The report alone would let every kill fall on the same spot of the child's loop, an iteration of which is 4 ms.
      const killAt = performance.now() + randomInt(4000) / 1000;
      while (performance.now() < killAt);
      child.kill('SIGKILL');
      await ended;

      for (const [name, body] of view.stored(dataDir)) assert.ok(isSealed(body), `${name} is not whole`);
      left += view.leftovers(dataDir).length;
      sink.sweep(new Set([context.workerId]));
      sink.sweep(new Set());
      assert.deepEqual(view.leftovers(dataDir), []);
    }
    assert.ok(left > 0, 'no kill hit a file in the making: the test shows nothing');
    sink.close();
  });

  test(`${kind}: a sweep leaves alone what workers that are alive, and this one, have in the making`, async () => {
    const dataDir = temporaryFolder();
    const mine = await openSink(spec, dataDir, { workerId: 'mine' });
    const alive = await openSink(spec, dataDir, { workerId: 'alive' });
    const bodies = [mine, alive].map(({ writer }, n) => writer.open(`body-${n}`));
    mine.sink.sweep(new Set(['alive']));
    for (const body of bodies) {
      body.write(Buffer.from('whole'));
      body.finish();
    }
    assert.deepEqual(view.stored(dataDir), new Map([0, 1].map((n) => [`body-${n}`, Buffer.from('whole')])));
    mine.sink.close();
    alive.sink.close();
    assert.deepEqual(view.leftovers(dataDir), []);
  });
}
