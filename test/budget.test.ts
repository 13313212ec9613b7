import assert from 'node:assert/strict';
import { EventEmitter, on } from 'node:events';
import { after, before, beforeEach, test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { newAttempt, type Attempt } from '../jobs/attempt.ts';
import { Items } from '../jobs/items.ts';
import { JobInWork } from '../jobs/job-in-work.ts';
import { PageFiles } from '../jobs/page-files.ts';
import { pulse, readGoodFile, type PulseRequest } from '../jobs/pulse.ts';
import { START_LATE_MS_MAX, StartTimes } from '../jobs/start-times.ts';
import { ShareCalls } from '../jobs/share-calls.ts';
import { ChainStore, jobKeys } from '../jobs/store.ts';
import { Script, connectRedis } from '../src/redis.ts';
import type { JobSpec } from '../src/schemas.ts';
import { jobSpec } from './helpers/job-spec.ts';
import { recordedFetcher } from './helpers/recorded-fetcher.ts';
import { startTestRedis, type TestRedis } from './helpers/redis.ts';
import { urlFiles } from './helpers/url-files.ts';

let server: TestRedis;
let redis: Redis;
let store: ChainStore;
const script = new Script('pulse.lua', new URL('../jobs/', import.meta.url).href);
const keys = jobKeys('j');

before(async () => {
  server = await startTestRedis();
  redis = connectRedis(server.url, { patient: true });
  store = new ChainStore(redis);
});

after(async () => {
  redis.disconnect();
  await server.stop();
});

beforeEach(async () => {
  await redis.flushall();
  await store.create({ id: 'j', spec: jobSpec(), firstToken: 'a', cap: 4, activeJobsMax: 10, idempotency: null });
});

const quiet: PulseRequest = {
  worker: 'a',
  job: 'j',
  wanted: 0,
  inFlight: 0,
  concurrency: 10,
  leftToListing: 0,
  startsWanted: 0,
  startsPerSecond: 0,
  files: 0,
  bytes: 0,
  origins: {},
  epoch: 0,
  looks: 0,
  idle: 0,
  pages: [],
};

const ask = async (changes: Partial<PulseRequest>) => pulse(redis, { ...quiet, ...changes });

/** As `pulse`, with a lease of its own; only what is granted in flight. */
async function lease(
  worker: string,
  wanted: number,
  inFlight: number,
  concurrency: number,
  leaseMs: number,
  leftToListing = 0,
) {
  const args = [worker, wanted, inFlight, concurrency, leaseMs, 0, 0, 0, 0, '{}', '0 0', 0, leftToListing];
  const answer = await script.run(
    redis,
    [keys.job, keys.inFlight, keys.live, keys.leases, keys.rate, keys.origins],
    args,
  );
  return Number((answer as unknown[])[2]);
}

const MINUTE_MS = 60_000;

/** Asks for each in turn until nothing changes any more, as if all that is granted were in flight at once. */
async function settled(wants: Record<string, number>, concurrency: number): Promise<Record<string, number>> {
  let granted = Object.fromEntries(Object.keys(wants).map((worker) => [worker, 0]));
  for (let round = 0; round < 20; round += 1) {
    const before = granted;
    granted = { ...before };
    for (const [worker, wanted] of Object.entries(wants)) {
      granted[worker] = await lease(worker, wanted, granted[worker] ?? 0, concurrency, MINUTE_MS);
    }
    if (JSON.stringify(before) === JSON.stringify(granted)) return granted;
  }
  throw new Error('the shares do not settle');
}

test('a worker alone gets what it wants, and no more than the limit', async () => {
  assert.equal((await ask({ wanted: 3 })).granted, 3);
  assert.equal((await ask({ wanted: 300 })).granted, 10);
  assert.equal((await ask({ wanted: 0 })).granted, 0);
});

test('workers that all want more get even shares, and what one leaves goes to the others', async () => {
  assert.deepEqual(await settled({ a: 99, b: 99 }, 10), { a: 5, b: 5 });
  assert.deepEqual(await settled({ a: 99, b: 99, c: 99 }, 9), { a: 3, b: 3, c: 3 });
  assert.deepEqual(await settled({ a: 2, b: 99, c: 99 }, 10), { a: 2, b: 4, c: 4 });
  assert.deepEqual(await settled({ a: 2, b: 1, c: 99 }, 10), { a: 2, b: 1, c: 7 });
  assert.deepEqual(await settled({ a: 0, b: 1, c: 99 }, 10), { a: 0, b: 1, c: 9 });
  const odd = await settled({ a: 99, b: 99, c: 99 }, 10);
  assert.deepEqual(
    Object.values(odd).toSorted((a, b) => a - b),
    [3, 3, 4],
  );
});

test('a share that a newcomer is entitled to is free once the requests of the others have ended', async () => {
  assert.equal(await lease('a', 99, 0, 10, MINUTE_MS), 10);
  assert.equal(await lease('b', 99, 0, 10, MINUTE_MS), 0);
  assert.equal(await lease('a', 99, 10, 10, MINUTE_MS), 5, 'it shall let five end');
  assert.equal(await lease('b', 99, 0, 10, MINUTE_MS), 0, 'all ten are still in flight');
  assert.equal(await lease('a', 99, 7, 10, MINUTE_MS), 5);
  assert.equal(await lease('b', 99, 0, 10, MINUTE_MS), 3);
  assert.equal(await lease('a', 99, 5, 10, MINUTE_MS), 5);
  assert.equal(await lease('b', 99, 3, 10, MINUTE_MS), 5);
});

test("a dead worker's share returns when its lease is over, and not before", async () => {
  assert.equal(await lease('dead', 10, 0, 10, 200), 10);
  const heldUntil = Number((await redis.hget(keys.leases, 'dead'))?.split(' ')[2]);
  for (;;) {
    const granted = await lease('b', 10, 0, 10, MINUTE_MS);
    const [seconds, micros] = await redis.time();
    const now = Number(seconds) * 1000 + Number(micros) / 1000;
    assert.ok(now < heldUntil + 10_000, 'the share does not return');
    if (granted === 0) continue;
    assert.equal(granted, 10);
    assert.ok(now >= heldUntil, 'before the lease was over');
    return;
  }
});

/** The same numbers for the same seed. */
function random(seed: number): (below: number) => number {
  let x = Math.imul(seed, 2_654_435_761) | 0;
  return (below) => {
    x = (Math.imul(x, 1_664_525) + 1_013_904_223) | 0;
    return (x >>> 8) % below;
  };
}

interface Worker {
  readonly name: string;
  wanted: number;
  granted: number;
  inFlight: number;
  /** What it told, and was granted but has not heard yet. */
  underway: { granted: number; told: number } | null;
}

test('whatever workers come, go and die, no more requests than the limit are in flight at any moment', async () => {
  for (let seed = 1; seed <= 30; seed += 1) {
    const rnd = random(seed);
    await redis.del(keys.leases);
    const concurrency = 1 + rnd(20);
    let workers: Worker[] = [];
    for (let step = 0; step < 150; step += 1) {
      if (workers.length === 0 || (workers.length < 6 && rnd(10) === 0)) {
        workers.push({ name: `w${step}`, wanted: rnd(30), granted: 0, inFlight: 0, underway: null });
      }
      const worker = workers[rnd(workers.length)] as Worker;
      const may = worker.underway === null ? worker.granted : Math.min(worker.granted, worker.underway.told);
      const what = rnd(10);
      if (what < 4) worker.inFlight += rnd(1 + Math.max(0, may - worker.inFlight));
      else if (what < 6) worker.inFlight -= rnd(1 + worker.inFlight);
      else if (what === 6) worker.wanted = rnd(30);
      else if (worker.underway !== null) {
        worker.granted = worker.underway.granted;
        worker.underway = null;
      } else {
        const dies = rnd(12) === 0;
        // The last sign of one that dies: its share is lost to the others for a moment only.
        const told = worker.inFlight;
        const granted = await lease(
          worker.name,
          Math.max(worker.wanted, told),
          told,
          concurrency,
          dies ? 1 : MINUTE_MS,
          rnd(2),
        );
        if (dies) workers = workers.filter((one) => one !== worker);
        else worker.underway = { granted, told };
      }
      const inFlight = workers.reduce((sum, one) => sum + one.inFlight, 0);
      assert.ok(inFlight <= concurrency, `${inFlight} of ${concurrency} in flight (seed ${seed}, step ${step})`);
    }
    const wants = Object.fromEntries(['x', 'y', 'z'].map((name) => [name, 30]));
    await redis.del(keys.leases);
    const shares = Object.values(await settled(wants, Math.max(3, concurrency)));
    assert.ok(Math.max(...shares) - Math.min(...shares) <= 1, 'even in the end');
    assert.ok(Math.min(...shares) > 0);
  }
});

/** A job on a worker whose requests are written down instead of made. */
function jobOn(redis: Redis, spec: JobSpec, worker = 'me') {
  const { fetcher, started } = recordedFetcher();
  const writer = { find: () => null, put: () => {}, open: () => assert.fail() };
  const job = new JobInWork({
    id: 'j',
    order: { spec, version: 0 },
    sink: { page: () => writer, sweep: () => {}, close: () => {} },
    urlList: urlFiles().of('j'),
    openSink: () => assert.fail(),
    redis,
    fetcher,
    worker,
    lockMs: 10_000,
    pause: () => assert.fail(),
    readOrder: () => assert.fail(),
    workers: () => 2,
    highestPriority: () => 0,
    onProgress: () => {},
    onPulseError: (error) => assert.fail(String(error)),
  });
  return { job, started, writer };
}

/** So many files of a page. */
function listed(count: number): Items {
  const files = Array.from({ length: count }, (_, index) => `${index}`).map((name) => ({
    name,
    origin: 'http://127.0.0.1:9',
    path: `/${name}`,
    sizeBytes: null,
  }));
  return new Items(files);
}

test('a worker that gives its share back does not use it while the answer is on its way', async () => {
  const asked = new EventEmitter();
  let answered: Promise<void> = Promise.resolve();
  const slow = new Proxy(redis, {
    get: (target, name) => {
      if (name !== 'evalsha' && name !== 'eval') return Reflect.get(target, name) as unknown;
      return async (...args: Parameters<Redis['eval']>) => {
        const answer = await target[name](...args);
        asked.emit('pulse', (await redis.hget(keys.leases, 'me'))?.split(' ')[0] ?? '0');
        await answered;
        return answer;
      };
    },
  });
  /** Resolves after the pulse with which this worker holds so many. */
  const holds = async (many: number): Promise<void> => {
    for await (const [held] of on(asked, 'pulse')) if (Number(held) === many) return;
  };
  const { job, started, writer } = jobOn(slow, jobSpec({ limits: { concurrency: 10 } }));
  const items = listed(10);
  const page = async (seq: number): Promise<Attempt> => {
    await store.begin('j', seq, 0, 'n');
    const attempt = newAttempt({ seq, epoch: 0, nonce: 'n', open: true });
    job.begin(attempt);
    void job.fetch(attempt, new PageFiles(job.requests, writer, items));
    return attempt;
  };
  try {
    const granted = holds(10);
    const first = await page(0);
    await granted;
    while (started.length < 10) await setImmediate();
    const gate = Promise.withResolvers<void>();
    answered = gate.promise;
    const givenBack = holds(0);
    for (const handler of started) {
      handler.onBody({ statusCode: 200, headers: {}, body: new Uint8Array(), bytes: 0 });
    }
    job.end(first);
    await givenBack;
    assert.equal((await ask({ worker: 'other', wanted: 10 })).granted, 10);
    await page(0);
    gate.resolve();
    assert.equal(started.length, 10, 'ten of the other worker and these are in flight');
  } finally {
    await job.close();
  }
});

test('who may have lost its pages starts nothing, and still stores what it has received', async () => {
  const { job, started, writer } = jobOn(redis, jobSpec());
  const { requests } = job;
  const attempt = newAttempt({ seq: 0, epoch: 0, nonce: 'n', open: true });
  attempt.files = new PageFiles(requests, writer, listed(1));
  job.begin(attempt);
  const now = performance.now();
  requests.grant(10, now + 5_000, now - 1);
  requests.pump();
  assert.deepEqual([started.length, requests.mayStore], [0, true]);
  requests.grant(10, now + 5_000);
  requests.pump();
  assert.equal(started.length, 1);
  job.end(attempt);
  await job.close();
});

const whole = { statusCode: 200, headers: {}, body: new Uint8Array(), bytes: 0 };

/** Begins a page of 100 files. */
async function hundredFiles({ job, writer }: ReturnType<typeof jobOn>, seq: number): Promise<Attempt> {
  await store.begin('j', seq, 0, `${seq}`);
  const attempt = newAttempt({ seq, epoch: 0, nonce: `${seq}`, open: true });
  job.begin(attempt);
  void job.fetch(attempt, new PageFiles(job.requests, writer, listed(100)));
  return attempt;
}

test('a worker that lacks its share calls for it, and who holds it starts nothing more and tells so soon', async (t) => {
  const on = jobOn(redis, jobSpec({ limits: { concurrency: 10 } }));
  const { job, started } = on;
  const called = Promise.withResolvers<[string, number]>();
  const calls = new ShareCalls(server.url, (id, share) => {
    job.called(share);
    called.resolve([id, share]);
  });
  calls.listen('j');
  while ((await redis.pubsub('NUMSUB', keys.leases))[1] !== 1) await setImmediate();
  const attempt = await hundredFiles(on, 0);
  try {
    while (started.length < 10) await setImmediate();
    const { granted, share } = await ask({ worker: 'other', wanted: 99 });
    assert.deepEqual([granted, share], [0, 5]);
    const timers = t.mock.method(globalThis, 'setTimeout');
    assert.deepEqual(await called.promise, ['j', 5]);
    for (const handler of started.slice(0, 5)) handler.onBody(whole);
    assert.equal(started.length, 10);
    while ((await redis.hget(keys.leases, 'me'))?.startsWith('5 ') !== true) await setImmediate();
    const waits = timers.mock.calls.map(({ arguments: [, delayMs] }) => Number(delayMs));
    assert.ok(
      waits.slice(0, -1).every((ms) => ms <= 20),
      `it waited ${waits.join(', ')} ms`,
    );
    assert.equal((await ask({ worker: 'other', wanted: 99 })).granted, 5);
  } finally {
    calls.close();
    job.end(attempt);
    await job.close();
  }
});

test('while a job is being listed, workers with files leave the last place to whoever lists the next page', async () => {
  const files = { wanted: 99, inFlight: 16, concurrency: 16, leftToListing: 1 };
  assert.equal((await ask({ ...files, inFlight: 0 })).granted, 15);
  const lister = { worker: 'b', wanted: 1, concurrency: 16 };
  assert.deepEqual((({ granted, share }) => [granted, share])(await ask(lister)), [1, 1]);
  assert.equal((await ask({ ...files, inFlight: 15 })).granted, 15, 'nobody took it away');
  assert.equal((await ask({ ...lister, worker: 'c' })).granted, 0, 'it is one place');
  await ask({ ...lister, wanted: 0 });
  await ask({ ...lister, worker: 'c', wanted: 0 });
  await redis.hset(keys.job, 'cap', 0);
  assert.equal((await ask({ ...files, inFlight: 15 })).granted, 16, 'pages enough are in flight');
  await redis.hset(keys.job, { cap: 4, listingDone: '1' });
  assert.equal((await ask({ ...files, inFlight: 15 })).granted, 16);
});

test('who lists the next page makes its request at once, while another worker has files for all there is', async () => {
  const limits = { concurrency: 16 };
  const spec = jobSpec({ limits });
  const [one, other] = [jobOn(redis, spec, 'one'), jobOn(redis, spec, 'other')];
  const calls = redis.duplicate();
  const called: string[] = [];
  calls.on('message', (_channel, share: string) => called.push(share));
  await calls.subscribe(keys.leases);
  const attempt = await hundredFiles(one, 0);
  try {
    while (one.started.length < 15) await setImmediate();
    await store.advance('j', 0, '0', { cap: 4, listed: 100, tokens: ['a'], next: 'b' });
    await store.begin('j', 1, 0, '1');
    const listing = newAttempt({ seq: 1, epoch: 0, nonce: '1', open: true });
    other.job.begin(listing);
    const page = other.job.list(listing, 'http://127.0.0.1:9/list');
    while (other.started.length === 0) await setImmediate();
    other.started[0]?.onBody(whole);
    await page;
    assert.equal(one.started.length, 15);
    await calls.ping();
    assert.deepEqual(called, [], 'nobody had to be asked for a place');
    other.job.end(listing);
  } finally {
    calls.disconnect();
    one.job.end(attempt);
    await Promise.all([one.job.close(), other.job.close()]);
  }
});

test('a worker that lacks its share asks again soon, then more and more seldom', async (t) => {
  assert.equal(await lease('other', 10, 10, 10, MINUTE_MS), 10);
  const on = jobOn(redis, jobSpec({ limits: { concurrency: 10 } }));
  const timers = t.mock.method(globalThis, 'setTimeout');
  const attempt = await hundredFiles(on, 0);
  const pulses = () =>
    timers.mock.calls.map(({ arguments: [, delayMs] }) => Number(delayMs)).filter((ms) => ms > 1 && ms <= 250);
  while (pulses().length < 6) await setImmediate();
  assert.deepEqual(pulses(), [20, 40, 80, 160, 250, 250]);
  on.job.end(attempt);
  await on.job.close();
});

test('who has a page in work and another one ready leaves the next to others, but seldom', async () => {
  const on = jobOn(redis, jobSpec({ limits: { concurrency: 10 } }));
  const { job, started } = on;
  const attempts = [await hundredFiles(on, 0)];
  while (started.length < 10) await setImmediate();
  started[0]?.onBody(whole);
  assert.equal(job.leavesToOthers(), false, 'nothing is ready');
  attempts.push(await hundredFiles(on, 1));
  assert.equal(job.leavesToOthers(), true);
  assert.equal(job.leavesToOthers(), false, 'the others may have as many');
  for (const attempt of attempts) job.end(attempt);
  await job.close();
});

test('a page that is walked does not wait for the regular pulse to list the next', async (t) => {
  const { job, started } = jobOn(redis, jobSpec({ limits: { requestsPerSecond: 1000 } }));
  await store.begin('j', 0, 0, 'n');
  const attempt = newAttempt({ seq: 0, epoch: 0, nonce: 'n', open: true });
  const timers = t.mock.method(globalThis, 'setTimeout');
  try {
    job.begin(attempt);
    for (let page = 1; page <= 20; page += 1) {
      const listed = job.list(attempt, 'http://127.0.0.1:9/list');
      while (started.length < page) await setImmediate();
      started.at(-1)?.onBody({ statusCode: 200, headers: {}, body: new Uint8Array(), bytes: 0 });
      await listed;
    }
    const waits = timers.mock.calls.map(({ arguments: [, delayMs] }) => Number(delayMs));
    assert.ok(waits.filter((ms) => ms <= 20).length >= 19, `it waited ${waits.join(', ')} ms`);
  } finally {
    job.end(attempt);
    await job.close();
  }
});

test('starts are slots 1/rate apart on one time line over all workers, and bounded ahead', async () => {
  for (const rate of [1, 7, 250, 4000]) {
    await redis.del(keys.leases);
    const wants = Math.max(1, Math.ceil(rate * 0.3));
    let last = -Infinity;
    let refused = 0;
    for (let call = 0; refused < 3; call += 1) {
      const worker = `w${call % 4}`;
      const [seconds, micros] = await redis.time();
      const before = Number(seconds) * 1000 + Number(micros) / 1000;
      const { starts, startDelayMs } = await ask({ worker, startsWanted: wants, startsPerSecond: rate });
      const next = Number((await redis.hget(keys.leases, 'nextStart'))?.split(' ')[0]);
      if (starts === 0) {
        refused += 1;
        assert.ok(next - before > 1000 - 50, 'refused although none are handed out far ahead');
        continue;
      }
      assert.equal(starts, wants);
      assert.ok(startDelayMs >= 0 && startDelayMs <= 1000, `${startDelayMs} ms ahead`);
      const first = next - (starts * 1000) / rate;
      assert.ok(first >= before - 0.01, 'a slot in the past');
      assert.ok(first - last >= 1000 / rate - 0.01, `${first - last} ms after the last slot`);
      last = first + ((starts - 1) * 1000) / rate;
      assert.ok(call < 100, 'slots are handed out without end');
    }
  }
});

test('slots are not handed out where there is no rate or nothing to start', async () => {
  assert.equal((await ask({ startsWanted: 5 })).starts, 0);
  assert.equal((await ask({ startsPerSecond: 5 })).starts, 0);
  assert.equal(await redis.hget(keys.leases, 'nextStart'), null);
});

const takes: {
  title: string;
  grants: [now: number, delay: number, count: number, interval: number][];
  at: [number, boolean][];
}[] = [
  { title: 'nothing was granted', grants: [], at: [[0, false]] },
  { title: 'a grant of none', grants: [[0, 0, 0, 10]], at: [[0, false]] },
  {
    title: 'the first is due at once, the next an interval later',
    grants: [[0, 0, 2, 10]],
    at: [
      [0, true],
      [9, false],
      [10, true],
      [99, false],
    ],
  },
  {
    title: 'a delay',
    grants: [[100, 50, 1, 10]],
    at: [
      [149, false],
      [150, true],
      [151, false],
    ],
  },
  {
    title: 'slots a little late are made up for',
    grants: [[0, 0, 3, 10]],
    at: [
      [25, true],
      [25, true],
      [25, true],
      [25, false],
    ],
  },
  {
    title: 'slots long past are lost',
    grants: [[0, 0, 3, 100]],
    at: [
      [249, true],
      [250, false],
    ],
  },
  {
    title: 'a grant long past is lost as a whole, the one after is not',
    grants: [
      [0, 0, 3, 10],
      [500, 0, 1, 10],
    ],
    at: [
      [500, true],
      [500, false],
    ],
  },
  {
    title: 'grants follow each other',
    grants: [
      [0, 0, 1, 10],
      [0, 10, 1, 10],
    ],
    at: [
      [0, true],
      [5, false],
      [10, true],
      [20, false],
    ],
  },
];

for (const { title, grants, at } of takes) {
  test(`start times: ${title}`, () => {
    const times = new StartTimes();
    for (const [now, ...grant] of grants) times.grant(now, now, ...grant);
    for (const [now, taken] of at) assert.equal(times.take(now), taken, `at ${now} ms`);
  });
}

test('start times tell when the next is due and how many are left', () => {
  const times = new StartTimes();
  assert.equal(times.next(), null);
  times.grant(0, 0, 5, 2, 10);
  times.grant(0, 0, 25, 3, 10);
  assert.deepEqual([times.next(), times.left], [5, 5]);
  times.take(5);
  assert.deepEqual([times.next(), times.left], [15, 4]);
});

test('start times are late by no more than START_LATE_MS_MAX from when Redis may have handed them out', () => {
  const times = new StartTimes();
  times.grant(0, START_LATE_MS_MAX - 1, 0, 2, 10);
  assert.equal(times.take(START_LATE_MS_MAX - 2), false, 'Redis may have answered just now');
  assert.equal(times.take(START_LATE_MS_MAX - 1), true);
  times.grant(0, START_LATE_MS_MAX, 1000, 2, 10);
  assert.equal(times.left, 1, 'an answer that took too long is of no use');
});

test('of many workers, too, each gets an even share in the end, and at no moment are more in flight than the limit', async () => {
  const concurrency = 200;
  const wants = new Map(Array.from({ length: 60 }, (_, index) => [`w${index}`, 99]));
  const inFlight = new Map<string, number>();
  /** Asks for all in turn, who then have in flight what they were granted, until it `is` so. */
  const until = async (is: (shares: number[]) => boolean): Promise<void> => {
    do {
      for (const [worker, wanted] of wants) {
        inFlight.set(worker, await lease(worker, wanted, inFlight.get(worker) ?? 0, concurrency, MINUTE_MS));
        const all = [...inFlight.values()].reduce((sum, one) => sum + one, 0);
        assert.ok(all <= concurrency, `${all} in flight`);
      }
    } while (!is([...inFlight.values()]));
  };
  await until((shares) => shares.every((share) => share === 3 || share === 4));
  for (const worker of [...wants.keys()].slice(0, 40)) wants.set(worker, 0);
  await until((shares) => shares.every((share, index) => share === (index < 40 ? 0 : 10)));
});

test('workers tell each other since when an origin is in trouble, until one finds it well or another epoch begins', async () => {
  const origin = 'http://files.example:8080';
  const tell = async (worker: string, troubleMs?: number, epoch = 0): Promise<number | undefined> => {
    const news = troubleMs === undefined ? {} : { [origin]: { troubleMs } };
    return (await ask({ worker, origins: news, epoch })).origins[origin]?.troubleMs;
  };
  assert.equal(await tell('a'), undefined);
  await tell('a', 60_000);
  await tell('b', 10_000);
  assert.ok(((await tell('c')) ?? 0) >= 60_000, 'the longest');
  assert.equal(await tell('d', 0), undefined);
  assert.equal(await tell('c'), undefined);
  await tell('a', 5_000);
  const known = (await tell('b')) ?? 0;
  assert.ok(known >= 5_000 && known < 60_000, 'what was before it was well is forgotten');
  await store.pause('j', 'outage', 0);
  await store.resume('j');
  assert.equal(await tell('a', 20_000, 0), undefined, 'what was learned in another epoch says nothing');
  assert.ok(((await tell('a', 20_000, 1)) ?? 0) >= 20_000);
});

test('workers tell each other since when a URL alone is throttled', async () => {
  const origin = 'http://files.example';
  const news = { [origin]: { throttled: { '/a?b c': 50_000 } } };
  await ask({ origins: news });
  assert.ok(((await ask({ worker: 'b' })).origins[origin]?.throttled?.['/a?b c'] ?? 0) >= 50_000);
  await store.pause('j', 'outage', 0);
  await store.resume('j');
  assert.deepEqual((await ask({ origins: news })).origins, {}, 'each epoch is another chance');
});

test('a file that a worker fetched is there for others to probe with', async () => {
  const origin = 'http://files.example';
  assert.equal(await readGoodFile(redis, 'j', origin), null);
  await ask({ origins: { [origin]: { goodFile: '/a' } } });
  await ask({ worker: 'b', origins: { [origin]: { goodFile: '/b' } } });
  assert.equal(await readGoodFile(redis, 'j', origin), '/a');
  assert.equal((await ask({})).origins[origin], undefined);
});

test('live counts are written by who holds the page alone, and the others are told that they lost it', async () => {
  await store.begin('j', 0, 0, 'mine');
  const told = (nonce: string, counts: Record<string, number> | null, seq = 0) =>
    ask({ pages: [{ seq, nonce, counts }] });
  assert.deepEqual((await told('mine', { filesDownloaded: 3 })).lost, []);
  const written = { 0: 'mine {"filesDownloaded":3}' };
  assert.deepEqual(await redis.hgetall(keys.live), written);
  assert.deepEqual((await told('other', { filesDownloaded: 9 })).lost, [0]);
  assert.deepEqual((await told('mine', null)).lost, []);
  assert.deepEqual((await told('mine', { filesDownloaded: 9 }, 7)).lost, [7]);
  assert.deepEqual(await redis.hgetall(keys.live), written);
  const both = [
    { seq: 0, nonce: 'mine', counts: { filesDownloaded: 4 } },
    { seq: 1, nonce: 'mine', counts: null },
  ];
  assert.deepEqual((await ask({ pages: both })).lost, [1]);
  await store.release('j', 0, 'mine');
  assert.deepEqual((await told('mine', { filesDownloaded: 5 })).lost, [0]);
  assert.deepEqual(await redis.hgetall(keys.live), {});
});

test('a pulse tells state and epoch, also of a paused job, and "gone" of one that is not there', async () => {
  const { state, epoch } = await ask({});
  assert.deepEqual({ state, epoch }, { state: 'queued', epoch: 0 });
  await store.begin('j', 0, 0, 'n');
  await store.pause('j', 'user', 0);
  assert.equal((await ask({})).state, 'paused');
  await store.resume('j');
  assert.deepEqual((await ask({})).epoch, 1);
  const before = (await redis.keys('*')).toSorted();
  const pages = [{ seq: 0, nonce: 'n', counts: { filesDownloaded: 1 } }];
  const all = { wanted: 9, startsWanted: 9, startsPerSecond: 9, files: 9, bytes: 9, pages };
  const gone = await ask({ job: 'no such job', ...all });
  assert.deepEqual([gone.state, gone.granted, gone.starts], ['gone', 0, 0]);
  assert.deepEqual((await redis.keys('*')).toSorted(), before, 'a key was made for a job that is not there');
});

test('finished files and bytes are summed up by second over all workers, in a key that goes by itself', async () => {
  await ask({ worker: 'a', files: 3, bytes: 300 });
  await ask({ worker: 'b', files: 4, bytes: 400 });
  await ask({ worker: 'c', files: 0, bytes: 0 });
  let [files, bytes] = [0, 0];
  for (const [field, value] of Object.entries(await redis.hgetall(keys.rate))) {
    if (field.startsWith('b')) bytes += Number(value);
    else files += Number(value);
  }
  assert.deepEqual([files, bytes], [7, 700]);
  assert.ok((await redis.ttl(keys.rate)) > 0);
});

test('the leases and rates of a job go with it, but stay for a while where a worker may be at work', async () => {
  await store.begin('j', 0, 0, 'n');
  await ask({ wanted: 5, startsWanted: 1, startsPerSecond: 1, files: 1, bytes: 1 });
  await store.advance('j', 0, 'n', { cap: 4, listed: 0, tokens: ['a'], next: null });
  await store.commit('j', 0, 'n', {}, []);
  assert.equal(await redis.exists(keys.leases, keys.rate), 2);
  await store.delete('j');
  assert.deepEqual(await redis.keys('*'), [keys.leases]);
  assert.ok((await redis.ttl(keys.leases)) > 0);
  await ask({ wanted: 0, inFlight: 0 });
  assert.equal(await redis.hget(keys.leases, 'me'), null);
});

test('the leases and rates of a job that no worker is at any more go with it', async () => {
  await store.begin('j', 0, 0, 'n');
  await ask({ wanted: 5, startsWanted: 1, startsPerSecond: 1, files: 1, bytes: 1 });
  await store.advance('j', 0, 'n', { cap: 4, listed: 0, tokens: ['a'], next: null });
  await store.commit('j', 0, 'n', {}, []);
  await ask({ wanted: 0, inFlight: 0 });
  await store.delete('j');
  assert.deepEqual(await redis.keys('*'), []);
});
