/** What every sink of shards must do, as tests. */
import { fork } from 'node:child_process';
import { hash, randomInt } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import assert from 'node:assert/strict';
import { collector } from '../../src/memory.ts';
import { shards as shardSinks, type ShardSink } from '../../src/sinks/shards/index.ts';
import type { ShardSinkSpec } from '../../src/sinks/shards/shard-specs.ts';
import {
  damagedMembers,
  findMember,
  indexOf,
  readIndex,
  readMember,
  shardExtension,
} from '../../src/sinks/shards/read-shard.ts';
import type { BodyWriter } from '../../src/sinks/index.ts';
import { temporaryFolder } from '../helpers/folders.ts';
import { memoryInUse } from '../helpers/memory.ts';
import { bodies, byName, decompress } from './shard-bodies.ts';
import { failsWith, oddNames } from './sink.ts';

const rounds = 5;
const from = (name: string) => ({ origin: 'http://host', path: `/get/${encodeURIComponent(name)}` });

/** A sink in a DATA_DIR of its own. */
export async function openPlace(t: TestContext, spec: ShardSinkSpec, dataDir = temporaryFolder()) {
  const open = async (workerId: string): Promise<ShardSink> => {
    const sink = await shardSinks.open(spec, { dataDir, jobId: 'job', workerId });
    t.after(() => sink.close());
    return sink;
  };
  const root = join(dataDir, spec.path);
  const [made, tmp] = [join(root, '.gigafetch/shards'), join(root, '.gigafetch/tmp')];
  return {
    dataDir,
    root,
    made,
    open,
    sink: await open('worker-1'),
    /** The shards, by the numbers of their pages. */
    shards: (): Map<number, string> => shardsIn(root),
    /** Half-done files, and finished ones that are not published. */
    leftovers: (): string[] =>
      [made, ...readdirSync(tmp).map((worker) => join(tmp, worker))].flatMap((dir) =>
        readdirSync(dir).map((name) => join(dir, name)),
      ),
  };
}

function shardsIn(root: string): Map<number, string> {
  const names = readdirSync(root).filter((name) => !name.includes('.index') && name !== '.gigafetch');
  return new Map(names.map((name) => [Number(/^job-(\d{8})\./.exec(name)?.[1]), join(root, name)]));
}

/** What a shard holds; its index must say exactly that. */
export async function contents(type: ShardSinkSpec['type'], shard: string): Promise<Map<string, Buffer>> {
  const bytes = decompress(shard);
  const members = await bodies[type].members(bytes);
  const names = [];
  for await (const member of readIndex(shard)) {
    const body = members.get(member.name);
    assert.ok(body, `${member.name} is in the index alone`);
    assert.deepEqual(bytes.subarray(member.offset, member.offset + member.size), body);
    assert.equal(member.sha256, hash('sha256', body));
    if (type === 'tar') {
      const end = member.offset + member.size;
      const padding = bytes.subarray(end, Math.ceil(end / 512) * 512);
      assert.ok(padding.equals(Buffer.alloc(padding.length)), 'nothing of other members lies in between');
    }
    names.push(member.name);
  }
  assert.deepEqual(names, [...members.keys()]);
  for await (const member of damagedMembers(shard)) assert.fail(`${member.name} is damaged`);
  return members;
}

function stream(to: BodyWriter, body: Buffer, chunkBytes: number): void {
  for (let at = 0; at < body.length; at += chunkBytes) to.write(body.subarray(at, at + chunkBytes));
}

/** Defines the tests for one kind of shards. */
export function shardConformance(spec: ShardSinkSpec): void {
  const kind = `${spec.type}, ${spec.compression}`;
  const { seal } = bodies[spec.type];

  test(`${kind}: what was put and streamed is in the shard, whole, and the index tells where`, async (t) => {
    const { sink, shards, leftovers } = await openPlace(t, spec);
    const page = sink.page(7, 'nonce', []);
    const stored = new Map<string, Buffer>();
    const large = ['large/1', 'large/2'].map((name) => ({
      to: page.open(name, from(name)),
      body: seal(name, 700_000),
    }));
    for (const part of [0, 1, 2]) {
      for (const { to, body } of large) stream(to, body.subarray(part * 300_000, (part + 1) * 300_000), 65_536);
      for (const bytes of [0, 1, 447, 448, 449, 65_536, 300_000]) {
        const name = `put/${part}/${bytes}`;
        stored.set(name, seal(name, bytes));
        page.put(name, stored.get(name)!, from(name));
      }
    }
    for (const [n, { to, body }] of large.entries()) {
      to.finish();
      stored.set(`large/${n + 1}`, body);
    }
    const before = Date.now();
    const { members, bytes } = await page.finish();
    assert.equal(members, stored.size);
    assert.deepEqual([...shards()], [], 'nothing is there before it is published');
    assert.ok(await sink.shards.publish(7, 'nonce'));

    const shard = shards().get(7)!;
    const found = await contents(spec.type, shard);
    assert.deepEqual(byName(found), byName(stored));
    assert.ok(bytes > 0);
    const expected = [...stored.values()].reduce((sum, body) => sum + sink.shards.bytesOf(body.length), 0);
    if (spec.compression === 'none') assert.ok(Math.abs(expected / bytes - 1) < 0.01, `${expected} of ${bytes} bytes`);
    for (const [name, body] of stored) {
      const member = await findMember(shard, name);
      assert.ok(member, name);
      assert.equal(member.url, `http://host/get/${encodeURIComponent(name)}`);
      assert.ok(Math.abs(Date.parse(member.at) - before) < 60_000);
      assert.deepEqual(Buffer.concat(await Array.fromAsync(readMember(shard, member))), body);
    }
    assert.equal(await findMember(shard, 'put'), null);
    assert.deepEqual(leftovers(), []);
  });

  test(`${kind}: bodies that broke off or were given up leave nothing`, async (t) => {
    const { sink, shards, leftovers } = await openPlace(t, spec);
    const page = sink.page(0, 'nonce', []);
    for (const name of ['a', 'b']) {
      const body = page.open(name);
      body.write(seal(name, 100_000).subarray(0, 50_000));
      body.abort();
      body.abort();
      assert.throws(() => body.write(Buffer.from('more')), /./);
    }
    page.put('a', seal('a', 10));
    assert.equal((await page.finish()).members, 1);
    await sink.shards.publish(0, 'nonce');
    assert.deepEqual(await contents(spec.type, shards().get(0)!), new Map([['a', seal('a', 10)]]));
    assert.deepEqual(leftovers(), []);
  });

  test(`${kind}: a page without a file makes no shard`, async (t) => {
    const { sink, root, leftovers } = await openPlace(t, spec);
    assert.deepEqual(await sink.page(0, 'nonce', ['a']).finish(), { members: 0, bytes: 0 });
    assert.equal(await sink.shards.publish(0, 'nonce'), false);
    assert.deepEqual(readdirSync(root), ['.gigafetch']);
    assert.deepEqual(leftovers(), []);
  });

  test(`${kind}: odd and long names are stored to the byte, and members are found by them`, async (t) => {
    const { sink, shards } = await openPlace(t, spec);
    const page = sink.page(0, 'nonce', []);
    const deep = `${'folder/'.repeat(20)}x`;
    const names = [...oddNames, deep, `${'é'.repeat(120)}/`.repeat(16) + 'x', `${'p'.repeat(155)}/${'n'.repeat(100)}`];
    const stored = new Map(names.map((name) => [name, seal(name, 20)]));
    for (const [name, body] of stored) page.put(name, body);
    await page.finish();
    await sink.shards.publish(0, 'nonce');
    const shard = shards().get(0)!;
    assert.deepEqual(await contents(spec.type, shard), stored);
    for (const name of names) assert.equal((await findMember(shard, name))?.name, name);
  });

  test(`${kind}: any worker may publish, again and again, wherever another one was killed`, async (t) => {
    const place = await openPlace(t, spec);
    const other = await place.open('worker-2');
    const make = async (nonce: string): Promise<void> => {
      const page = place.sink.page(0, nonce, []);
      page.put('file', seal(nonce, 10));
      await page.finish();
    };
    const holds = async (nonce: string): Promise<void> => {
      const shard = place.shards().get(0)!;
      assert.deepEqual(await contents(spec.type, shard), new Map([['file', seal(nonce, 10)]]));
      assert.deepEqual(place.leftovers(), []);
    };
    await make('loser');
    await make('winner');
    other.sweep(new Set());
    assert.ok(await other.shards.publish(0, 'winner'));
    await holds('winner');
    assert.ok(await place.sink.shards.publish(0, 'winner'));
    assert.ok(await place.sink.shards.publish(0, 'loser'), 'who comes late changes nothing');
    await holds('winner');

    // As it is after a kill between the two renames, and a worker that comes late to what was before.
    await make('next');
    await place.sink.shards.publish(0, 'winner');
    const index = readdirSync(place.made).find((name) => name.endsWith('.index.tmp'))!;
    renameSync(join(place.made, index), indexOf(place.shards().get(0)!));
    await other.shards.publish(0, 'next');
    await holds('next');
  });

  test(`${kind}: no shard is published without its index`, async (t) => {
    const { sink, root, shards, leftovers } = await openPlace(t, spec);
    const page = sink.page(0, 'nonce', []);
    page.put('file', seal('x', 10));
    await page.finish();
    const shard = join(root, `job-00000000${shardExtension(spec.type, spec.compression)}`);
    mkdirSync(indexOf(shard));
    await assert.rejects(sink.shards.publish(0, 'nonce'), { reason: 'name_conflict' });
    assert.deepEqual([...shards()], []);
    rmSync(indexOf(shard), { recursive: true });
    assert.ok(await sink.shards.publish(0, 'nonce'));
    assert.equal((await contents(spec.type, shards().get(0)!)).size, 1);
    assert.deepEqual(leftovers(), []);
  });

  test(`${kind}: a page that is given up leaves nothing, and takes no more`, async (t) => {
    const { sink, leftovers } = await openPlace(t, spec);
    for (const isFinished of [false, true]) {
      const page = sink.page(0, 'nonce', []);
      for (let n = 0; n < 300; n++) page.put(`${n}`, seal(`${n}`, 5000));
      const open = page.open('open');
      const done = page.open('done');
      done.write(seal('done', 10));
      done.finish();
      if (isFinished) await page.finish();
      page.discard();
      open.abort();
      assert.throws(() => page.put('late', seal('late', 10)), failsWith('sink', /given up/));
      assert.throws(() => page.open('late'), failsWith('sink', /given up/));
      await assert.rejects(page.finish(), failsWith('sink', /given up/));
      assert.deepEqual(leftovers(), []);
    }
    assert.equal(await sink.shards.publish(0, 'nonce'), false);
  });

  test(`${kind}: shards of pages that there are no more go, and what was finished and not published`, async (t) => {
    const { sink, shards, leftovers, root } = await openPlace(t, spec);
    const finish = async (seq: number) => {
      const page = sink.page(seq, 'nonce', []);
      page.put('a', seal('a', 10));
      await page.finish();
    };
    for (const seq of [0, 1, 2, 3]) {
      await finish(seq);
      await sink.shards.publish(seq, 'nonce');
    }
    renameSync(shards().get(3)!, join(root, 'other-00000003.tar'));
    await finish(0);
    sink.shards.remove(1);
    assert.deepEqual([...shards().keys()].filter(Number.isFinite), [0, 2]);
    const remove = sink.shards.leftovers(2);
    await finish(2);
    await sink.shards.publish(2, 'nonce');
    await finish(3);
    remove?.();
    assert.deepEqual([...shards().keys()].filter(Number.isFinite), [0, 2], 'what came to be since stays');
    assert.equal(leftovers().length, 2);
    sink.shards.leftovers(2)?.();
    assert.deepEqual(leftovers(), []);
    assert.equal(sink.shards.leftovers(2), null);
    const left = readdirSync(root).filter((name) => name !== '.gigafetch');
    assert.deepEqual(
      left.toSorted(),
      [shards().get(0)!, indexOf(shards().get(0)!), join(root, 'other-00000003.tar')]
        .map((path) => path.slice(root.length + 1))
        .toSorted(),
    );
  });

  test(`${kind}: a member that was changed on disk is noticed`, async (t) => {
    const { sink, shards } = await openPlace(t, spec);
    for (const seq of [0, 1]) {
      const page = sink.page(seq, 'nonce', []);
      for (const name of ['a', 'b', 'c']) page.put(name, seal(`${seq}${name}`, 100));
      await page.finish();
      await sink.shards.publish(seq, 'nonce');
    }
    renameSync(shards().get(1)!, shards().get(0)!);
    const shard = shards().get(0)!;
    const damaged = (await Array.fromAsync(damagedMembers(shard))).map(({ name }) => name);
    assert.deepEqual(damaged, ['a', 'b', 'c']);
    const member = (await findMember(shard, 'b'))!;
    await assert.rejects(Array.fromAsync(readMember(shard, member)), failsWith('sink', /"b" is damaged/));
    rmSync(shard);
    await assert.rejects(Array.fromAsync(damagedMembers(shard)), { code: 'ENOENT' });
  });
}

/** Defines the tests that take longer. */
export function longShardConformance(spec: ShardSinkSpec): void {
  const kind = `${spec.type}, ${spec.compression}`;
  const { seal, isWhole } = bodies[spec.type];

  test(`${kind}: shards are written with flat memory`, async (t) => {
    const { sink } = await openPlace(t, spec);
    const page = sink.page(0, 'nonce', []);
    const piece = seal('x', 60_000);
    const collect = collector();
    collect();
    const before = memoryInUse();
    let peakBytes = 0;
    const look = (): void => {
      collect();
      peakBytes = Math.max(peakBytes, memoryInUse() - before);
    };
    const large = page.open('large');
    large.write(Buffer.from('"'));
    for (let n = 0; n < 500; n++) {
      page.put(`${n}`, piece);
      large.write(piece.subarray(1, -1));
      if (n % 50 > 0) continue;
      look();
      await new Promise((resolve) => setImmediate(resolve));
    }
    large.write(Buffer.from('"'));
    large.finish();
    const finished = page.finish();
    const timer = setInterval(look, 20);
    t.after(() => clearInterval(timer));
    assert.equal((await finished).members, 501);
    assert.ok(peakBytes < 16 << 20, `${peakBytes} bytes more`);
    page.discard();
  });

  test(`${kind}: a worker killed at any point leaves whole shards, each with its index, and what a sweep removes`, async (t) => {
    const { dataDir, root, made, sink, shards, leftovers } = await openPlace(t, spec);
    let left = 0;
    for (let round = 0; round < rounds; round++) {
      const context = { dataDir, jobId: 'job', workerId: `killed-${round}` };
      const path = fileURLToPath(new URL('shard-child.ts', import.meta.url));
      const child = fork(path, [JSON.stringify(spec), JSON.stringify(context), `${round * 1000}`]);
      const sealed = new Map<number, string>();
      child.on('message', ({ seq, nonce }: { seq: number; nonce: string }) => sealed.set(seq, nonce));
      const ended = once(child, 'close').then(([code]) => assert.notEqual(code, 1, 'the child failed'));
      const reports = randomInt(1, 4);
      for (let n = 0; n < reports; n++) await Promise.race([once(child, 'message'), ended]);
      // The report alone would let every kill fall on the same spot of the child's loop, one of which takes about this.
      const killAt = performance.now() + randomInt(12_000) / 1000;
      while (performance.now() < killAt);
      child.kill('SIGKILL');
      await ended;

      left += leftovers().length;
      for (const [seq, shard] of shards()) {
        assert.ok(existsSync(indexOf(shard)));
        assert.ok(seq < round * 1000 || sealed.has(seq), 'it was sealed before it was published');
      }
      sink.sweep(new Set());
      for (const [seq, nonce] of sealed) assert.ok(await sink.shards.publish(seq, nonce));
      for (const seq of sealed.keys()) {
        const members = await contents(spec.type, shards().get(seq)!);
        assert.equal(members.size, 302);
        for (const [name, body] of members) assert.ok(isWhole(body), `${name} is not whole`);
      }
      // One that was finished, but not sealed, goes when its page is published by another attempt.
      for (const name of readdirSync(made)) {
        const seq = Number(name.slice('job-'.length, 'job-'.length + 8));
        const page = sink.page(seq, 'again', []);
        page.put('file', seal('x', 1));
        await page.finish();
        await sink.shards.publish(seq, 'again');
      }
      assert.deepEqual(leftovers(), []);
    }
    assert.ok(left > 0, 'no kill hit a shard in the making: the test shows nothing');
    const names = readdirSync(root).filter((name) => name.includes('.index'));
    assert.equal(names.length, shards().size);
  });
}
