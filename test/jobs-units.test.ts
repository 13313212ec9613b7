import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { packFailure, unpackFailure } from '../jobs/failures.ts';
import { ListingTransfer, newAttempt } from '../jobs/attempt.ts';
import { Company } from '../jobs/company.ts';
import { Items } from '../jobs/items.ts';
import { answerTo, isActive, pagesInFlightMax, placesOfListing, type Verb } from '../jobs/model.ts';
import { FileTransfer, PageFiles } from '../jobs/page-files.ts';
import { Requests } from '../jobs/requests.ts';
import type { Transfer, TransferOwner } from '../jobs/transfer.ts';
import { fileRun, runPagesMax, shardRun, walk as walkPages } from '../jobs/walk.ts';
import { FetchError } from '../src/errors.ts';
import { retryDelayMs } from '../src/retry.ts';
import type { Failure, JobSpec, JobState } from '../src/schemas.ts';
import type { Found, PageWriter } from '../src/sinks/index.ts';
import { sourceOf, type BadItem, type GetListing, type SourceFile } from '../src/sources/index.ts';
import { Tally } from '../src/tally.ts';
import { subjectOf } from '../src/validators.ts';
import { jobSpec } from './helpers/job-spec.ts';
import { recordedFetcher } from './helpers/recorded-fetcher.ts';
import { urlFiles } from './helpers/url-files.ts';

// The states.

const active = {
  pause: 'do',
  resume: 'done',
  cancel: 'do',
  retry: 'refused',
  change: 'do',
  delete: 'refused',
} as const;
const over = { pause: 'refused', resume: 'refused', cancel: 'refused', delete: 'do' } as const;
const table = {
  queued: active,
  running: active,
  paused: { ...active, pause: 'done', resume: 'do' },
  completed: { ...over, retry: 'refused', change: 'refused' },
  completed_with_failures: { ...over, retry: 'do', change: 'do' },
  failed: { ...over, retry: 'do', change: 'do' },
  cancelled: { ...over, cancel: 'done', retry: 'refused', change: 'refused' },
} as const satisfies Record<JobState, Record<Verb, ReturnType<typeof answerTo>>>;

for (const [name, answers] of Object.entries(table)) {
  test(`what may be asked of a ${name} job`, () => {
    const state = name as JobState;
    assert.equal(isActive(state), answers.delete === 'refused');
    for (const [verb, answer] of Object.entries(answers)) assert.equal(answerTo(verb as Verb, state), answer, verb);
  });
}

test('the pages in flight follow workers, concurrency and the size of pages, between 4 and 1024', () => {
  assert.equal(pagesInFlightMax(1, 64, 1000), 4);
  assert.equal(pagesInFlightMax(16, 64, 1000), 32);
  assert.equal(pagesInFlightMax(16, 3, 1000), 6, 'no more workers than requests');
  assert.equal(pagesInFlightMax(2, 1000, 1000), 4);
  assert.equal(pagesInFlightMax(2, 1001, 1000), 5);
  assert.equal(pagesInFlightMax(2, 64, 10), 26);
  assert.equal(pagesInFlightMax(2, 64, 0), 256, 'an empty page');
  assert.equal(pagesInFlightMax(2, 65_536, 1), 1024);
});

function places(concurrency: number, workers: number, source = jobSpec().source): number {
  return placesOfListing({ ...jobSpec({ limits: { concurrency } }), source }, workers);
}

test('a place is left to the listing where it takes requests, and other workers and places are left', () => {
  assert.equal(places(64, 2), 1);
  assert.equal(places(16, 2), 1);
  assert.equal(places(15, 2), 0);
  assert.equal(places(64, 1), 0);
  const range = { type: 'range', url: 'http://127.0.0.1:9/{1..9}', pageSize: 1, name: '{1}' } as const;
  assert.equal(places(64, 2, range), 0, 'it makes up its pages itself');
});

// Retries.

const retry = { attempts: 5, baseDelayMs: 300, maxDelayMs: 30_000 };

test('the ceiling of the delay doubles with each attempt, up to the longest one', () => {
  const ceilings = [1, 2, 3, 4, 7, 8, 50, 2000].map((attempt) => retryDelayMs(retry, attempt, null, () => 1));
  assert.deepEqual(ceilings, [300, 600, 1200, 2400, 19_200, 30_000, 30_000, 30_000]);
});

test('the delay is spread evenly between nothing and its ceiling', () => {
  assert.equal(
    retryDelayMs(retry, 3, null, () => 0),
    0,
  );
  assert.equal(
    retryDelayMs(retry, 3, null, () => 0.5),
    600,
  );
  for (let attempt = 1; attempt < 20; attempt += 1) {
    const delay = retryDelayMs(retry, attempt, null);
    assert.ok(Number.isInteger(delay) && delay >= 0 && delay <= 30_000);
  }
});

test('nobody comes back before the time that a Retry-After names, which is bounded', () => {
  assert.equal(
    retryDelayMs(retry, 1, 5000, () => 0),
    5000,
  );
  assert.equal(
    retryDelayMs(retry, 8, 5000, () => 1),
    30_000,
  );
  assert.equal(
    retryDelayMs(retry, 1, 0, () => 0.5),
    150,
  );
  assert.equal(
    retryDelayMs(retry, 1, 86_400_000, () => 0),
    900_000,
  );
});

// Failures as they are kept.

const failure: Failure = {
  name: 'a/ü/17.bin',
  url: 'http://127.0.0.1:9/get/a/%C3%BC/17.bin',
  reason: 'http_status',
  statusCode: 404,
  attempts: 3,
  message: 'the server answered 404',
  at: '2026-11-20T10:00:01.234Z',
};

test('a failure is unpacked as it was packed', () => {
  const bare: Failure = { ...failure, url: null, statusCode: null, attempts: 0, message: '', name: '"\n\0' };
  for (const one of [failure, bare]) {
    for (const refetch of [null, 7, 'never'] as const) {
      assert.deepEqual(unpackFailure(packFailure(one, refetch)), { failure: one, refetch });
    }
  }
});

test('long messages are cut, and no half of a surrogate pair is kept', () => {
  const long = `${'x'.repeat(999)}😀${'y'.repeat(5000)}`;
  const cut = unpackFailure(packFailure({ ...failure, message: long }, null));
  assert.equal(cut.failure.message, `${'x'.repeat(999)}\uFFFD`);
  const packed = packFailure({ ...failure, name: 'half \uD800', message: 'half \uDC00' }, null);
  assert.ok(!/\\ud[89a-f]/i.test(packed));
  const { name, message } = unpackFailure(packed).failure;
  assert.deepEqual([name, message], ['half \uFFFD', 'half \uFFFD']);
});

// Walking a listing.

const noList = urlFiles().of('j');
const walk = (tokens: readonly string[], open: boolean, get: GetListing) =>
  walkPages(sourceOf(jobSpec()), tokens, open, get, noList, {
    size: fileRun({ settled: 0, filesPerSecond: 2000 }),
    pagesMax: runPagesMax(1),
  });

/** A listing of pages, each a list of names; the token of page n > 0 is `…?next-marker=tn`. */
function listing(pages: string[][], { fails = [] as number[], marker = (page: number) => `t${page}` } = {}) {
  const asked: number[] = [];
  const numbers = new Map(pages.map((_, page) => [marker(page), page]));
  const get: GetListing = async (url) => {
    const page = numbers.get(new URL(url).searchParams.get('next-marker') ?? marker(0)) ?? -1;
    asked.push(page);
    if (fails.includes(page)) throw new FetchError('http_status', 'the server answered 500', { statusCode: 500 });
    const next = page + 1 < pages.length ? { NextMarker: marker(page + 1) } : {};
    return { url, headers: {}, body: Buffer.from(JSON.stringify({ FileNames: pages[page], ...next })) };
  };
  return { get, asked };
}

const pagesOf = (count: number, names: number) =>
  Array.from({ length: count }, (_, page) => Array.from({ length: names }, (_, index) => `${page}-${index}`));
const first = ['http://127.0.0.1:9/list'];
const token = (page: number) => `http://127.0.0.1:9/list?next-marker=t${page}`;
const tokens = (count: number) => Array.from({ length: count }, (_, page) => (page === 0 ? first[0] : token(page)));

test('small pages are walked in one go until there are as many names as are wanted', async () => {
  const { get, asked } = listing(pagesOf(500, 10));
  const run = await walk(first, true, get);
  assert.deepEqual(run.tokens, tokens(100));
  assert.deepEqual(run.items.names(), pagesOf(100, 10).flat());
  assert.equal(run.next, token(100));
  assert.equal(asked.length, 100);
});

test('a walk ends with the listing', async () => {
  const run = await walk(first, true, listing(pagesOf(3, 10)).get);
  assert.deepEqual([run.tokens, run.items.length, run.next], [tokens(3), 30, null]);
});

test('no run has more than 256 pages, however empty they are', async () => {
  const run = await walk(first, true, listing(pagesOf(400, 0)).get);
  assert.equal(run.tokens.length, 256);
  assert.equal(run.next, token(256));
});

const longMarker = (page: number) => `${page}${'x'.repeat(10_000)}`;

test('the tokens of a run have at most 64 KiB', async () => {
  const run = await walk(first, true, listing(pagesOf(50, 1), { marker: longMarker }).get);
  assert.equal(run.tokens.length, 7);
  assert.ok(run.tokens.join('').length <= 65_536);
  assert.equal(new URL(run.next ?? '').searchParams.get('next-marker'), longMarker(7));
});

test('a later page that fails ends the run before it, and is the next one', async () => {
  const run = await walk(first, true, listing(pagesOf(9, 10), { fails: [4] }).get);
  assert.deepEqual([run.tokens, run.items.length, run.next], [tokens(4), 40, token(4)]);
});

test('a first page that fails fails the walk', async () => {
  const { get } = listing(pagesOf(9, 10), { fails: [0] });
  await assert.rejects(walk(first, true, get), { name: 'FetchError', reason: 'http_status' });
});

test('a run that is walked again lists its recorded tokens and ignores every "next" it hears', async () => {
  const { get, asked } = listing(pagesOf(9, 10));
  const run = await walk([token(2), token(7), token(3)], false, get);
  assert.deepEqual(asked, [2, 7, 3]);
  assert.deepEqual(
    run.items.names(),
    [2, 7, 3].flatMap((page) => pagesOf(9, 10)[page] ?? []),
  );
  assert.deepEqual([run.tokens, run.next], [[token(2), token(7), token(3)], null]);
});

test('a run that is walked again fails with any of its pages', async () => {
  const { get } = listing(pagesOf(9, 10), { fails: [7] });
  await assert.rejects(walk([token(2), token(7), token(3)], false, get), { reason: 'http_status' });
});

// Transfers and the files of a page.

const origin = 'http://127.0.0.1:9';
const elsewhere = 'http://127.0.0.1:8';

class Owner implements TransferOwner {
  readonly mayStore = true;
  readonly spec: JobSpec;
  readonly headers = ['authorization', 'Bearer x'];
  readonly headersOrigin = origin;
  readonly tally = new Tally();
  ends = 0;
  /** The delays of requests to be made again. */
  readonly delays: number[] = [];

  constructor(spec: JobSpec) {
    this.spec = spec;
  }

  ended(): void {
    this.ends += 1;
  }

  again(_transfer: Transfer, delayMs: number): void {
    this.delays.push(delayMs);
  }

  answered(): void {}
  streams(): void {}

  /** As an origin that is well for all else. */
  troubled(transfer: Transfer, error: FetchError): void {
    transfer.charge(error);
  }
}

class Writer implements PageWriter {
  readonly stored = new Map<string, string>();
  readonly there: ReadonlyMap<string, Found>;
  notes = new Map<string, string>();
  error: FetchError | null = null;

  constructor(there: Record<string, Found> = {}) {
    this.there = new Map(Object.entries(there));
  }

  find(name: string): Found | null {
    if (this.error !== null) throw this.error;
    return this.there.get(name) ?? null;
  }

  put(name: string, body: Uint8Array): void {
    if (this.error !== null) throw this.error;
    this.stored.set(name, Buffer.from(body).toString());
  }

  open(): never {
    throw new Error('no large bodies here');
  }

  note(name: string, text: string): void {
    this.notes.set(name, text);
  }

  noted(name: string): string | null {
    return this.notes.get(name) ?? null;
  }
}

const file = (name: string, more: Partial<SourceFile> = {}): SourceFile => ({
  name,
  origin,
  path: `/get/${name}`,
  sizeBytes: null,
  ...more,
});

function page(
  items: readonly (SourceFile | BadItem)[],
  { spec = jobSpec(), there = {} }: { spec?: JobSpec; there?: Record<string, Found> } = {},
) {
  const owner = new Owner(spec);
  const writer = new Writer(there);
  return { owner, writer, files: new PageFiles(owner, writer, new Items(items)) };
}

/** The next file of a page that needs a request. */
function request(files: PageFiles): FileTransfer {
  const next = files.next();
  assert.ok(next instanceof FileTransfer);
  return next;
}

const answer = (body: string) => ({ statusCode: 200, headers: {}, body: Buffer.from(body), bytes: body.length });
const reset = () => new FetchError('connection', 'reset', { retryable: true });
const counted = (files: PageFiles) =>
  Object.fromEntries(Object.entries(files.counts()).filter(([, count]) => count > 0));
const reasons = (files: PageFiles) =>
  files.failures.map(unpackFailure).map(({ failure: { name, reason, attempts } }) => [name, reason, attempts]);

test('each file of a page is fetched, stored and counted, and then the page is done', async () => {
  const { files, writer, owner } = page([file('a'), file('b')]);
  assert.equal(files.waiting, 2);
  const [a, b] = [request(files), request(files)];
  assert.deepEqual([files.next(), files.waiting], [null, 0]);
  b.onBody(answer('bb'));
  assert.equal(files.settled, 1);
  a.onBody(answer('a'));
  await files.done;
  assert.deepEqual(counted(files), { filesDownloaded: 2, bytesDownloaded: 3 });
  assert.deepEqual(Object.fromEntries(writer.stored), { a: 'a', b: 'bb' });
  assert.equal(owner.ends, 2);
});

test('a page without files is done at once', async () => {
  const { files } = page([]);
  assert.equal(files.next(), null);
  await files.done;
});

test('the same name and URL again is fetched once and counted as often as it is listed', async () => {
  const { files } = page([file('a'), file('b'), file('a'), file('a')]);
  const [a, b] = [request(files), request(files)];
  assert.equal(files.next(), null);
  a.onBody(answer('a'));
  b.onError(new FetchError('http_status', 'gone', { statusCode: 410 }));
  await files.done;
  assert.deepEqual(counted(files), {
    filesDownloaded: 3,
    bytesDownloaded: 1,
    filesFailed: 1,
    'reason:http_status': 1,
  });
});

const byText = (one: string, other: string): number => (one < other ? -1 : Number(one > other));

test('a name is fetched once and counted as often as it is listed, whatever order the names are in', async () => {
  const orders = [() => 0, byText, (one: string, other: string) => one.length - other.length || byText(one, other)];
  const names = fc.array(fc.stringMatching(/^[ab]{1,3}$/), { maxLength: 8 });
  const bad: BadItem = { name: '..', url: null, bad: 'unsafe_name', message: 'the name is ".."' };
  await fc.assert(
    fc.asyncProperty(names, fc.constantFrom(...orders), fc.nat({ max: 8 }), async (listed, order, badAt) => {
      const items = listed.toSorted(order).map((name): SourceFile | BadItem => file(name));
      const { files, writer } = page(items.toSpliced(badAt, 0, bad));
      const requested: string[] = [];
      for (let next = files.next(); next !== null; next = files.next()) {
        assert.ok(next !== 'later');
        requested.push(next.path);
        next.onBody(answer('a'));
      }
      await files.done;
      assert.deepEqual(requested, [...new Set(requested)]);
      assert.deepEqual(new Set(writer.stored.keys()), new Set(listed));
      assert.equal(files.counts().filesDownloaded, listed.length);
    }),
    { numRuns: 1000 },
  );
});

test('a file that is listed three times and fails is three failures', async () => {
  const { files } = page([file('a'), file('a'), file('a')]);
  request(files).onError(new FetchError('http_status', 'gone', { statusCode: 410 }));
  await files.done;
  assert.deepEqual(counted(files), { filesFailed: 3, 'reason:http_status': 3 });
  assert.equal(files.failures.length, 3);
});

test('a name with two URLs is a conflict for each but the first, in any order', async () => {
  const other = file('a', { path: '/get/other' });
  const { files } = page([file('a'), other, file('a'), other, file('a', { origin: elsewhere })]);
  request(files).onBody(answer('a'));
  assert.equal(files.next(), null);
  await files.done;
  assert.deepEqual(counted(files), {
    filesDownloaded: 2,
    bytesDownloaded: 1,
    filesFailed: 3,
    'reason:name_conflict': 3,
  });
  assert.deepEqual(reasons(files)[0], ['a', 'name_conflict', 0]);
});

test('an item that is no file fails without a request', async () => {
  const bad: BadItem = { name: '../x', url: null, bad: 'unsafe_name', message: 'the name has ".." as a part' };
  const { files } = page([bad, bad]);
  assert.equal(files.next(), null);
  await files.done;
  assert.deepEqual(counted(files), { filesFailed: 2, 'reason:unsafe_name': 2 });
});

const found = (whose: Found['whose'], sizeBytes: number): Record<string, Found> => ({ a: { whose, sizeBytes } });
const existing: {
  title: string;
  existing: JobSpec['existing'];
  there: Record<string, Found>;
  listedBytes: number | null;
  counts: Record<string, number> | 'fetched';
}[] = [
  { title: 'skip, not there', existing: 'skip', there: {}, listedBytes: 5, counts: 'fetched' },
  {
    title: 'skip, there before',
    existing: 'skip',
    there: found('theirs', 7),
    listedBytes: null,
    counts: { filesSkipped: 1 },
  },
  {
    title: 'skip, of the listed size',
    existing: 'skip',
    there: found('theirs', 7),
    listedBytes: 7,
    counts: { filesSkipped: 1 },
  },
  { title: 'skip, of another size', existing: 'skip', there: found('theirs', 7), listedBytes: 8, counts: 'fetched' },
  {
    title: 'skip, stored by this job',
    existing: 'skip',
    there: found('ours', 7),
    listedBytes: null,
    counts: { filesDownloaded: 1, bytesDownloaded: 7 },
  },
  {
    title: 'skip, stored by this job, of another size',
    existing: 'skip',
    there: found('ours', 7),
    listedBytes: 8,
    counts: 'fetched',
  },
  {
    title: 'update, of the listed size',
    existing: 'update',
    there: found('theirs', 7),
    listedBytes: 7,
    counts: { filesSkipped: 1 },
  },
  {
    title: 'update, of another size',
    existing: 'update',
    there: found('theirs', 7),
    listedBytes: 8,
    counts: 'fetched',
  },
  {
    title: 'update, no size listed',
    existing: 'update',
    there: found('theirs', 7),
    listedBytes: null,
    counts: 'fetched',
  },
  {
    title: 'update, stored by this job',
    existing: 'update',
    there: found('ours', 7),
    listedBytes: null,
    counts: { filesDownloaded: 1, bytesDownloaded: 7 },
  },
  {
    title: 'overwrite, there before',
    existing: 'overwrite',
    there: found('theirs', 7),
    listedBytes: 7,
    counts: 'fetched',
  },
  {
    title: 'overwrite, stored by this job',
    existing: 'overwrite',
    there: found('ours', 7),
    listedBytes: 7,
    counts: { filesDownloaded: 1, bytesDownloaded: 7 },
  },
  {
    title: 'overwrite, an empty file of this job',
    existing: 'overwrite',
    there: found('ours', 0),
    listedBytes: null,
    counts: { filesDownloaded: 1 },
  },
];

for (const { title, there, listedBytes, counts, ...changes } of existing) {
  test(`a file that may be there: ${title}`, async () => {
    const { files } = page([file('a', { sizeBytes: listedBytes })], { spec: jobSpec(changes), there });
    if (counts === 'fetched') {
      assert.equal(request(files).sizeBytes, listedBytes);
      return;
    }
    assert.equal(files.next(), null);
    await files.done;
    assert.deepEqual(counted(files), counts);
  });
}

const tagged = (etag: string, statusCode = 200) => ({ ...answer('new'), statusCode, headers: { etag } });
const unmodified = (headers = {}) => ({ statusCode: 304, headers, body: null, bytes: 0 });

test('update asks whether a file changed that it has noted the ETag of', async () => {
  const options = { spec: jobSpec({ existing: 'update' }), there: found('theirs', 3) };
  const first = page([file('a')], options);
  const asked = request(first.files);
  assert.equal(asked.condition, null);
  asked.onBody(tagged('"1"'));
  assert.equal(first.writer.notes.size, 1);

  const again = page([file('a'), file('a')], options);
  again.writer.notes = first.writer.notes;
  const conditional = request(again.files);
  assert.deepEqual(conditional.condition, ['if-none-match', '"1"']);
  // Also elsewhere, and at the next attempt.
  conditional.onRedirect(`${elsewhere}/a`);
  assert.deepEqual(conditional.condition, ['if-none-match', '"1"']);
  conditional.onError(reset());
  assert.deepEqual([conditional.origin, conditional.condition?.[1]], [origin, '"1"']);
  conditional.onBody(unmodified());
  await again.files.done;
  assert.deepEqual(counted(again.files), { filesSkipped: 2, requestsRetried: 1 });
  assert.equal(again.owner.tally.skipped, 2);
  assert.equal(again.writer.stored.size, 0);

  const changed = page([file('a')], options);
  changed.writer.notes = first.writer.notes;
  request(changed.files).onBody(tagged('"2"'));
  assert.equal(changed.writer.stored.get('a'), 'new');
  assert.match(changed.writer.notes.get('a') ?? '', / if-none-match "2"$/);
  assert.deepEqual(counted(changed.files), { filesDownloaded: 1, bytesDownloaded: 3 });
});

test('a 304 that speaks of another file than was asked about makes the request again, without a condition', () => {
  const { files, writer, owner } = page([file('a')], { spec: jobSpec({ existing: 'update' }) });
  writer.notes.set('a', `${subjectOf(`${origin}/get/a`, owner.headers)} if-none-match "1"`);
  const transfer = request(files);
  transfer.onBody(unmodified({ etag: '"2"' }));
  assert.deepEqual([transfer.condition, owner.delays], [null, [0]]);
  transfer.onBody(tagged('"2"'));
  assert.deepEqual(counted(files), { filesDownloaded: 1, bytesDownloaded: 3, requestsRetried: 1 });
});

for (const [title, existing, sizeBytes] of [
  ['where the listing tells the size', 'update', 3],
  ['by a job that skips', 'skip', null],
  ['by a job that overwrites', 'overwrite', null],
] as const) {
  test(`nothing is noted nor asked ${title}`, () => {
    const { files, writer, owner } = page([file('a', { sizeBytes })], { spec: jobSpec({ existing }) });
    const note = `${subjectOf(`${origin}/get/a`, owner.headers)} if-none-match "1"`;
    writer.notes.set('a', note);
    const transfer = request(files);
    assert.equal(transfer.condition, null);
    transfer.onBody(tagged('"2"'));
    assert.equal(writer.notes.get('a'), note);
  });
}

test('files that are there are settled in bounded portions, so that others get the event loop', () => {
  const items = Array.from({ length: 1000 }, (_, index) => file(String(index)));
  const there = Object.fromEntries(items.map(({ name }) => [name, { whose: 'theirs', sizeBytes: 1 } as const]));
  const { files } = page(items, { there });
  let portions = 0;
  for (let next = files.next(); next !== null; next = files.next()) {
    assert.equal(next, 'later');
    portions += 1;
  }
  assert.equal(portions, 3);
  assert.deepEqual(counted(files), { filesSkipped: 1000 });
});

test('a sink that cannot look or store makes the file fail, not the page', async () => {
  const full = new FetchError('sink', 'ENOSPC: no space left on device');
  const { files, writer } = page([file('a'), file('b')]);
  const a = request(files);
  writer.error = full;
  a.onBody(answer('a'));
  assert.equal(files.next(), null);
  await files.done;
  assert.deepEqual(counted(files), { filesFailed: 2, 'reason:sink': 2 });
  assert.deepEqual(reasons(files), [
    ['a', 'sink', 1],
    ['b', 'sink', 0],
  ]);
});

test('an abandoned page is done, begins nothing more and counts nothing that still comes in', async () => {
  const { files, owner, writer } = page([file('a'), file('b'), file('c')]);
  const [a, b] = [request(files), request(files)];
  files.abandon();
  await files.done;
  assert.deepEqual([files.next(), files.waiting, files.abandoned], [null, 0, true]);
  a.onBody(answer('a'));
  b.onError(reset());
  assert.deepEqual(counted(files), {});
  assert.equal(writer.stored.size, 0);
  assert.deepEqual([owner.ends, owner.delays], [2, []]);
});

test('a failed attempt is made again, as often as the job says, each time later', async () => {
  const { files, owner } = page([file('a')], { spec: jobSpec({ retry: { attempts: 3, baseDelayMs: 1000 } }) });
  const transfer = request(files);
  transfer.onError(reset());
  transfer.onError(new FetchError('http_status', '503', { retryable: true, statusCode: 503, retryAfterMs: 7000 }));
  assert.ok(Number(owner.delays[0]) <= 1000);
  assert.ok(Number(owner.delays[1]) >= 7000, 'Retry-After is obeyed');
  assert.equal(files.settled, 0);
  transfer.onError(reset());
  await files.done;
  assert.equal(owner.delays.length, 2);
  assert.equal(owner.ends, 3);
  assert.deepEqual(counted(files), { filesFailed: 1, requestsRetried: 2, 'reason:connection': 1 });
  assert.deepEqual(reasons(files), [['a', 'connection', 3]]);
});

test('what cannot help is not made again', async () => {
  const { files, owner } = page([file('a')]);
  request(files).onError(new FetchError('http_status', 'the server answered 404', { statusCode: 404 }));
  await files.done;
  assert.deepEqual(owner.delays, []);
  assert.deepEqual(reasons(files), [['a', 'http_status', 1]]);
});

test('a reset on a kept connection costs no attempt and no time, but only once an attempt', async () => {
  const { files, owner } = page([file('a')], { spec: jobSpec({ retry: { attempts: 2, baseDelayMs: 1 } }) });
  const stale = new FetchError('connection', 'reset', { retryable: true, stale: true });
  const transfer = request(files);
  transfer.onError(stale);
  assert.deepEqual([transfer.attempts, owner.delays, counted(files)], [1, [0], {}]);
  transfer.onError(stale);
  assert.deepEqual([transfer.attempts, counted(files)], [2, { requestsRetried: 1 }]);
  transfer.onError(stale);
  assert.equal(transfer.attempts, 2);
  transfer.onError(stale);
  await files.done;
  assert.deepEqual(reasons(files), [['a', 'connection', 2]]);
});

test('five redirects are followed, the sixth fails', async () => {
  const { files, owner } = page([file('a')]);
  const transfer = request(files);
  for (let hop = 1; hop <= 5; hop += 1) {
    transfer.onRedirect(`${origin}/hop/${hop}?q=%20`);
    assert.deepEqual([transfer.origin, transfer.path], [origin, `/hop/${hop}?q=%20`]);
  }
  assert.deepEqual(owner.delays, [0, 0, 0, 0, 0]);
  transfer.onRedirect(`${origin}/hop/6`);
  await files.done;
  assert.deepEqual(reasons(files), [['a', 'too_many_redirects', 1]]);
  assert.equal(owner.ends, 6);
});

test('a retry begins again at the first URL, with all its redirects', async () => {
  const { files } = page([file('a')]);
  const transfer = request(files);
  for (let round = 0; round < 2; round += 1) {
    for (let hop = 1; hop <= 5; hop += 1) transfer.onRedirect(`${elsewhere}/hop/${hop}`);
    transfer.onError(reset());
    assert.deepEqual([transfer.origin, transfer.path], [origin, '/get/a']);
    assert.deepEqual(transfer.headers, ['authorization', 'Bearer x']);
  }
  transfer.onBody(answer('a'));
  await files.done;
  assert.deepEqual(counted(files), { filesDownloaded: 1, bytesDownloaded: 1, requestsRetried: 2 });
});

test("the job's headers go to the source's origin alone, and not any more once a redirect has left it", () => {
  const { files } = page([file('a'), file('b', { origin: elsewhere })]);
  const [a, b] = [request(files), request(files)];
  assert.deepEqual(a.headers, ['authorization', 'Bearer x']);
  a.onRedirect(`${origin}/x`);
  assert.deepEqual(a.headers, ['authorization', 'Bearer x']);
  a.onRedirect(`${elsewhere}/x`);
  assert.deepEqual(a.headers, []);
  a.onRedirect(`${origin}/y`);
  assert.deepEqual(a.headers, [], 'the way back leads where another origin chose');
  assert.deepEqual(b.headers, []);
  b.onRedirect(`${origin}/x`);
  assert.deepEqual(b.headers, []);
});

const filesOf = (count: number, sizeBytes: number | null) =>
  Array.from({ length: count }, (_, index) => file(`${index}`, { sizeBytes }));

test('a run for a shard is listed until it is full by listed sizes, by the mean so far, or by what half a minute fetches', () => {
  const shards = { shardBytes: 100_000, bytesOf: (size: number) => size + 1000 };
  const enough = (known: Parameters<typeof shardRun>[1], items: SourceFile[], of = shards) =>
    shardRun(of, known).isEnoughWith(items, 0);
  const unknown = { settled: 0, meanBytes: null, filesPerSecond: null };
  assert.deepEqual([enough(unknown, filesOf(9, 9000)), enough(unknown, filesOf(10, 9000))], [false, true]);
  const large = { ...shards, shardBytes: 67_108_864 };
  assert.deepEqual(
    [999, 1000].map((count) => enough(unknown, filesOf(count, null), large)),
    [false, true],
    'they may be large ones',
  );
  assert.equal(enough(unknown, filesOf(1000, 9000), large), false, 'what is listed is not guessed');
  const mean = { settled: 1, meanBytes: 1000, filesPerSecond: null };
  assert.deepEqual([enough(mean, filesOf(49, null)), enough(mean, filesOf(50, null))], [false, true]);
  const slow = { settled: 1, meanBytes: 1000, filesPerSecond: 1 };
  assert.deepEqual([enough(slow, filesOf(29, null)), enough(slow, filesOf(30, null))], [false, true]);
  for (const [run, page] of [
    [shardRun(shards, unknown), filesOf(5, 9000)],
    [shardRun(shards, slow), filesOf(15, null)],
  ] as const) {
    assert.deepEqual([run.isEnoughWith(page, 0), run.isEnoughWith(page, 0)], [false, true], 'pages add up');
  }
  const tiny = { shardBytes: 10 ** 9, bytesOf: (size: number) => size };
  for (const [settled, most] of [
    [0, 4096],
    [80_000, 10_000],
  ] as const) {
    const known = { settled, meanBytes: 1, filesPerSecond: 10_000 };
    assert.deepEqual(
      [most - 1, most].map((count) => enough(known, filesOf(count, null), tiny)),
      [false, true],
      'an eighth of what was settled',
    );
  }
});

/** How many pages are walked in one go that all have so many names and take as long to list. */
function pagesOfRun(filesPerSecond: number | null, pageSize: number, msPerPage = 0, settled = 100_000): number {
  const run = fileRun({ settled, filesPerSecond });
  const page = filesOf(pageSize, null);
  for (let count = 1; ; count += 1) if (run.isEnoughWith(page, count * msPerPage)) return count;
}

test('a run of files is a page, or what half a second fetches where pages come at once', () => {
  assert.deepEqual([pagesOfRun(null, 1000), pagesOfRun(null, 10)], [1, 1]);
  assert.deepEqual([pagesOfRun(8_000, 1000), pagesOfRun(8_000, 100), pagesOfRun(8_000, 3000)], [4, 40, 1]);
  assert.deepEqual([pagesOfRun(10, 1), pagesOfRun(1, 10)], [5, 1], 'large files');
  assert.equal(pagesOfRun(1_000_000, 1000), 8, 'at most 8,192 names');
  assert.equal(pagesOfRun(1_000_000, 1000, 0, 32_000), 4, 'an eighth of what was settled');
  assert.deepEqual(
    [pagesOfRun(16_000, 1000, 120), pagesOfRun(16_000, 1000, 60)],
    [1, 2],
    'a listing that takes its time',
  );
});

test('a job may have as many places of a worker, so that whoever comes finds some', () => {
  const company = new Company(16);
  const take = (job: string): number => {
    let places = 0;
    while (typeof company.join(job) === 'object') places += 1;
    return places;
  };
  assert.deepEqual([take('a'), take('b'), take('c'), take('d'), take('e')], [8, 4, 2, 1, 1]);
});

test('a list that leads to ten thousand origins does not make a worker remember them all', () => {
  const { fetcher, started } = recordedFetcher();
  const requests = new Requests(jobSpec(), fetcher, {
    nextFile: () => null,
    outOfStarts: () => {},
  });
  requests.grant(10, Infinity);
  const attempt = newAttempt({ seq: 0, epoch: 0, nonce: 'n', open: true });
  const answer = { statusCode: 200, headers: {}, body: Buffer.from('x'), bytes: 1 };
  for (let host = 0; host < 10_000; host += 1) {
    requests.add(new ListingTransfer(requests, attempt, new URL(`http://h${host}/`), null));
    const handler = started.pop();
    // Every five hundredth is in trouble, and that is not forgotten.
    if (host % 500 === 0) handler?.onError(new FetchError('http_status', '503', { statusCode: 503, retryable: true }));
    else handler?.onBody(answer);
  }
  const names = requests.origins.map(({ name }) => name);
  assert.ok(names.length <= 64 + 20, `${names.length} origins`);
  for (let host = 0; host < 10_000; host += 500) assert.ok(names.includes(`http://h${host}`));
  requests.close();
});

test('of many requests most begin spread over a tenth of a second, and each later one when another ends', (t) => {
  let now = 1000;
  t.mock.method(performance, 'now', () => now);
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const pass = (ms: number): void => {
    for (let passed = 0; passed < ms; passed += 1) {
      now += 1;
      t.mock.timers.tick(1);
    }
  };
  const { fetcher, started } = recordedFetcher();
  const attempt = newAttempt({ seq: 0, epoch: 0, nonce: 'n', open: true });
  const url = new URL('http://h/');
  const requests: Requests = new Requests(jobSpec(), fetcher, {
    nextFile: () => new ListingTransfer(requests, attempt, url, null),
    outOfStarts: () => {},
  });
  const answerAll = (): void => {
    for (const handler of started.splice(0))
      handler.onBody({ statusCode: 200, headers: {}, body: new Uint8Array(), bytes: 0 });
  };
  requests.grant(500, Infinity);
  requests.pump();
  assert.equal(started.length, 64);
  pass(50);
  assert.equal(started.length, 64 + 250);
  pass(50);
  assert.equal(started.length, 500);
  answerAll();
  assert.equal(started.length, 500);
  // With nothing in flight it begins anew.
  requests.grant(0, Infinity);
  answerAll();
  requests.grant(500, Infinity);
  requests.pump();
  assert.equal(started.length, 64);
  requests.close();
});

test('a file, and a page that no attempt has listed yet, have had no outcome; a page that is listed anew has', () => {
  const owner = new Owner(jobSpec());
  const list = (open: boolean): Transfer => {
    const attempt = newAttempt({ seq: 0, epoch: 0, nonce: 'n', open });
    return new ListingTransfer(owner, attempt, new URL(`${origin}/list`), null);
  };
  const { isNew } = request(new PageFiles(owner, new Writer(), new Items([file('a')])));
  assert.deepEqual([isNew, list(true).isNew, list(false).isNew], [true, true, false]);
});
