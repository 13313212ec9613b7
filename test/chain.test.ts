import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';
import type { Redis } from 'ioredis';
import { HintConsumer, PageQueue, type Hint } from '../jobs/queue.ts';
import {
  ChainStore,
  TRIES_IN_COMPANY_MAX,
  TRIES_MAX,
  jobKeys,
  keyPrefix,
  sharedKeys,
  type Counts,
  type ListingError,
} from '../jobs/store.ts';
import { readJob } from '../jobs/view.ts';
import { connectRedis } from '../src/redis.ts';
import { jobSpec } from './helpers/job-spec.ts';
import { startTestRedis, type TestRedis } from './helpers/redis.ts';

const keys = jobKeys('j');
let server: TestRedis;
let redis: Redis;
let store: ChainStore;

before(async () => {
  server = await startTestRedis();
  redis = connectRedis(server.url, { patient: true });
  store = new ChainStore(redis);
});

after(async () => {
  redis.disconnect();
  await server.stop();
});

beforeEach(() => redis.flushall());

const notFound: ListingError = {
  reason: 'http_status',
  message: 'the server answered 404',
  statusCode: 404,
  token: 'a',
  atFrontier: true,
};

/** A job `j` (unless named) whose listing begins with the token `a`. */
async function create(changes: { id?: string; cap?: number; maxFailures?: number; path?: string } = {}): Promise<void> {
  const { id = 'j', cap = 4, maxFailures = 1000, path = id } = changes;
  const spec = jobSpec({ sink: { type: 'directory', path, durability: 'process' }, limits: { maxFailures } });
  const created = await store.create({ id, spec, firstToken: 'a', cap, activeJobsMax: 10, idempotency: null });
  assert.deepEqual(created, { kind: 'ok', epoch: 0, seqs: [0] });
}

/** Hands entry `seq` of `j` on: one listing page with two names unless told. */
function advance(
  seq: number,
  nonce: string,
  next: string | null,
  { tokens = ['a'], listed = 2, cap = 4 }: { tokens?: string[]; listed?: number; cap?: number } = {},
) {
  return store.advance('j', seq, nonce, { cap, listed, tokens, next });
}

function commit(seq: number, nonce: string, counts: Counts = { filesListed: 2, filesDownloaded: 2 }, failed = 0) {
  const all = failed === 0 ? counts : { ...counts, filesFailed: failed };
  const failures = Array.from({ length: failed }, (_, index) => `failure ${index}`);
  return store.commit('j', seq, nonce, all, failures);
}

/** Begins, hands on and commits entry `seq` of `j`, by one attempt. */
async function wholePage(seq: number, next: string | null, failed = 0, epoch = 0) {
  const nonce = `whole-${epoch}-${seq}`;
  await store.begin('j', seq, epoch, nonce);
  await advance(seq, nonce, next);
  return commit(seq, nonce, { filesListed: 2, filesDownloaded: 2 - failed }, failed);
}

const record = (id = 'j') => redis.hgetall(jobKeys(id).job);
const inFlight = async () => Object.keys(await redis.hgetall(jobKeys('j').inFlight)).toSorted();

/** Everything in Redis, to see that nothing changed. */
async function contents(): Promise<Record<string, unknown>> {
  const all: Record<string, unknown> = {};
  for (const key of (await redis.keys('*')).toSorted()) {
    const type = await redis.type(key);
    if (type === 'hash') all[key] = await redis.hgetall(key);
    else if (type === 'set') all[key] = (await redis.smembers(key)).toSorted();
    else if (type === 'zset') all[key] = await redis.zrange(key, '0', '-1', 'WITHSCORES');
    else if (type === 'stream') all[key] = await redis.xrange(key, '-', '+');
    else all[key] = type;
  }
  return all;
}

/** Remembers everything in Redis; what it returns goes back to it. */
async function remember(): Promise<() => Promise<void>> {
  const keys = await redis.keys('*');
  const dumps = await Promise.all(keys.map((key) => redis.dumpBuffer(key)));
  return async () => {
    await redis.flushall();
    for (const [index, key] of keys.entries()) await redis.restore(key, 0, dumps[index] ?? '');
  };
}

/** Runs `work` while hints are taken from the queue; `take` gets each. */
async function withQueue(
  take: (hint: Hint) => Promise<void>,
  work: (queue: PageQueue) => Promise<void>,
  onError: (error: Error) => void = () => {},
): Promise<void> {
  const queue = new PageQueue(redis);
  const blocking = connectRedis(server.url, { patient: true });
  const consumer = new HintConsumer(blocking, {
    concurrency: 1,
    lockMs: 10_000,
    take: async (hint) => {
      await take(hint);
      return { kind: 'done' };
    },
    onError,
  });
  try {
    await work(queue);
  } finally {
    await consumer.close(() => {});
    await queue.close();
    blocking.disconnect();
  }
}

test('a hint that is added after its page was committed does not start the chain again from there', async () => {
  await create();
  await wholePage(0, 'b');
  const before = await record();
  const begun = Promise.withResolvers<unknown>();
  await withQueue(
    async (hint) => begun.resolve(await store.begin(hint.job, hint.seq, hint.epoch, 'late')),
    async (queue) => {
      await queue.add('j', { epoch: 0, seqs: [0] });
      assert.deepEqual(await begun.promise, { kind: 'drop' });
    },
  );
  assert.deepEqual(await record(), before);
  assert.deepEqual(await inFlight(), ['1']);
});

test('a page that is run again and hears "end" goes on where it was handed on', async () => {
  await create();
  await store.begin('j', 0, 0, 'first');
  await advance(0, 'first', 'b');
  const again = await store.begin('j', 0, 0, 'again');
  assert.deepEqual(again, { kind: 'go', open: false, tries: 2, tokens: ['a'], parts: [] });
  assert.deepEqual(await advance(0, 'again', null), { kind: 'ok', epoch: 0, seqs: [1] });
  await commit(0, 'again');
  assert.equal((await record())['state'], 'running');
  assert.equal((await record())['listingDone'], undefined);
  assert.deepEqual(await store.begin('j', 1, 0, 'next'), {
    kind: 'go',
    open: true,
    tries: 1,
    tokens: ['b'],
    parts: [],
  });
});

test('a page that is run again and hears another next does not fork the chain or go on after its end', async () => {
  await create();
  await store.begin('j', 0, 0, 'first');
  await advance(0, 'first', 'b');
  await store.begin('j', 0, 0, 'again');
  await advance(0, 'again', 'c');
  await commit(0, 'again');
  assert.deepEqual(await inFlight(), ['1']);
  await store.begin('j', 1, 0, 'first');
  await advance(1, 'first', null, { tokens: ['b'] });
  await store.begin('j', 1, 0, 'again');
  await advance(1, 'again', 'c', { tokens: ['b'] });
  await commit(1, 'again');
  const { state, pagesListed, pagesDone, next } = await record();
  assert.deepEqual(
    { state, pagesListed, pagesDone, next },
    { state: 'completed', pagesListed: '2', pagesDone: '2', next: '2' },
  );
});

test('a run of pages that is begun again has the tokens of its first walk, and counts as many pages', async () => {
  await create();
  await store.begin('j', 0, 0, 'first');
  await advance(0, 'first', 'd', { tokens: ['a', 'b', 'c'], listed: 30 });
  const again = await store.begin('j', 0, 0, 'again');
  assert.deepEqual(again, { kind: 'go', open: false, tries: 2, tokens: ['a', 'b', 'c'], parts: [] });
  await advance(0, 'again', null, { tokens: ['a', 'x'], listed: 20 });
  assert.deepEqual(await redis.hgetall(jobKeys('j').tokens), { 0: '["a","b","c"]', 1: '["d"]' });
  await commit(0, 'again');
  const { pagesListed, pagesDone } = await record();
  assert.deepEqual({ pagesListed, pagesDone }, { pagesListed: '3', pagesDone: '3' });
});

test('a pause between the listing and each later step stops that step, and nothing is counted', async () => {
  await create();
  await store.begin('j', 0, 0, 'n');
  await store.pause('j', 'user', 0);
  const paused = await contents();
  assert.deepEqual(await advance(0, 'n', 'b'), { kind: 'stop' });
  assert.deepEqual(await commit(0, 'n'), { kind: 'stop' });
  assert.deepEqual(await store.listFailed('j', 0, 'n', notFound), { kind: 'stop' });
  assert.deepEqual(await store.begin('j', 0, 0, 'other'), { kind: 'drop' });
  assert.deepEqual(await contents(), paused);
});

test('a pause after the hand-over stops the commit, and resume gives the page and its successor out again', async () => {
  await create();
  await store.begin('j', 0, 0, 'n');
  await advance(0, 'n', 'b');
  await store.pause('j', 'user', 0);
  assert.deepEqual(await commit(0, 'n'), { kind: 'stop' });
  assert.deepEqual(await store.todo('j'), { epoch: 0, seqs: [] });
  const resumed = await store.resume('j');
  assert.deepEqual(new Set(resumed?.seqs), new Set([0, 1]));
  assert.equal(resumed?.epoch, 1);
  assert.deepEqual(await commit(0, 'n'), { kind: 'stop' });
  assert.deepEqual(await store.begin('j', 0, 0, 'old'), { kind: 'drop' });
  assert.equal((await record())['filesDownloaded'], undefined);
});

test('a page that has not been handed on cannot be committed', async () => {
  await create();
  await store.begin('j', 0, 0, 'n');
  assert.deepEqual(await commit(0, 'n'), { kind: 'stop' });
  assert.deepEqual(await inFlight(), ['0']);
});

test('filesListed is what the counted attempt listed, not what was handed on', async () => {
  await create();
  await store.begin('j', 0, 0, 'first');
  await advance(0, 'first', null, { listed: 4 });
  assert.equal((await record())['filesListed'], undefined);
  await store.begin('j', 0, 0, 'again');
  await advance(0, 'again', null, { listed: 3 });
  assert.match((await redis.hget(jobKeys('j').inFlight, '0')) ?? '', / 3$/);
  await commit(0, 'again', { filesListed: 3, filesDownloaded: 3 });
  assert.equal((await record())['filesListed'], '3');
});

test('a page whose listing fails when it is run again keeps its flag and its tokens', async () => {
  await create();
  await store.begin('j', 0, 0, 'first');
  await advance(0, 'first', 'c', { tokens: ['a', 'b'], listed: 20 });
  await store.begin('j', 0, 0, 'again');
  await store.listFailed('j', 0, 'again', { ...notFound, atFrontier: false });
  assert.deepEqual(await redis.hgetall(jobKeys('j').stuck), { 0: 'c 0 - 20' });
  assert.equal(await redis.hget(jobKeys('j').tokens, '0'), '["a","b"]');
  assert.equal((await record())['state'], 'running');
  await wholePage(1, null);
  const { state, error } = await record();
  assert.equal(state, 'failed');
  assert.deepEqual(JSON.parse(error ?? ''), { ...notFound, atFrontier: false });
});

test('a frontier whose listing fails for good ends the listing, and the pages before it are finished first', async () => {
  await create();
  await store.begin('j', 0, 0, 'a');
  await advance(0, 'a', 'b');
  await store.begin('j', 1, 0, 'b');
  await store.listFailed('j', 1, 'b', notFound);
  assert.deepEqual(await redis.hgetall(jobKeys('j').stuck), { 1: 'o 0 - 0' });
  assert.equal((await record())['state'], 'running');
  await commit(0, 'a');
  assert.equal((await record())['state'], 'failed');
  assert.equal((await record())['filesDownloaded'], '2');
});

test('a hint whose page threw can be added again', async () => {
  await create();
  let failed = 0;
  const takenAgain = Promise.withResolvers<void>();
  const reported = Promise.withResolvers<void>();
  await withQueue(
    async () => {
      if (failed === 1) takenAgain.resolve();
      else {
        failed += 1;
        throw new Error('out of luck');
      }
    },
    async (queue) => {
      await queue.add('j', { epoch: 0, seqs: [0] });
      await reported.promise;
      await queue.add('j', { epoch: 0, seqs: [0] });
      await takenAgain.promise;
    },
    () => reported.resolve(),
  );
});

test('hints leave nothing in the queue once they are done, and the same hint twice is one', async () => {
  const taken: number[] = [];
  const last = Promise.withResolvers<void>();
  await withQueue(
    async ({ seq }) => {
      taken.push(seq);
      if (seq === 9) last.resolve();
    },
    async (queue) => {
      // Before the first can be taken: added in one transaction.
      await queue.add('j', { epoch: 0, seqs: [1, 1, 1, 9] });
      await last.promise;
    },
  );
  assert.deepEqual(taken, [1, 9]);
  const left = await redis.keys(`${keyPrefix}:pages:j_*`);
  assert.deepEqual(left, []);
});

test('after Redis went back to an earlier state, an attempt it forgot cannot touch the page of a newer one', async () => {
  await create();
  const goBack = await remember();
  await store.begin('j', 0, 0, 'forgotten');
  await goBack();
  assert.deepEqual(await store.begin('j', 0, 0, 'newer'), {
    kind: 'go',
    open: true,
    tries: 1,
    tokens: ['a'],
    parts: [],
  });
  const before = await contents();
  assert.deepEqual(await advance(0, 'forgotten', 'x'), { kind: 'stop' });
  assert.deepEqual(await commit(0, 'forgotten'), { kind: 'stop' });
  assert.deepEqual(await store.listFailed('j', 0, 'forgotten', notFound), { kind: 'stop' });
  await store.release('j', 0, 'forgotten');
  assert.deepEqual(await contents(), before);
});

test('a commit that is sent again gets "stop", and nothing is deleted or counted', async () => {
  await create();
  await store.begin('j', 0, 0, 'n');
  await advance(0, 'n', 'b');
  assert.deepEqual(await commit(0, 'n', { filesListed: 2, filesDownloaded: 1 }, 1), {
    kind: 'ok',
    epoch: 0,
    seqs: [1],
    state: 'running',
  });
  const before = await contents();
  assert.deepEqual(await commit(0, 'n', { filesListed: 2, filesDownloaded: 1 }, 1), { kind: 'stop' });
  assert.deepEqual(await contents(), before);
});

test('every other operation that is sent again changes nothing and answers the same', async () => {
  await create();
  const begun = await store.begin('j', 0, 0, 'n');
  let before = await contents();
  assert.deepEqual(await store.begin('j', 0, 0, 'n'), begun);
  assert.deepEqual(await contents(), before);
  const advanced = await advance(0, 'n', 'b');
  before = await contents();
  assert.deepEqual(await advance(0, 'n', 'b'), advanced);
  assert.deepEqual(await contents(), before);
  await store.release('j', 0, 'n');
  before = await contents();
  await store.release('j', 0, 'n');
  assert.deepEqual(await contents(), before);
  await store.begin('j', 0, 0, 'm');
  await store.listFailed('j', 0, 'm', notFound);
  before = await contents();
  assert.deepEqual(await store.listFailed('j', 0, 'm', notFound), { kind: 'stop' });
  assert.deepEqual(await contents(), before);
  await store.pause('j', 'user', 0);
  before = await contents();
  assert.equal(await store.pause('j', 'user', 0), false);
  assert.deepEqual(await contents(), before);
  await store.resume('j');
  before = await contents();
  assert.equal(await store.resume('j'), null);
  assert.deepEqual(await contents(), before);
});

test('what Redis acknowledged is there after kill -9: a pause, a count, a final state', async () => {
  await create();
  await create({ id: 'k' });
  await wholePage(0, 'b', 1);
  assert.equal(await store.pause('j', 'user', 0), true);
  await store.begin('k', 0, 0, 'n');
  await store.advance('k', 0, 'n', { cap: 4, listed: 1, tokens: ['a'], next: null });
  await store.commit('k', 0, 'n', { filesListed: 1, filesDownloaded: 1 }, []);
  const acknowledged = await contents();
  await server.kill();
  await server.restart();
  assert.deepEqual(await contents(), acknowledged);
  assert.equal((await record())['state'], 'paused');
  assert.equal((await record('k'))['state'], 'completed');
});

test('begin, pause, resume over and over never poisons a page', async () => {
  await create();
  for (let epoch = 0; epoch < TRIES_MAX + 5; epoch += 1) {
    const begun = await store.begin('j', 0, epoch, `n${epoch}`);
    assert.deepEqual(begun, { kind: 'go', open: true, tries: 1, tokens: ['a'], parts: [] });
    assert.equal(await store.pause('j', 'user', epoch), true);
    assert.deepEqual(await store.resume('j'), { epoch: epoch + 1, seqs: [0] });
  }
});

test('a pause that was meant for an earlier epoch does not undo a resume', async () => {
  await create();
  await store.pause('j', 'user', 0);
  await store.resume('j');
  assert.equal(await store.pause('j', 'max_failures', 0), false);
  const { state, epoch, pausedReason } = await record();
  assert.deepEqual({ state, epoch, pausedReason }, { state: 'running', epoch: '1', pausedReason: undefined });
});

test('a job that reaches maxFailures with its last page ends instead of pausing for ever', async () => {
  await create({ maxFailures: 2 });
  await wholePage(0, null, 2);
  const { state, pausedReason } = await record();
  assert.deepEqual({ state, pausedReason }, { state: 'completed_with_failures', pausedReason: undefined });
  assert.deepEqual(await store.active(), []);
});

test('at maxFailures the job pauses itself, and resume goes on until more files fail', async () => {
  await create({ maxFailures: 2 });
  await wholePage(0, 'b', 1);
  assert.equal((await record())['state'], 'running');
  assert.deepEqual(await wholePage(1, 'c', 1), { kind: 'ok', epoch: 0, seqs: [], state: 'paused' });
  let { state, pausedReason } = await record();
  assert.deepEqual({ state, pausedReason }, { state: 'paused', pausedReason: 'max_failures' });
  assert.deepEqual(await store.todo('j'), { epoch: 0, seqs: [] });
  assert.deepEqual(await store.active(), ['j']);
  assert.deepEqual(await store.resume('j'), { epoch: 1, seqs: [2] });
  assert.deepEqual(await wholePage(2, 'd', 0, 1), { kind: 'ok', epoch: 1, seqs: [3], state: 'running' });
  await wholePage(3, 'e', 1, 1);
  ({ state, pausedReason } = await record());
  assert.deepEqual({ state, pausedReason }, { state: 'paused', pausedReason: 'max_failures' });
  await store.resume('j');
  await wholePage(4, null, 0, 2);
  ({ state, pausedReason } = await record());
  assert.deepEqual({ state, pausedReason }, { state: 'completed_with_failures', pausedReason: undefined });
  assert.equal(await redis.xlen(jobKeys('j').failures), 3);
});

/** The token of a page, counted along the way, of a listing that goes round in a circle after a tail. */
function tokenOf(page: number, tail: number, cycle: number): string {
  const place = page < tail ? page : tail + ((page - tail) % cycle);
  return place === 0 ? 'a' : `t${place}`;
}

for (const [tail, cycle] of [
  [0, 1],
  [0, 2],
  [1, 1],
  [3, 5],
  [10, 7],
  [0, 50],
  [100, 1],
  [64, 64],
] as const) {
  test(`a listing that loops is noticed, in constant memory: ${tail} pages, then ${cycle} in a circle`, async () => {
    await create();
    let fields = 0;
    for (let page = 0; ; page += 1) {
      assert.ok(page < Math.max(3, 3 * (tail + cycle)), 'the loop goes on');
      await store.begin('j', page, 0, 'n');
      const before = await contents();
      const advanced = await advance(page, 'n', tokenOf(page + 1, tail, cycle), {
        tokens: [tokenOf(page, tail, cycle)],
      });
      if (advanced.kind === 'loop') {
        assert.ok(page + 1 >= tail + cycle, 'a page came for the second time');
        assert.deepEqual(await contents(), before, 'nothing was stored');
        return;
      }
      await commit(page, 'n');
      const { length } = Object.keys(await record());
      if (page === 0) fields = length;
      assert.equal(length, fields, 'the record does not grow');
    }
  });
}

test('a loop within a run of pages is noticed too', async () => {
  await create();
  await store.begin('j', 0, 0, 'n');
  assert.deepEqual(await advance(0, 'n', 'e', { tokens: ['a', 'b', 'c', 'b', 'c'] }), { kind: 'loop' });
  assert.deepEqual(await inFlight(), ['0']);
  assert.equal((await record())['pagesListed'], undefined);
});

test('10,000 distinct tokens are no loop', async () => {
  await create();
  const tokens = Array.from({ length: 10_000 }, (_, index) => `token ${index}`);
  const runs: string[][] = [['a']];
  for (let from = 0, length = 1; from < tokens.length; from += length, length = ((length * 7 + 3) % 61) + 1) {
    runs.push(tokens.slice(from, from + length));
  }
  for (const [seq, run] of runs.entries()) {
    await store.begin('j', seq, 0, 'n');
    const advanced = await advance(seq, 'n', runs[seq + 1]?.[0] ?? null, { tokens: run });
    assert.equal(advanced.kind, 'ok');
    await commit(seq, 'n');
  }
  const { state, pagesListed } = await record();
  assert.deepEqual({ state, pagesListed }, { state: 'completed', pagesListed: '10001' });
});

test(`a page is poison when it was begun more than ${TRIES_MAX} times, and not because of attempts given back`, async () => {
  await create();
  for (let attempt = 0; attempt < 3 * TRIES_MAX; attempt += 1) {
    await store.begin('j', 0, 0, `released-${attempt}`);
    await store.release('j', 0, `released-${attempt}`);
  }
  for (let tries = 1; tries <= TRIES_MAX; tries += 1) {
    assert.deepEqual(await store.begin('j', 0, 0, `n${tries}`), {
      kind: 'go',
      open: true,
      tries,
      tokens: ['a'],
      parts: [],
    });
  }
  const poison = { kind: 'poison', open: true, tries: TRIES_MAX + 1, tokens: ['a'], parts: [] };
  assert.deepEqual(await store.begin('j', 0, 0, 'last'), poison);
  assert.equal((await store.listFailed('j', 0, 'last', notFound)).kind, 'ok');
  assert.equal((await record())['state'], 'failed');
});

test('pages that were begun too often together are taken apart, and only the one that kills its workers is poison', async () => {
  await create();
  await store.begin('j', 0, 0, 'n1');
  await advance(0, 'n1', 'd', { tokens: ['a', 'b', 'c'], listed: 30 });
  for (let tries = 2; tries <= TRIES_IN_COMPANY_MAX; tries += 1) {
    const together = { kind: 'go', open: false, tries, tokens: ['a', 'b', 'c'], parts: [] };
    assert.deepEqual(await store.begin('j', 0, 0, `n${tries}`), together);
  }
  const tries = TRIES_IN_COMPANY_MAX + 1;
  const apart = { kind: 'go', open: false, tries, tokens: ['a'], parts: [2, 3] };
  assert.deepEqual(await store.begin('j', 0, 0, `n${tries}`), apart);
  // Whose answer was lost asks again; its sweeper hints at the others.
  assert.deepEqual(await store.begin('j', 0, 0, `n${tries}`), { ...apart, parts: [] });
  assert.deepEqual((await store.todo('j')).seqs.length, 4);

  // Each has the tries they had together, and hands nothing on again.
  assert.deepEqual(await store.begin('j', 2, 0, 'b'), { ...apart, tokens: ['b'], parts: [] });
  await advance(2, 'b', 'x', { tokens: ['b'], listed: 10 });
  await commit(2, 'b');
  await commit(0, `n${tries}`);
  for (let again = tries; again <= TRIES_MAX; again += 1) await store.begin('j', 3, 0, `c${again}`);
  assert.equal((await store.begin('j', 3, 0, 'last')).kind, 'poison');
  await store.listFailed('j', 3, 'last', notFound);
  await wholePage(1, null);
  const { state, pagesListed, pagesDone, next } = await record();
  assert.deepEqual(
    { state, pagesListed, pagesDone, next },
    { state: 'failed', pagesListed: '4', pagesDone: '3', next: '4' },
  );
  assert.deepEqual(await redis.hgetall(jobKeys('j').tokens), { 3: '["c"]' });
});

test('a page that is begun again shows none of the live counts of the attempt before', async () => {
  await create();
  const { live } = jobKeys('j');
  for (const next of ['begin', 'release', 'commit']) {
    await store.begin('j', 0, 0, next);
    await advance(0, next, 'b');
    await redis.hset(live, '0', `${next} {}`);
    if (next === 'release') await store.release('j', 0, next);
    else if (next === 'commit') await commit(0, next);
    else await store.begin('j', 0, 0, 'other');
    assert.equal(await redis.exists(live), 0, next);
  }
});

test('an attempt can only be given back by who has it', async () => {
  await create();
  await store.begin('j', 0, 0, 'old');
  await store.begin('j', 0, 0, 'new');
  await store.release('j', 0, 'old');
  assert.deepEqual(await redis.hget(jobKeys('j').inFlight, '0'), 'o 2 new 0');
});

test('an attempt can be given back while the job is paused', async () => {
  await create();
  await store.begin('j', 0, 0, 'n');
  await store.pause('j', 'user', 0);
  await store.release('j', 0, 'n');
  assert.deepEqual(await redis.hget(jobKeys('j').inFlight, '0'), 'o 0 - 0');
});

test('the final state comes with the last page, once, and nothing changes it afterwards', async () => {
  await create();
  await store.begin('j', 0, 0, 'a');
  await advance(0, 'a', 'b');
  await store.begin('j', 1, 0, 'b');
  await advance(1, 'b', null, { tokens: ['b'] });
  await commit(1, 'b');
  assert.equal((await record())['state'], 'running', 'the listing is done, a page before is not');
  assert.equal((await record())['listingDone'], '1');
  await commit(0, 'a');
  const final = await contents();
  assert.equal((await record())['state'], 'completed');
  await commit(0, 'a');
  await advance(1, 'b', 'c');
  await store.listFailed('j', 1, 'b', notFound);
  await store.release('j', 1, 'b');
  assert.deepEqual(await store.begin('j', 1, 0, 'late'), { kind: 'drop' });
  assert.equal(await store.pause('j', 'user', 0), false);
  assert.equal(await store.resume('j'), null);
  assert.deepEqual(await store.todo('j'), { epoch: 0, seqs: [] });
  assert.deepEqual(await contents(), final);
});

async function filesPerSecond(): Promise<number | undefined> {
  return (await readJob(redis, 'j'))?.job.progress.filesPerSecond;
}

test("a job's speed at its end is the mean of the time for which it ran", async () => {
  const { job } = jobKeys('j');
  const passed = async (seconds: number): Promise<void> => {
    const since = await redis.hget(job, 'runsSince');
    if (since !== null) await redis.hset(job, 'runsSince', Number(since) - seconds * 1000);
  };
  await create();
  await store.begin('j', 0, 0, 'a');
  await passed(100);
  await store.pause('j', 'user', 0);
  await passed(1000);
  await store.resume('j');
  await passed(100);
  await store.begin('j', 0, 1, 'b');
  await advance(0, 'b', null);
  await commit(0, 'b', { filesListed: 10_000, filesDownloaded: 9999 }, 1);
  assert.equal(await filesPerSecond(), 50);
  await passed(1000);
  await store.retry('j', { reason: null, statusCode: null, activeJobsMax: 10 });
  await passed(50);
  await store.cancel('j');
  assert.equal(await filesPerSecond(), 40);
});

test('the first begin starts a queued job, which until then counts as running', async () => {
  await create();
  assert.equal((await record())['state'], 'queued');
  assert.deepEqual(await store.todo('j'), { epoch: 0, seqs: [0] });
  await store.begin('j', 0, 0, 'n');
  const { state, startedAt, createdAt } = await record();
  assert.equal(state, 'running');
  assert.ok(Number(startedAt) >= Number(createdAt));
});

test('not more pages than the cap and the one after are in flight', async () => {
  await create({ cap: 2 });
  let seq = 0;
  for (let hints = [0]; hints.length > 0 && seq < 10; seq += 1) {
    await store.begin('j', seq, 0, `n${seq}`);
    const advanced = await advance(seq, `n${seq}`, `t${seq}`, { cap: 2 });
    hints = advanced.kind === 'ok' ? [...advanced.seqs] : [];
  }
  assert.deepEqual(await inFlight(), ['0', '1', '2']);
  assert.deepEqual(new Set((await store.todo('j')).seqs), new Set([0, 1]), 'the frontier waits');
  assert.deepEqual(await commit(0, 'n0'), { kind: 'ok', epoch: 0, seqs: [2], state: 'running' });
});

test('where the cap was lowered, the frontier waits until enough pages are done', async () => {
  await create();
  for (const seq of [0, 1, 2]) {
    await store.begin('j', seq, 0, 'n');
    await advance(seq, 'n', `t${seq}`, { cap: seq === 2 ? 2 : 4 });
  }
  assert.deepEqual(await commit(0, 'n'), { kind: 'ok', epoch: 0, seqs: [], state: 'running' });
  assert.deepEqual(await commit(1, 'n'), { kind: 'ok', epoch: 0, seqs: [3], state: 'running' });
});

test('two jobs cannot write to one folder, or one into the other, while both are active', async () => {
  await create({ id: 'j', path: 'mirror/a' });
  const at = (path: string) =>
    store.create({
      id: `at ${path}`,
      spec: jobSpec({ sink: { type: 'directory', path, durability: 'process' } }),
      firstToken: 'a',
      cap: 4,
      activeJobsMax: 10,
      idempotency: null,
    });
  const taken = { kind: 'path_in_use', user: 'j' };
  for (const path of ['mirror/a', 'mirror', 'mirror/a/b', 'mirror/a/b/c'])
    assert.deepEqual(await at(path), taken, path);
  assert.deepEqual(await redis.keys('*at mirror*'), []);
  for (const path of ['mirror/ab', 'mirror/a-b', 'mirror/b', 'mirro', 'a', 'mirror2']) {
    assert.equal((await at(path)).kind, 'ok', path);
  }
  await store.begin('j', 0, 0, 'n');
  await advance(0, 'n', null);
  await store.pause('j', 'user', 0);
  assert.deepEqual(await at('mirror/a/b'), taken, 'a paused job keeps its folder');
  await store.resume('j');
  await wholePage(0, null, 0, 1);
  assert.equal((await at('mirror/a/b')).kind, 'ok');
});

test('an idempotency key gives the first job again for the same request, and refuses another', async () => {
  const order = (id: string, key: string, digest: string) =>
    store.create({
      id,
      spec: jobSpec({ sink: { type: 'directory', path: id, durability: 'process' } }),
      firstToken: 'a',
      cap: 4,
      activeJobsMax: 10,
      idempotency: { key, digest },
    });
  assert.equal((await order('j', 'key', 'digest')).kind, 'ok');
  assert.deepEqual(await order('k', 'key', 'digest'), { kind: 'replayed', first: 'j' });
  assert.deepEqual(await order('k', 'key', 'other'), { kind: 'other_request', first: 'j' });
  assert.equal(await redis.exists(jobKeys('k').job), 0);
  assert.equal((await order('k', 'other key', 'digest')).kind, 'ok');
  const seconds = await redis.ttl(`${keyPrefix}:idem:key`);
  assert.ok(seconds > 86_000 && seconds <= 86_400, `24 h, ${seconds} s`);
  await wholePage(0, null);
  assert.deepEqual(await order('l', 'key', 'digest'), { kind: 'replayed', first: 'j' });
  await store.delete('j');
  assert.equal((await order('l', 'key', 'other')).kind, 'ok', 'the key of a deleted job is free');
  assert.deepEqual(await order('m', 'key', 'other'), { kind: 'replayed', first: 'l' });
});

test('a folder in use does not use up the idempotency key', async () => {
  await create();
  const spec = jobSpec({ sink: { type: 'directory', path: 'j', durability: 'process' } });
  const order = { spec, firstToken: 'a', cap: 4, activeJobsMax: 10 };
  const idempotency = { key: 'key', digest: 'digest' };
  assert.equal((await store.create({ ...order, id: 'k', idempotency })).kind, 'path_in_use');
  await wholePage(0, null);
  assert.equal((await store.create({ ...order, id: 'k', idempotency })).kind, 'ok');
});

function orderAsSecond(id: string): ReturnType<ChainStore['create']> {
  const spec = jobSpec({ sink: { type: 'directory', path: id, durability: 'process' } });
  const idempotency = { key: `key of ${id}`, digest: 'digest' };
  return store.create({ id, spec, firstToken: 'a', cap: 4, activeJobsMax: 2, idempotency });
}

test('no more jobs than allowed are active at a time, and one too many leaves nothing behind', async () => {
  await create();
  assert.equal((await orderAsSecond('k')).kind, 'ok');
  assert.deepEqual(await orderAsSecond('l'), { kind: 'full' });
  assert.deepEqual(await redis.keys('*l'), []);
  assert.equal((await orderAsSecond('k')).kind, 'replayed', 'what was accepted before is no further job');
  await wholePage(0, null);
  assert.equal((await orderAsSecond('l')).kind, 'ok', 'a job that is at its end makes room');
});

test('a finished job leaves three keys at most beside the index, and none once it is deleted', async () => {
  await create();
  await wholePage(0, 'b', 1);
  await store.begin('j', 1, 0, 'n');
  assert.equal(await store.delete('j'), 'conflict');
  await store.listFailed('j', 1, 'n', notFound);
  assert.equal((await record())['state'], 'failed');
  const { job, failures, stuck, tokens } = jobKeys('j');
  assert.deepEqual((await redis.keys('*')).toSorted(), [job, failures, stuck, tokens, sharedKeys.jobs].toSorted());
  assert.equal(await redis.hlen(tokens), 1, 'of the page that a retry would list again');
  await create({ id: 'k' });
  assert.equal(await store.delete('j'), 'ok');
  assert.equal(await store.delete('j'), 'unknown');
  assert.deepEqual(await redis.keys('*job:j*'), []);
  assert.deepEqual(await redis.zrange(sharedKeys.jobs, '0', '-1'), ['k']);
});

test('a job without failures leaves its record and its place in the index alone', async () => {
  await create();
  for (let page = 0; page < 50; page += 1) await wholePage(page, page < 49 ? `t${page}` : null);
  assert.equal((await record())['state'], 'completed');
  assert.deepEqual((await redis.keys('*')).toSorted(), [jobKeys('j').job, sharedKeys.jobs].toSorted());
});

test('nothing creates a key for a job that is not there', async () => {
  assert.deepEqual(await store.begin('j', 0, 0, 'n'), { kind: 'drop' });
  assert.deepEqual(await advance(0, 'n', 'b'), { kind: 'stop' });
  assert.deepEqual(await commit(0, 'n'), { kind: 'stop' });
  await store.release('j', 0, 'n');
  assert.deepEqual(await store.listFailed('j', 0, 'n', notFound), { kind: 'stop' });
  assert.equal(await store.pause('j', 'user', 0), false);
  assert.equal(await store.resume('j'), null);
  assert.deepEqual(await store.todo('j'), { epoch: 0, seqs: [] });
  assert.equal(await store.delete('j'), 'unknown');
  assert.equal(await store.order('j'), null);
  assert.equal(await store.cancel('j'), false);
  assert.deepEqual(await store.retry('j', { reason: null, statusCode: null, activeJobsMax: 10 }), { kind: 'conflict' });
  assert.equal(await store.patch('j', { spec: jobSpec(), version: 0 }), 'unknown');
  assert.equal(await store.claim('j', 'folder', '/data on a'), null);
  assert.deepEqual(await redis.keys('*'), []);
});

test("a job's files go to the folder that was said first, whoever says another one later", async () => {
  await create();
  const first = { dataId: 'one', dataDir: '/data on a' };
  assert.deepEqual(await store.claim('j', 'one', '/data on a'), first);
  assert.deepEqual(await store.claim('j', 'two', '/data on b'), first);
  assert.deepEqual(await store.claim('j', 'one', '/mnt on c'), first);
});

test('a job gives back the order it was created with, its secret headers included', async () => {
  const spec = jobSpec({ name: 'mirror', headers: { authorization: 'Bearer x' } });
  await store.create({ id: 'j', spec, firstToken: 'a', cap: 4, activeJobsMax: 10, idempotency: null });
  assert.deepEqual(await store.order('j'), { spec, version: 0 });
  assert.doesNotMatch((await record())['spec'] ?? '', /Bearer/);
});

test('a page may fail with 200,000 files', async () => {
  await create();
  await store.begin('j', 0, 0, 'n');
  await advance(0, 'n', null, { listed: 200_000 });
  const counts = { filesListed: 200_000, filesDownloaded: 0 };
  assert.equal((await commit(0, 'n', counts, 200_000)).kind, 'ok');
  assert.equal(await redis.xlen(jobKeys('j').failures), 200_000);
});

const any = { reason: null, statusCode: null };
const retry = (which: { reason: string | null; statusCode: number | null } = any, activeJobsMax = 10) =>
  store.retry('j', { ...which, activeJobsMax });

test('cancel drops every page, and nothing that comes later changes a thing', async () => {
  await create();
  await store.begin('j', 0, 0, 'n');
  await advance(0, 'n', 'b');
  assert.equal(await store.cancel('j'), true);
  const cancelled = await record();
  assert.equal(cancelled['state'], 'cancelled');
  assert.ok(cancelled['finishedAt']);
  assert.deepEqual(await commit(0, 'n'), { kind: 'stop' });
  assert.deepEqual(await advance(0, 'n', 'c'), { kind: 'stop' });
  assert.deepEqual(await store.begin('j', 1, 0, 'm'), { kind: 'drop' });
  assert.deepEqual((await store.todo('j')).seqs, []);
  assert.equal(await store.cancel('j'), false);
  assert.equal(await store.resume('j'), null);
  assert.deepEqual(await record(), cancelled);
  assert.deepEqual(await store.active(), []);
  assert.equal(await redis.exists(keys.inFlight, keys.tokens, keys.stuck, keys.live, sharedKeys.sinks), 0);
});

test('the paths of jobs that were cancelled with requests in flight do not pile up', async () => {
  const ids = Array.from({ length: 110 }, (_, index) => `cancelled-${index}`);
  for (const id of ids) {
    await create({ id });
    await redis.hset(jobKeys(id).leases, 'worker', `0 0 ${Date.now() + 600_000}`);
    await store.cancel(id);
  }
  await create({ id: 'first' });
  assert.equal(await redis.hlen(sharedKeys.sinks), 111, 'files of theirs may come yet');
  for (const id of ids) await redis.del(jobKeys(id).leases);
  await create({ id: 'second' });
  assert.deepEqual(await redis.hgetall(sharedKeys.sinks), { first: 'first', second: 'second' });
});

test('a paused job and one with a page put aside can be cancelled, a finished one cannot', async () => {
  await create();
  await store.begin('j', 0, 0, 'n');
  await advance(0, 'n', 'b');
  await store.begin('j', 1, 0, 'm');
  await store.listFailed('j', 1, 'm', notFound);
  await store.pause('j', 'user', 0);
  assert.equal(await store.cancel('j'), true);
  assert.equal((await record())['pausedReason'], undefined);
  assert.equal(await redis.exists(keys.inFlight, keys.tokens, keys.stuck), 0);
  await redis.flushall();
  await create();
  await wholePage(0, null);
  assert.equal(await store.cancel('j'), false);
  assert.equal((await record())['state'], 'completed');
});

test('retry goes through the failures that there are, in a chain of its own, and each is counted anew once', async () => {
  await create();
  await wholePage(0, null, 3);
  const before = await record();
  assert.equal(before['state'], 'completed_with_failures');
  const ids = (await redis.xrange(keys.failures, '-', '+')).map(([id]) => id);
  const retried = await retry();
  assert.deepEqual(retried, { kind: 'ok', epoch: 1, seqs: [1] });
  const { state, finishedAt, listingDone } = await record();
  assert.deepEqual([state, finishedAt, listingDone], ['running', undefined, '1']);
  assert.deepEqual(await store.active(), ['j']);
  assert.equal(await redis.hget(sharedKeys.sinks, 'j'), 'j');

  const range = { ...any, after: '0-0', upTo: ids[2]! };
  assert.deepEqual(await store.begin('j', 1, 0, 'n'), { kind: 'drop' }, 'of the epoch before');
  assert.deepEqual(await store.begin('j', 1, 1, 'n'), { kind: 'go', open: true, tries: 1, tokens: [range], parts: [] });
  const own = { ...range, upTo: ids[1]! };
  const rest = { ...range, after: ids[1]! };
  const handOn = () => store.advance('j', 1, 'n', { cap: 4, listed: 0, tokens: [own], next: rest });
  assert.deepEqual(await handOn(), { kind: 'ok', epoch: 1, seqs: [2] });
  assert.deepEqual(await handOn(), { kind: 'ok', epoch: 1, seqs: [2] }, 'sent again');
  const again = await store.begin('j', 1, 1, 'n2');
  assert.deepEqual(
    again,
    { kind: 'go', open: false, tries: 2, tokens: [own], parts: [] },
    'a second try has its part of the range',
  );
  const settle = (counts: Counts, failed: string[], settled: string[], seq: number, nonce: string) =>
    store.commit('j', seq, nonce, counts, failed, settled);
  const one = { filesDownloaded: 1, filesFailed: -1 };
  assert.deepEqual(await settle(one, ['again'], ids.slice(0, 2), 1, 'n'), { kind: 'stop' }, 'overtaken');
  assert.equal((await settle(one, ['again'], ids.slice(0, 2), 1, 'n2')).kind, 'ok');
  assert.equal((await settle(one, ['again'], ids.slice(0, 2), 1, 'n2')).kind, 'stop', 'sent again');
  await store.begin('j', 2, 1, 'm');
  await store.advance('j', 2, 'm', { cap: 4, listed: 0, tokens: [rest], next: null });
  assert.equal((await settle(one, [], ids.slice(2), 2, 'm')).kind, 'ok');
  const end = await record();
  assert.deepEqual(
    [end['state'], end['filesListed'], end['filesFailed'], end['pagesListed'], end['pagesDone']],
    ['completed_with_failures', '2', '1', '1', '1'],
  );
  assert.equal(Number(end['filesDownloaded']) - Number(before['filesDownloaded']), 2);
  assert.deepEqual(
    (await redis.xrange(keys.failures, '-', '+')).map(([, fields]) => fields[1]),
    ['again'],
  );
});

test('retry goes on with a listing from the page where it stood', async () => {
  await create();
  await wholePage(0, 'b');
  await store.begin('j', 1, 0, 'n');
  await store.listFailed('j', 1, 'n', notFound);
  assert.equal((await record())['state'], 'failed');
  assert.deepEqual(await retry(), { kind: 'ok', epoch: 1, seqs: [1] });
  assert.equal((await record())['error'], undefined);
  assert.deepEqual(await store.begin('j', 1, 1, 'm'), { kind: 'go', open: true, tries: 1, tokens: ['b'], parts: [] });
  await advance(1, 'm', null, { tokens: ['b'] });
  await commit(1, 'm');
  assert.equal((await record())['state'], 'completed');
});

test('failures whose page was put aside are not counted twice by the next retry', async () => {
  await create();
  await wholePage(0, null, 1);
  await retry();
  await store.begin('j', 1, 1, 'n');
  await store.listFailed('j', 1, 'n', notFound);
  assert.equal((await record())['state'], 'failed');
  assert.deepEqual(await retry(), { kind: 'ok', epoch: 2, seqs: [2] });
  assert.equal(await redis.hlen(keys.tokens), 1);
});

test('retry is for jobs that failed, has its sink path for itself, and keeps to the most active jobs', async () => {
  await create();
  assert.deepEqual(await retry(), { kind: 'conflict' });
  await wholePage(0, null, 1);
  await create({ id: 'k', path: 'j/below' });
  assert.deepEqual(await retry(), { kind: 'path_in_use', user: 'k' });
  await store.cancel('k');
  assert.deepEqual(await retry(any, 0), { kind: 'full' });
  assert.equal((await record())['state'], 'completed_with_failures');
  assert.equal((await retry()).kind, 'ok');
});

test('an order is changed once for each version that was read, and not where the job will not run again', async () => {
  await create();
  const order = (await store.order('j'))!;
  const spec = jobSpec({ limits: { maxFailures: 7 }, headers: { 'x-key': 'new' } });
  assert.equal(await store.patch('j', { ...order, spec }), 'ok');
  assert.equal(await store.patch('j', { ...order, spec: jobSpec() }), 'changed');
  assert.deepEqual(await store.order('j'), { spec, version: 1 });
  assert.equal((await record())['maxFailures'], '7');
  await wholePage(0, null);
  assert.equal(await store.patch('j', { spec, version: 1 }), 'conflict');
});
