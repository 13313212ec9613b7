import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test, type TestContext } from 'node:test';
import { gzipSync } from 'node:zlib';
import type { Failure, Job, JobRequest } from '../src/schemas.ts';
import { startFileServer, type Fault, type FileServer } from './helpers/file-server.ts';
import { TestService } from './helpers/service.ts';

const service = new TestService({ PAGE_LOCK_MS: '500' });
before(() => service.start());
after(async () => {
  assert.equal(await service.stop(), 0);
});

async function fileServer(t: TestContext): Promise<FileServer> {
  const server = await startFileServer({ files: 1_000 });
  t.after(() => server.stop());
  return server;
}

/** A page that names files, and the next page if there is one. */
const page = (names: readonly unknown[], next?: unknown): Fault => ({
  status: 200,
  body: JSON.stringify({ FileNames: names, NextMarker: next }),
});

const retry = { attempts: 3, baseDelayMs: 1 };
let jobs = 0;

/** Runs a job over the listing at `url` to its end. */
async function run(url: string, source: Partial<JobRequest['source']> = {}, headers = {}): Promise<Job> {
  const posted = await service.post({
    source: { type: 'listing', url, fileUrl: '/get/{name}', ...source },
    sink: { type: 'directory', path: `job-${jobs++}` },
    headers,
    retry,
    limits: { timeoutMs: 1_000 },
  });
  return service.ended(posted.id);
}

async function failuresOf({ id }: Job): Promise<Failure[]> {
  return (await service.get<{ failures: Failure[] }>(`/jobs/${id}/failures?limit=1000`))!.failures;
}

function names({ sink }: Job): string[] {
  return readdirSync(join(service.dataDir, sink.path ?? '')).filter((name) => name !== '.gigafetch');
}

function completed(job: Job, files: readonly string[]): void {
  assert.equal(job.state, 'completed', JSON.stringify(job.error ?? job.failures));
  assert.deepEqual(names(job).toSorted(), files.toSorted());
  assert.equal(job.progress.filesListed, job.progress.filesDownloaded);
}

/** Pages that cannot be read, and what is then said of them. */
const unreadable: Record<string, { fault: Fault; error: [reason: string, message: RegExp, statusCode?: number] }> = {
  html: { fault: { body: '<html>Please log in</html>' }, error: ['not_json', /begins with "<html>Please log in/] },
  'cut-json': { fault: { body: '{"FileNames":["0.bin","1.b' }, error: ['not_json', /begins with "{/] },
  nothing: { fault: { body: '' }, error: ['not_json', /the page is empty/] },
  'no-content': { fault: { status: 204 }, error: ['not_json', /the page is empty/] },
  'not-utf-8': { fault: { body: Buffer.from('["\xff"]', 'latin1') }, error: ['not_json', /begins with/] },
  'two-documents': { fault: { body: '{"FileNames":[]}\n{"FileNames":[]}' }, error: ['not_json', /begins with/] },
  'a-number': { fault: { body: '42' }, error: ['bad_listing', /no "\/FileNames"; it is a number/] },
  'a-list': { fault: { body: '["0.bin"]' }, error: ['bad_listing', /no "\/FileNames"; it is a list of 1/] },
  'another-field': { fault: { body: '{"files":[]}' }, error: ['bad_listing', /an object with "files"/] },
  'names-as-text': { fault: { body: '{"FileNames":"0.bin"}' }, error: ['bad_listing', /"\/FileNames" is a string/] },
  'marker-as-object': { fault: page(['0.bin'], { page: 2 }), error: ['bad_listing', /not a token/] },
  'marker-that-lost-digits': { fault: page(['0.bin'], 2 ** 53), error: ['bad_listing', /not a token/] },
  'marker-too-long': { fault: page(['0.bin'], 'x'.repeat(20_000)), error: ['bad_listing', /longer than 16384/] },
  'cut-by-length': {
    fault: { ...page(['0.bin']), cut: { after: 10, by: 'end' } },
    error: ['truncated', /ended before the body/],
  },
  'ends-by-closing': { fault: { ...page(['0.bin']), framing: 'close' }, error: ['truncated', /neither a length/] },
  'reset-in-the-middle': {
    fault: { ...page(['0.bin']), cut: { after: 10, by: 'reset' } },
    error: ['truncated', /ended before the body/],
  },
  'cut-in-chunks': {
    fault: { ...page(['0.bin']), framing: 'chunked', cut: { after: 12, by: 'end' } },
    error: ['truncated', /ended before the body/],
  },
  'reset-before': { fault: { cut: { after: 'start', by: 'reset' } }, error: ['connection', /ECONNRESET|closed/] },
  silence: { fault: { cut: { after: 'start', by: 'silence' } }, error: ['timeout', /no answer within 1000 ms/] },
  dripping: {
    fault: { ...page(['0.bin']), slow: { bytes: 1, everyMs: 100 } },
    error: ['too_slow', /bytes of the body in/],
  },
  blocked: {
    fault: { status: 302, headers: { location: 'http://169.254.169.254/' } },
    error: ['blocked_address', /ALLOWED_NETWORKS/],
  },
  '403': { fault: { status: 403 }, error: ['http_status', /answered 403/, 403] },
  'unknown-coding': { fault: { ...page(['0.bin']), contentEncoding: 'aes128gcm' }, error: ['decode', /aes128gcm/] },
  bomb: {
    // Members in a row are one body.
    fault: { body: Buffer.concat(Array(110).fill(gzipSync(Buffer.alloc(1_000_000, ' ')))), contentEncoding: 'gzip' },
    error: ['too_large', /larger than 104857600 bytes/],
  },
  'too-many-names': {
    fault: { body: `{"FileNames":[${'1,'.repeat(1_000_000)}1]}` },
    error: ['too_large', /more than 1000000 names/],
  },
  'dead-500': { fault: { status: 500 }, error: ['http_status', /answered 500/, 500] },
  '404': { fault: { status: 404 }, error: ['http_status', /answered 404/, 404] },
  '206': { fault: { ...page(['0.bin']), status: 206 }, error: ['http_status', /answered 206/, 206] },
  loop: { fault: { status: 302, headers: { location: 'loop?next-marker=2' } }, error: ['too_many_redirects', /5/] },
};

for (const [name, { fault, error }] of Object.entries(unreadable)) {
  test(`a second page that cannot be read (${name}) fails the job with its reason, and the first is fetched`, async (t) => {
    const server = await fileServer(t);
    server.fault(`/${name}`, page(['0.bin', '1.bin'], '2'));
    server.fault(`/${name}?next-marker=2`, { status: 200, ...fault });
    const job = await run(`${server.origin}/${name}`);
    assert.equal(job.state, 'failed');
    const [reason, message, statusCode = null] = error;
    assert.match(job.error?.message ?? '', message);
    assert.deepEqual(
      { ...job.error, message: '' },
      { reason, message: '', page: 1, token: `${server.origin}/${name}?next-marker=2`, statusCode },
    );
    assert.deepEqual(names(job).toSorted(), ['0.bin', '1.bin']);
    assert.deepEqual(
      [job.progress.filesListed, job.progress.filesDownloaded, job.progress.filesPending, job.progress.pagesDone],
      [2, 2, 0, 1],
    );
    const retryable = ['truncated', 'connection', 'timeout', 'too_slow'].includes(reason) || name === 'dead-500';
    assert.equal(job.progress.requestsRetried % retry.attempts, retryable ? 2 : 0);
  });
}

const at = (marker: string): string => `/list?next-marker=${marker}`;

test('a page that is flaky, or coded, or behind redirects, or empty in the middle, is read in the end', async (t) => {
  const server = await fileServer(t);
  const elsewhere = await fileServer(t);
  server.fault('/list', { ...page(['0.bin'], 'flaky'), codings: ['gzip'] });
  server.fault(at('flaky'), page(['1.bin'], 'reset'));
  server.fault(at('flaky'), { status: 500, times: 2 });
  server.fault(at('reset'), page(['2.bin'], 'cut'));
  server.fault(at('reset'), { cut: { after: 'start', by: 'reset' }, times: 1 });
  server.fault(at('cut'), page(['3.bin'], 'empty'));
  server.fault(at('cut'), { ...page(['30.bin'], 'no'), framing: 'chunked', cut: { after: 12, by: 'end' }, times: 1 });
  server.fault(at('empty'), page([], 'nulls'));
  server.fault(at('nulls'), { status: 200, body: '{"FileNames":null,"NextMarker":"relative"}' });
  server.fault(at('relative'), { status: 302, headers: { location: '/moved' } });
  server.fault('/moved', page(['4.bin'], 'absolute'));
  server.fault(at('absolute'), { status: 301, headers: { location: `${server.origin}/moved-on` } });
  server.fault('/moved-on', page(['5.bin'], 'elsewhere'));
  server.fault(at('elsewhere'), { status: 307, headers: { location: `${elsewhere.origin}/here` } });
  elsewhere.fault('/here', page(['6.bin'], 'last'));
  server.fault(at('last'), page([7, '8.bin'], null));
  const file = server.fault('/get/7', { status: 200, body: 'seven' });
  t.after(file);

  const job = await run(server.listUrl, {}, { authorization: 'Bearer sesame' });
  completed(job, ['0.bin', '1.bin', '2.bin', '3.bin', '4.bin', '5.bin', '6.bin', '7', '8.bin']);
  assert.equal(elsewhere.count(), 1);
  assert.equal(elsewhere.requests[0]?.headers['authorization'], undefined);
  for (const { headers } of server.requests) assert.equal(headers['authorization'], 'Bearer sesame');
});

test('null, empty and absent tokens end the listing', async (t) => {
  const server = await fileServer(t);
  const ends = [null, '', undefined];
  for (const [index, end] of ends.entries()) {
    server.fault(`/end-${index}`, page(['0.bin'], end));
    const job = await run(`${server.origin}/end-${index}`);
    completed(job, ['0.bin']);
    assert.equal(job.progress.pagesListed, 1);
  }
});

test('tokens of every character come back to the server as they were', async (t) => {
  const server = await fileServer(t);
  const characters = Array.from({ length: 0x180 }, (_, code) => String.fromCodePoint(code));
  const tokens = [...characters, '\u2028', '\ufeff', '\uffff', '😀', 'a+b %2B&c=d#e?f', '../..', '"\\\n'];
  const chain = new Map(tokens.map((token, index) => [token, page([`${index}.bin`], tokens[index + 1] ?? null)]));
  for (const [token, fault] of chain) {
    server.fault((path) => new URL(path, server.origin).searchParams.get('next-marker') === token, fault);
  }
  server.fault('/list', page(['999.bin'], tokens[0]));
  const job = await run(server.listUrl);
  const numbers = [...tokens.keys(), 999];
  completed(
    job,
    numbers.map((number) => `${number}.bin`),
  );
  assert.equal(job.progress.pagesListed, tokens.length + 1);
});

const item = (name: string, file: string): object => ({ name, url: `/get/${file}` });

test('a name that is listed twice counts twice and is fetched once, and with two URLs it is a conflict', async (t) => {
  const server = await fileServer(t);
  const [a, b] = [item('a', '1.bin'), item('b', '2.bin')];
  server.fault('/twice', page([a, b, a, item('b', '3.bin'), a, item('c', '4.bin')]));
  const release = server.hold('/get/1.bin');
  t.after(release);
  const ended = run(`${server.origin}/twice`, { nameField: '/name', urlField: '/url' });
  // What the page lists before it has been begun by then.
  await server.requested('/get/4.bin');
  release();
  const job = await ended;
  assert.equal(job.state, 'completed_with_failures');
  const { filesListed, filesDownloaded, filesFailed, filesPending } = job.progress;
  assert.deepEqual([filesListed, filesDownloaded, filesFailed, filesPending], [6, 5, 1, 0]);
  assert.deepEqual(job.failures, { name_conflict: 1 });
  assert.deepEqual(names(job).toSorted(), ['a', 'b', 'c']);
  assert.deepEqual(
    [1, 2, 3].map((index) => server.count(`/get/${index}.bin`)),
    [1, 1, 0],
  );
  assert.deepEqual(
    (await failuresOf(job)).map(({ name, url }) => [name, url]),
    [['b', `${server.origin}/get/3.bin`]],
  );
});

test('numbers are names, and what else is no name is a bad item beside files that arrive', async (t) => {
  const server = await fileServer(t);
  const numbers = [0, 7, -1, 1.5, 1e21, 9_007_199_254_740_991];
  const bad = [null, true, [], ['0.bin'], {}, { name: '0.bin' }, 2 ** 53];
  const files = ['0', '7', '-1', '1.5', '9007199254740991'];
  for (const name of files) server.fault(`/get/${name}`, { status: 200, body: name });
  server.fault('/items', page([...numbers, ...bad, '0.bin']));
  const job = await run(`${server.origin}/items`);
  assert.equal(job.state, 'completed_with_failures');
  // 1e21 has more digits than JSON.parse keeps.
  assert.deepEqual(job.failures, { bad_item: bad.length + 1 });
  assert.deepEqual(names(job).toSorted(), [...files, '0.bin'].toSorted());
  for (const name of files) assert.equal(readFileSync(join(service.dataDir, job.sink.path ?? '', name), 'utf8'), name);
  for (const { attempts, url, message } of await failuresOf(job)) {
    assert.deepEqual([attempts, url], [0, null]);
    assert.match(message, /^the item is neither/);
  }
});

test('a token that is another when the page is asked again changes nothing: the listing goes on after the first', async (t) => {
  const server = await fileServer(t);
  const first = Array.from({ length: 100 }, (_, index) => `${index}.bin`);
  server.fault('/changing', page(first, 'second'));
  server.fault('/changing', { ...page(first, 'first'), times: 1 });
  server.fault('/changing?next-marker=first', page(['200.bin']));
  server.fault('/changing?next-marker=second', page(['300.bin']));
  const release = server.hold('/get/1.bin');
  t.after(release);
  const posted = await service.post({
    source: { type: 'listing', url: `${server.origin}/changing`, fileUrl: '/get/{name}' },
    sink: { type: 'directory', path: 'changing' },
  });
  await Promise.all(['/get/1.bin', '/get/200.bin'].map((path) => server.requested(path)));
  service.kill('worker');
  await server.requested('/changing', 2);
  release();
  const job = await service.ended(posted.id);
  completed(job, [...first, '200.bin']);
  assert.equal(server.count('/changing?next-marker=second'), 0);
});
