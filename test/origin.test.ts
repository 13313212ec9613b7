import assert from 'node:assert/strict';
import { test } from 'node:test';
import { InFlight } from '../jobs/in-flight.ts';
import { Origin, type Good } from '../jobs/origin.ts';
import { Transfer, type TransferOwner } from '../jobs/transfer.ts';
import { FetchError } from '../src/errors.ts';
import { Tally } from '../src/tally.ts';
import { jobSpec } from './helpers/job-spec.ts';

const name = 'http://127.0.0.1:9';
const spec = jobSpec({ retry: { attempts: 3, baseDelayMs: 100, maxDelayMs: 1000, maxOutageMs: 60_000 } });

/** A request whose fate is written down. */
class Recorded extends Transfer {
  readonly fate: string[] = [];
  readonly maxBytes = 1;
  readonly memoryBytes = 1;
  override readonly isFile: boolean = true;
  abandoned = false;

  constructor(path = '/a') {
    const owner: TransferOwner = {
      spec,
      headers: [],
      mayStore: true,
      headersOrigin: name,
      tally: new Tally(),
      ended: () => {},
      again: () => this.fate.push('again'),
      answered: () => {},
      streams: () => {},
      troubled: () => {},
    };
    super(owner, name, path, null);
  }

  open(): null {
    return null;
  }

  protected succeed(): void {}
  protected fail(error: FetchError): void {
    this.fate.push(error.reason);
  }

  protected retried(): void {}
}

const refused = (): FetchError => new FetchError('connection', 'ECONNREFUSED', { retryable: true });
const busy = (retryAfterMs?: number): FetchError =>
  new FetchError('http_status', '503', {
    retryable: true,
    statusCode: 503,
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
  });

const good = (path: string): Good => ({ path, isFile: true });
const page = (path: string): Good => ({ path, isFile: false });
const make = (_: string, { path }: Good): Transfer => new Recorded(path);
const origin = (): Origin => new Origin(name, spec.retry);

test('a request without an answer is charged when another one is answered', () => {
  const one = origin();
  const lost = new Recorded();
  one.silent(0, lost, refused());
  assert.deepEqual([lost.fate, one.mayAsk(1)], [[], true]);
  one.answered(2, good('/b'), true);
  assert.deepEqual([lost.fate, lost.attempts], [['again'], 2]);
});

test('after three requests in a row without an answer nothing is asked but one probe, when all others have ended', () => {
  const one = origin();
  one.answered(0, good('/good'), true);
  one.inFlight = 2;
  for (const at of [1, 2, 3]) one.silent(at, new Recorded(), refused());
  assert.equal(one.mayAsk(4), false);
  assert.equal(one.probe(4, false, make), null, 'two are still in flight');
  one.inFlight = 0;
  const probe = one.probe(5, false, make);
  assert.equal(probe?.path, '/good');
  assert.equal(one.probe(6, true, make), null, 'one is enough');
});

test('a long download keeps nobody from being probed', () => {
  const one = origin();
  one.answered(0, good('/good'), true);
  one.inFlight = 2;
  one.streaming = 1;
  for (const at of [1, 2, 3]) one.silent(at, new Recorded(), refused());
  assert.equal(one.probe(4, false, make), null, 'the other one may tell');
  one.inFlight = 1;
  assert.equal(one.probe(5, false, make)?.path, '/good');
});

test('what is in flight, and what of it streams, is counted for each origin, in whatever order it ends', () => {
  const [one, other] = [origin(), origin()];
  const inFlight = new InFlight();
  const [first, second, third] = [new Recorded('/1'), new Recorded('/2'), new Recorded('/3')] as const;
  for (const transfer of [first, second]) inFlight.add(transfer, one);
  inFlight.add(third, other);
  for (const transfer of [first, third, third]) inFlight.streams(transfer);
  const counts = (): number[] => [inFlight.size, one.inFlight, one.streaming, other.inFlight, other.streaming];
  assert.deepEqual(counts(), [3, 2, 1, 1, 1]);
  assert.equal(inFlight.remove(first), one);
  assert.equal(inFlight.remove(first), null, 'it ended already');
  assert.deepEqual(
    [counts(), inFlight.all()],
    [
      [2, 1, 0, 1, 1],
      [third, second],
    ],
  );
  assert.equal(inFlight.remove(second), one);
  assert.equal(inFlight.remove(third), other);
  inFlight.streams(third);
  assert.deepEqual(counts(), [0, 0, 0, 0, 0]);
  inFlight.add(third, one);
  assert.deepEqual(counts(), [1, 1, 0, 0, 0], 'its next request begins anew');
});

test("where a probe is answered, the silence was the files' own fault", () => {
  const one = origin();
  one.answered(0, good('/good'), true);
  const lost = [new Recorded(), new Recorded(), new Recorded()];
  for (const each of lost) one.silent(1, each, refused());
  assert.ok(one.probe(2, false, make));
  one.answered(3, good('/good'), true);
  for (const { fate, attempts } of lost) assert.deepEqual([fate, attempts], [['again'], 2]);
  assert.equal(one.mayAsk(4), true);
});

test('where probes get no answer either, files wait without spending attempts, with growing pauses between probes', () => {
  const one = origin();
  one.answered(0, good('/good'), true);
  const lost = [new Recorded(), new Recorded(), new Recorded()];
  for (const each of lost) one.silent(1, each, refused());
  let now = 2;
  const pauses: number[] = [];
  for (let round = 0; round < 12; round += 1) {
    const probe = one.probe(now, false, make);
    assert.ok(probe, `round ${round}`);
    Object.assign(probe, { isProbe: true });
    one.silent(now, probe, refused());
    assert.ok(one.isDown && !one.mayAsk(now));
    assert.equal(one.probe(now, true, make), null, 'not at once');
    pauses.push(one.waitMs(now));
    now += one.waitMs(now);
  }
  assert.ok((pauses[0] ?? 0) >= 200 && (pauses[0] ?? 0) <= 400);
  assert.ok(Math.max(...pauses) <= 15_000 && (pauses.at(-1) ?? 0) >= 7_500);
  assert.ok(one.troubleMs(now) > 60_000);
  one.answered(now, good('/good'), true);
  for (const { fate, attempts } of lost) assert.deepEqual([fate, attempts], [['again'], 1]);
  assert.deepEqual([one.mayAsk(now), one.troubleMs(now), one.waitMs(now)], [true, 0, 0]);
});

test('where nothing was ever fetched, the probe is the request that got no answer', () => {
  const one = origin();
  const first = new Recorded('/list');
  one.silent(0, first, refused());
  assert.equal(one.probe(1, false, make), null, 'there is more to ask, which may tell');
  assert.equal(one.probe(1, true, make), first);
  one.silent(2, first, refused());
  assert.ok(one.isDown);
  const wait = one.waitMs(2);
  assert.equal(one.probe(2 + wait, true, make), first);
});

test('where others had an answer, the probe is what they asked for, until something is fetched here', () => {
  const one = origin();
  one.assumeGood(page('/list'));
  const lost = new Recorded('/list?2');
  one.silent(0, lost, refused());
  assert.equal(one.probe(1, true, make)?.path, '/list');
  one.answered(2, good('/list'), true);
  assert.deepEqual([lost.fate, lost.attempts], [['again'], 2]);
  one.answered(3, good('/good'), true);
  one.assumeGood(page('/list'));
  one.silent(4, new Recorded(), refused());
  assert.equal(one.probe(5, true, make)?.path, '/good');
});

test('a page that comes while the origin is down is what is probed with, if its forerunners are gone', () => {
  const one = origin();
  const gone = new Recorded('/list');
  one.silent(0, gone, refused());
  one.probe(1, true, make);
  one.silent(2, gone, refused());
  gone.abandoned = true;
  const later = 2 + one.waitMs(2);
  assert.equal(one.probe(later, true, make), null, 'nobody wants anything');
  const next = new Recorded('/list?2');
  one.waiting.push(next);
  assert.equal(one.probe(later, true, make), next);
  assert.deepEqual(one.waiting, []);
  one.answered(later + 1, good('/list?2'), true);
  assert.equal(one.mayAsk(later + 1), true);
});

test('Retry-After keeps all requests back, and the throttled one spends no attempt', () => {
  const one = origin();
  one.inFlight = 8;
  const told = new Recorded();
  one.throttled(1000, told, busy(5000));
  assert.deepEqual([told.fate, told.attempts], [['again'], 1]);
  assert.deepEqual([one.mayAsk(5999), one.waitMs(5999)], [false, 1]);
  one.inFlight = 3;
  assert.equal(one.mayAsk(6000), true);
});

test('requests in flight halve once for a round of throttled ones, and grow again by one for each window of answers', () => {
  const one = origin();
  one.inFlight = 8;
  for (const at of [0, 0, 0]) one.throttled(at, new Recorded(), busy(10));
  one.inFlight = 4;
  assert.equal(one.mayAsk(2000), false);
  one.inFlight = 3;
  assert.equal(one.mayAsk(2000), true);
  for (let answers = 0; answers < 4; answers += 1) one.answered(2000, good('/a'), true);
  one.inFlight = 4;
  assert.equal(one.mayAsk(2000), true);
  one.inFlight = 5;
  assert.equal(one.mayAsk(2000), false);
});

test('a file that alone is throttled for maxOutageMs fails; while all are, it waits', () => {
  const all = origin();
  const waits = new Recorded();
  all.throttled(0, waits, busy(10));
  all.throttled(60_001, waits, busy(10));
  assert.deepEqual(waits.fate, ['again', 'again']);
  assert.ok(all.troubleMs(60_001) >= 60_000);
  const one = origin();
  const alone = new Recorded();
  one.throttled(0, alone, busy(60_000));
  one.answered(30_000, good('/other'), true);
  one.throttled(60_001, alone, busy(10));
  assert.deepEqual(alone.fate, ['again', 'http_status']);
});

test('time in which a throttled file could not be asked for says little of it', () => {
  const one = origin();
  const file = new Recorded();
  // Told to come back after 1 s, it comes after 50 s: of the 49 between 15 count.
  for (let at = 0; at <= 150_000; at += 50_000) {
    one.answered(at, good('/other'), true);
    one.throttled(at + 1, file, busy(1000));
  }
  assert.deepEqual(file.fate, ['again', 'again', 'again', 'again'], 'throttled for 48 s that are known of');
  assert.deepEqual(one.news(160_000).throttled, { '/a': 57_999 });
  assert.deepEqual(one.news(190_000).throttled, { '/a': 64_000 });
  one.answered(180_000, good('/other'), true);
  one.throttled(180_001, file, busy(1000));
  assert.deepEqual(file.fate.at(-1), 'http_status');
});

test('where files are throttled, the pages of a listing that are answered tell nothing of them', () => {
  const one = origin();
  one.answered(0, page('/list'), true);
  const file = new Recorded('/file');
  one.throttled(1, file, busy(10));
  for (let at = 10_000; at <= 60_000; at += 10_000) one.answered(at, page('/list?2'), true);
  one.throttled(60_002, file, busy(10));
  assert.deepEqual(file.fate, ['again', 'again'], 'no other file was fetched');
  assert.ok(one.outageMs(60_003) >= 60_000);
  one.answered(60_003, good('/other'), true);
  assert.equal(one.troubleMs(60_004), 0);
  const listing = Object.assign(new Recorded('/list?3'), { isFile: false });
  one.throttled(60_005, listing, busy(10));
  one.answered(60_006, page('/list'), true);
  assert.equal(one.troubleMs(60_007), 0, 'it was the trouble of that page');
});

test('where this worker fetched no file, one that others fetched tells whether all are throttled', () => {
  const one = origin();
  one.assumeGood(page('/list'));
  assert.equal(one.wantsGoodFile, false);
  one.throttled(1, new Recorded(), busy(10));
  assert.equal(one.wantsGoodFile, true);
  one.assumeGood(good('/file'));
  one.assumeGood(page('/list?2'));
  assert.deepEqual([one.wantsGoodFile, one.goodFile], [false, '/file']);
  one.waiting.push(new Recorded());
  assert.equal(one.probe(1 + one.waitMs(1), true, make)?.path, '/file');
});

test('a throttled probe is an answer', () => {
  const one = origin();
  one.answered(0, good('/good'), true);
  const lost = new Recorded();
  for (const each of [lost, new Recorded(), new Recorded()]) one.silent(1, each, refused());
  const probe = one.probe(2, false, make);
  assert.ok(probe);
  Object.assign(probe, { isProbe: true });
  one.silent(3, probe, refused());
  const again = one.probe(3 + one.waitMs(3), false, make);
  assert.ok(again);
  one.throttled(5000, again, busy(10));
  assert.deepEqual([lost.fate, lost.attempts, one.isDown], [['again'], 1, false]);
});

test('a file that is throttled again while others succeed slows nobody else down', () => {
  const one = origin();
  one.inFlight = 8;
  const alone = new Recorded();
  one.throttled(0, alone, busy());
  const window = (): number => {
    let requests = 0;
    for (one.inFlight = 0; one.mayAsk(10_000); one.inFlight += 1) requests += 1;
    return requests;
  };
  assert.equal(window(), 4);
  for (let at = 1; at < 10; at += 1) {
    one.answered(at * 1000, good('/other'), true);
    one.throttled(at * 1000 + 1, alone, busy());
  }
  assert.ok(window() >= 4);
  assert.equal(one.waitMs(9_500), 0);
});

test('after a round of throttled requests the URL that was fetched last is asked first, and tells whose trouble it is', () => {
  const one = origin();
  one.answered(0, good('/good'), true);
  const alone = new Recorded();
  one.throttled(1, alone, busy());
  one.waiting.push(alone);
  const later = 1 + one.waitMs(1);
  assert.equal(one.mayAsk(later), false);
  assert.equal(one.probe(later, true, make)?.path, '/good');
  one.answered(later, good('/good'), true);
  assert.deepEqual([one.mayAsk(later), one.troubleMs(later)], [true, 0]);
  for (let at = later; at < 60_000; at += 10_000) one.throttled(at, alone, busy());
  one.throttled(60_002, alone, busy());
  assert.deepEqual(
    alone.fate.slice(-2),
    ['again', 'http_status'],
    'others were answered: it fails, the job does not pause',
  );
});

test('how long a URL has been throttled is known to the next attempt at its page, unless it may have been read meanwhile', () => {
  for (const [isNew, fate] of [
    [true, 'http_status'],
    [false, 'again'],
  ] as const) {
    const one = origin();
    one.throttled(0, Object.assign(new Recorded(), { isNew }), busy(60_000));
    one.answered(30_000, good('/other'), true);
    const again = Object.assign(new Recorded(), { isNew });
    one.throttled(60_001, again, busy());
    assert.deepEqual(again.fate, [fate]);
    const later = Object.assign(new Recorded(), { isNew });
    one.throttled(60_002, later, busy());
    assert.deepEqual(later.fate, ['again'], 'it had its outcome, or has none');
  }
});

/** A file is throttled while another one is fetched. Returns its fate. */
function throttleAlone(one: Origin, nowMs: number): string[] {
  const file = Object.assign(new Recorded('/a'), { isNew: true });
  one.answered(nowMs - 1, good('/other'), true);
  one.throttled(nowMs, file, busy(1));
  return file.fate;
}

test('how long a URL has been throttled is known from other workers, whose page it was', () => {
  const there = origin();
  throttleAlone(there, 1);
  assert.equal(there.news(1_000).throttled, undefined, 'it may be over soon');
  for (let at = 15_000; at <= 45_000; at += 15_000) throttleAlone(there, at);
  const news = there.news(50_000);
  assert.deepEqual(news.throttled, { '/a': 49_999 });
  const here = origin();
  here.othersTold(50_000, 50_010, news);
  assert.deepEqual(throttleAlone(here, 60_000), ['again']);
  assert.deepEqual(here.news(60_000).throttled, { '/a': 59_999 });
  assert.deepEqual(throttleAlone(here, 60_002), ['http_status']);
  assert.equal(here.news(60_003).throttled, undefined);
});

test('a page of a listing that may have been read before, and is throttled each time it is listed anew, fails too', () => {
  const one = origin();
  const list = (nowMs: number): string[] => {
    one.answered(nowMs - 1, good('/other'), true);
    const again = Object.assign(new Recorded('/list?2'), { isFile: false });
    one.throttled(nowMs, again, busy(10));
    return again.fate;
  };
  for (const at of [1, 15_000, 30_000, 45_000]) assert.deepEqual(list(at), ['again']);
  assert.deepEqual(list(60_001), ['http_status']);
});

test('a file that was fetched, or was throttled long ago, is not taken for throttled all the time', () => {
  for (const [fetchedMs, againMs] of [
    [10, 60_001],
    [null, 600_000],
  ] as const) {
    const one = origin();
    one.throttled(0, Object.assign(new Recorded('/a'), { isNew: true }), busy(1));
    if (fetchedMs !== null) one.answered(fetchedMs, good('/a'), true);
    one.answered(againMs - 1, good('/other'), true);
    const again = Object.assign(new Recorded('/a'), { isNew: true });
    one.throttled(againMs, again, busy());
    assert.deepEqual(again.fate, ['again']);
  }
});

test('where ever other files are throttled, none that comes back is taken for throttled by itself', () => {
  const one = origin();
  const throttle = (nowMs: number, path: string): string[] => {
    const file = Object.assign(new Recorded(path), { isNew: true });
    one.answered(nowMs - 1, good('/other'), true);
    one.throttled(nowMs, file, busy(60_000));
    return file.fate;
  };
  throttle(1, '/a');
  throttle(30_000, '/b');
  assert.deepEqual(throttle(60_002, '/a'), ['again'], '/b was throttled later');
  assert.deepEqual(throttle(90_000, '/a'), ['http_status'], 'no other one since');
});

test('of too many throttled URLs those are remembered that come back', () => {
  const one = origin();
  const throttle = (nowMs: number, path: string): Recorded => {
    const file = Object.assign(new Recorded(path), { isNew: true });
    one.throttled(nowMs, file, busy(60_000));
    return file;
  };
  for (let count = 0; count < 10_000; count += 1) throttle(0, `/${count}`);
  throttle(1, '/one-more');
  one.answered(60_001, good('/other'), true);
  assert.deepEqual(throttle(60_002, '/one-more').fate, ['again'], 'there was no room for it');
  one.answered(120_002, good('/other'), true);
  assert.deepEqual(
    throttle(120_003, '/one-more').fate,
    ['http_status'],
    'another one did not come back, and made room',
  );
});

test('a URL that was fetched before and is throttled now does not keep all others from being asked', () => {
  const one = origin();
  one.answered(0, good('/good'), true);
  const waits = new Recorded();
  one.throttled(1, waits, busy(10));
  one.waiting.push(waits);
  const held = 1 + one.waitMs(1);
  const probe = one.probe(held, true, make);
  assert.ok(probe);
  Object.assign(probe, { isProbe: true });
  one.throttled(held, probe, busy(10));
  const later = held + one.waitMs(held);
  assert.equal(one.mayAsk(later), true);
  one.throttled(later, waits, busy(10));
  assert.equal(one.mayAsk(later + 1000), false, 'they take turns');
});

test('how long others know of its trouble counts where it is in trouble here too, but for what was before it was well', () => {
  const one = origin();
  one.isOwn = true;
  one.othersTold(200_000, 200_010, { troubleMs: 90_000 });
  assert.deepEqual([one.troubleMs(200_010), one.news(200_010)], [0, {}], 'it may be well by now');
  one.answered(200_011, page('/list'), true);
  assert.deepEqual(one.news(200_012), {}, 'the listing may be, and the files not');
  one.throttled(200_020, new Recorded(), busy(1));
  assert.equal(one.outageMs(200_020), 90_020);
  assert.equal(one.news(200_020).troubleMs, 90_020);
  one.answered(200_030, good('/a'), true);
  assert.equal(one.news(200_040).troubleMs, 0, 'the others shall know');
  one.throttled(200_050, new Recorded(), busy(1));
  assert.equal(one.troubleMs(200_060), 30);
  one.othersTold(200_070, 200_080, {});
  assert.equal(one.troubleMs(200_080), 30);
  one.answered(200_090, good('/a'), true);
  assert.equal(one.news(200_090).troubleMs, undefined);
});

test('where others have trouble, a file that was fetched before is asked for first, and may end it for all', () => {
  const one = origin();
  one.isOwn = true;
  one.assumeGood(page('/list'));
  one.othersTold(100, 110, { troubleMs: 50 });
  assert.deepEqual([one.mayAsk(120), one.wantsGoodFile], [true, true]);
  one.assumeGood(good('/file'));
  one.waiting.push(new Recorded());
  assert.deepEqual([one.mayAsk(130), one.wantsGoodFile], [false, false]);
  assert.equal(one.probe(130, true, make)?.path, '/file');
  one.answered(140, good('/file'), true);
  assert.deepEqual([one.mayAsk(150), one.news(150).troubleMs], [true, 0]);
  one.othersTold(160, 170, { troubleMs: 110 });
  assert.equal(one.mayAsk(180), true, 'it is known better here');
});

test('trouble that nothing was heard of for minutes is not counted with new trouble', () => {
  const one = origin();
  one.throttled(0, new Recorded(), busy(10));
  assert.ok(one.troubleMs(60_000) >= 60_000);
  assert.equal(one.troubleMs(600_000), 0);
  one.throttled(600_000, new Recorded(), busy(10));
  assert.ok(one.outageMs(600_001) <= 1);
  const silent = origin();
  silent.silent(0, new Recorded(), refused());
  silent.silent(600_000, new Recorded(), refused());
  const probe = new Recorded();
  silent.probing = probe;
  silent.silent(600_001, probe, refused());
  assert.equal(silent.outageMs(600_001), 1);
});
