import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import type { Failure, Job } from '../src/schemas.ts';
import { fileServer, type Fault, type FileServer } from './helpers/file-server.ts';
import { filesBelow } from './helpers/folders.ts';
import { TestService } from './helpers/service.ts';

const service = new TestService();
before(() => service.start());
after(async () => {
  assert.equal(await service.stop(), 0);
});

/** Everything below DATA_DIR, relative to it, folders apart. */
function stored(path = ''): string[] {
  return filesBelow(join(service.dataDir, path)).map((file) => join(path, file));
}

async function failuresOf({ id }: Job): Promise<Map<string, Failure>> {
  const { failures } = (await service.get<{ failures: Failure[] }>(`/jobs/${id}/failures?limit=1000`))!;
  return new Map(failures.map((failure) => [failure.name, failure]));
}

/** The job is at its end with exactly `whole` files, each byte of them, and `failed` others; nothing else was written. */
function check(job: Job, server: FileServer, path: string, whole: Map<string, Uint8Array>, failed: number): void {
  assert.equal(job.state, failed === 0 ? 'completed' : 'completed_with_failures');
  const { progress: p } = job;
  assert.deepEqual(
    [p.filesListed, p.filesDownloaded, p.filesSkipped, p.filesFailed, p.filesPending],
    [whole.size + failed, whole.size, 0, failed, 0],
  );
  assert.equal(
    p.bytesDownloaded,
    [...whole.values()].reduce((sum, body) => sum + body.length, 0),
  );
  assert.equal(server.inFlight, 0);
  const kept = stored(path).filter((file) => !/^[^/]+\/\.gigafetch\/[\w-]+\.(start|empty)$/.test(file));
  assert.deepEqual(kept.toSorted(), [...whole.keys()].map((name) => join(path, name)).toSorted());
  for (const [name, body] of whole) assert.deepEqual(readFileSync(join(service.dataDir, path, name)), body, name);
}

/** What people read: one short line, about the file and not about this program or this host. */
function checkMessage({ name, message }: Failure): void {
  assert.match(message, /^[\x20-\x7e]{5,300}$/, name);
  assert.doesNotMatch(message, /undefined|\[object|NaN|null|UND_ERR|node:|at .*:\d+:\d+/, name);
  assert.ok(!message.includes(service.dataDir), name);
}

const text = 'x'.repeat(2_000);
const large = Buffer.alloc(150_000, 'large ');
// Made once: while the server codes, it answers nobody.
const bomb = gzipSync(Buffer.alloc(20_000_000));
const raw = (head: string, body = ''): Fault => ({ raw: Buffer.from(`HTTP/1.1 ${head}\r\n\r\n${body}`, 'latin1') });
const soon = (): string => new Date(Date.now() + 1_000).toUTCString();

/** Files that arrive whole in the end; `body` where it is not the file's own. */
const survived: Record<string, { fault: Fault; body?: string }> = {
  'flaky-500': { fault: { status: 500, times: 2 } },
  'flaky-502': { fault: { status: 502, times: 1 } },
  'flaky-504': { fault: { status: 504, times: 1 } },
  'flaky-408': { fault: { status: 408, times: 2 } },
  '429-for-a-second': { fault: { status: 429, headers: { 'retry-after': '1' }, times: 1 } },
  '503-until-a-date': { fault: { status: 503, headers: { 'retry-after': soon() }, times: 1 } },
  '503-with-nonsense': { fault: { status: 503, headers: { 'retry-after': 'later' }, times: 1 } },
  'reset-once': { fault: { cut: { after: 'start', by: 'reset' }, times: 1 } },
  'reset-in-the-middle-once': { fault: { cut: { after: 700, by: 'reset' }, times: 1 } },
  'truncated-once': { fault: { cut: { after: 700, by: 'end' }, times: 1 } },
  'chunks-cut-once': { fault: { framing: 'chunked', cut: { after: 700, by: 'end' }, times: 1 } },
  'silent-once': { fault: { cut: { after: 'start', by: 'silence' }, times: 1 } },
  'silent-in-the-middle-once': { fault: { cut: { after: 700, by: 'silence' }, times: 1 } },
  'no-http-once': { fault: { raw: 'SSH-2.0-OpenSSH_9.2\r\n', times: 1 } },
  'large-and-reset-once': { fault: { body: large, cut: { after: 120_000, by: 'reset' }, times: 1 } },
  chunked: { fault: { framing: 'chunked' } },
  'connection-closed': { fault: { close: true } },
  'http-1.0-with-length': { fault: { http10: true } },
  gzip: { fault: { codings: ['gzip'] } },
  deflate: { fault: { codings: ['deflate'] } },
  'deflate-raw': { fault: { codings: ['deflate-raw'], framing: 'chunked' } },
  br: { fault: { codings: ['br'] } },
  'zstd-in-gzip': { fault: { codings: ['zstd', 'gzip'] } },
  'slow-but-not-too-slow': { fault: { slow: { bytes: 200, everyMs: 30 } } },
  empty: { fault: { body: '' }, body: '' },
  'empty-in-chunks': { fault: { body: '', framing: 'chunked' }, body: '' },
  '204': { fault: { status: 204 }, body: '' },
  '203': { fault: { status: 203 } },
  'relative-redirect': { fault: { status: 302, headers: { location: 'target' } }, body: 'the target' },
  'permanent-redirect': { fault: { status: 308, headers: { location: '/get/target' } }, body: 'the target' },
  'strange-bytes': { fault: raw('200 \xff\x80\r\nx: \x80\xff\t\r\ncontent-length: 2', 'ok'), body: 'ok' },
  'early-hints': { fault: raw('103 Hi\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2', 'ok'), body: 'ok' },
  'more-than-said': { fault: raw('200 OK\r\ncontent-length: 2', 'ok and more'), body: 'ok' },
};

type Expected = Pick<Failure, 'reason' | 'statusCode'> & { attempts: 1 | 3 };
const httpStatus = (statusCode: number, attempts: 1 | 3): Expected => ({ reason: 'http_status', statusCode, attempts });
const other = (reason: Failure['reason'], attempts: 1 | 3): Expected => ({ reason, statusCode: null, attempts });

/** Files that fail, and how. */
const failed: Record<string, { fault: Fault; expected: Expected }> = {
  'dead-500': { fault: { status: 500 }, expected: httpStatus(500, 3) },
  '404': { fault: { status: 404 }, expected: httpStatus(404, 1) },
  '403': { fault: { status: 403 }, expected: httpStatus(403, 1) },
  '206': { fault: { status: 206 }, expected: httpStatus(206, 1) },
  '304': { fault: { status: 304 }, expected: httpStatus(304, 1) },
  '999': { fault: { status: 999 }, expected: httpStatus(999, 1) },
  'truncated-by-length': { fault: { cut: { after: 700, by: 'end' } }, expected: other('truncated', 3) },
  'truncated-by-chunk': {
    fault: { framing: 'chunked', cut: { after: 700, by: 'end' } },
    expected: other('truncated', 3),
  },
  'reset-in-the-middle': { fault: { cut: { after: 700, by: 'reset' } }, expected: other('truncated', 3) },
  'large-and-reset': {
    fault: { body: large, cut: { after: 120_000, by: 'reset' } },
    expected: other('truncated', 3),
  },
  'reset-before': { fault: { cut: { after: 'start', by: 'reset' } }, expected: other('connection', 3) },
  'closed-before': { fault: { cut: { after: 'start', by: 'end' } }, expected: other('connection', 3) },
  silence: { fault: { cut: { after: 'start', by: 'silence' } }, expected: other('timeout', 3) },
  'silence-in-the-middle': { fault: { cut: { after: 700, by: 'silence' } }, expected: other('timeout', 3) },
  'a-byte-at-times': { fault: { slow: { bytes: 1, everyMs: 3_000 } }, expected: other('timeout', 3) },
  dripping: { fault: { slow: { bytes: 1, everyMs: 20 } }, expected: other('too_slow', 3) },
  'ends-by-closing': { fault: { framing: 'close' }, expected: other('truncated', 3) },
  'http-1.0-without-length': { fault: { http10: true, framing: 'close' }, expected: other('truncated', 3) },
  'no-http': { fault: { raw: 'SSH-2.0-OpenSSH_9.2\r\n' }, expected: other('connection', 3) },
  'two-lengths': {
    fault: raw('200 OK\r\ncontent-length: 1\r\ncontent-length: 2', 'ok'),
    expected: other('connection', 3),
  },
  'header-name-that-is-none': {
    fault: raw('200 OK\r\nx-\xe4: y\r\ncontent-length: 2', 'ok'),
    expected: other('connection', 3),
  },
  'endless-headers': { fault: raw(`200 OK\r\nx: ${'y'.repeat(100_000)}`), expected: other('connection', 3) },
  'too-large': { fault: { body: Buffer.alloc(200_001) }, expected: other('too_large', 1) },
  'too-large-in-chunks': {
    fault: { body: Buffer.alloc(400_000), framing: 'chunked' },
    expected: other('too_large', 1),
  },
  bomb: { fault: { body: bomb, contentEncoding: 'gzip' }, expected: other('too_large', 1) },
  'bomb-in-a-bomb': {
    fault: { body: gzipSync(bomb), contentEncoding: 'gzip, gzip' },
    expected: other('too_large', 1),
  },
  'unknown-coding': { fault: { contentEncoding: 'aes128gcm' }, expected: other('decode', 1) },
  'wrong-coding': { fault: { contentEncoding: 'gzip' }, expected: other('decode', 1) },
  'redirect-loop': {
    fault: { status: 302, headers: { location: 'redirect-loop' } },
    expected: other('too_many_redirects', 1),
  },
  'redirect-without-target': { fault: { status: 302 }, expected: httpStatus(302, 1) },
  'redirect-to-a-file': {
    fault: { status: 302, headers: { location: 'file:///etc/passwd' } },
    expected: httpStatus(302, 1),
  },
  'redirect-to-a-404': { fault: { status: 301, headers: { location: '/get/nothing' } }, expected: httpStatus(404, 1) },
};

// The last as it is shown, shortened.
const unsafe = [
  '../out',
  'a/../../out',
  '/etc/out',
  '.gigafetch/out',
  '.GigaFetch/out',
  'a//b',
  'nul\0',
  'n'.repeat(200),
];

test('whatever single files do, each ends with its own true reason, and the others of the page are whole', async (t) => {
  const healthy = Array.from({ length: 300 }, (_, index) => `healthy/${index}`);
  const bodies = Object.fromEntries(
    [...healthy, ...Object.keys(survived), ...Object.keys(failed)].map((name) => [name, `${name} ${text}`]),
  );
  bodies['large-and-reset-once'] = large.toString();
  const server = await fileServer(t, { files: bodies });
  server.fault('/list', {
    body: JSON.stringify({ FileNames: [...Object.keys(bodies), ...unsafe.slice(0, -1), 'n'.repeat(256)] }),
  });
  server.fault('/get/target', { status: 200, body: 'the target' });
  // As a server does that closes after each hundred requests.
  server.fault((path) => path.startsWith('/get/healthy/') && server.count() % 100 === 0, { close: true });
  for (const [name, { fault }] of Object.entries({ ...survived, ...failed })) {
    server.fault(server.pathOf(name), fault);
  }
  const before = stored();

  const posted = await service.post({
    source: { type: 'listing', url: server.listUrl },
    sink: { type: 'directory', path: 'files' },
    headers: { 'x-secret': 'sesame' },
    retry: { attempts: 3, baseDelayMs: 1 },
    limits: { timeoutMs: 1_000, minBytesPerSecond: 1_000, maxFileBytes: 200_000 },
  });
  const job = await service.ended(posted.id);

  const failures = await failuresOf(job);
  assert.deepEqual([...failures.keys()].toSorted(), [...Object.keys(failed), ...unsafe].toSorted());
  for (const [name, { expected }] of Object.entries(failed)) {
    const failure = failures.get(name);
    assert.ok(failure, name);
    const { reason, statusCode, attempts, url } = failure;
    assert.deepEqual({ reason, statusCode, attempts }, expected, `${name}: ${failure.message}`);
    assert.equal(url, server.origin + server.pathOf(name));
    checkMessage(failure);
  }
  for (const name of unsafe) {
    const { reason, attempts, url } = failures.get(name)!;
    assert.deepEqual([reason, attempts, url], ['unsafe_name', 0, null], name);
    checkMessage(failures.get(name)!);
  }
  const own = [...healthy, ...Object.keys(survived)].map((name) => [name, survived[name]?.body ?? bodies[name]]);
  const whole = new Map(own.map(([name, body]) => [name!, Buffer.from(body!)]));
  check(job, server, 'files', whole, Object.keys(failed).length + unsafe.length);
  const outside = stored().filter((file) => !file.startsWith('files/'));
  assert.deepEqual(outside, before);

  const asks = server.requests.filter(({ path }) => path === '/get/429-for-a-second');
  assert.ok(asks[1]!.atMs - asks[0]!.atMs >= 1_000);
});

test('a listing that tells sizes: a body that ends by closing is whole if it has its size, and no other size will do', async (t) => {
  const bodies: Record<string, string> = { closing: text, 'closing-1.0': text, short: text, long: text, plain: text };
  const server = await fileServer(t, { files: bodies, items: 'objects' });
  server.fault('/get/closing', { framing: 'close' });
  server.fault('/get/closing-1.0', { framing: 'close', http10: true });
  server.fault('/get/short', { framing: 'close', cut: { after: 100, by: 'end' } });
  server.fault('/get/long', { body: `${text}!` });
  const posted = await service.post({
    source: { type: 'listing', url: server.listUrl, nameField: '/name', sizeField: '/size', urlField: '/url' },
    sink: { type: 'directory', path: 'sized' },
    retry: { attempts: 2, baseDelayMs: 1 },
  });
  const job = await service.ended(posted.id);
  const whole = new Map(['closing', 'closing-1.0', 'plain'].map((name) => [name, Buffer.from(text)]));
  check(job, server, 'sized', whole, 2);
  assert.deepEqual(job.failures, { truncated: 2 });
});

test('a server that closes every connection costs no attempts', async (t) => {
  const server = await fileServer(t, { files: 500 });
  server.fault(/./, { close: true });
  const posted = await service.post({
    source: { type: 'listing', url: server.listUrl },
    sink: { type: 'directory', path: 'closing' },
    retry: { attempts: 1 },
  });
  const job = await service.ended(posted.id);
  assert.equal(job.state, 'completed');
  assert.equal(job.progress.filesDownloaded, 500);
  assert.equal(job.progress.requestsRetried, 0);
});

test('redirects lead to other origins too, which never see the headers of the job', async (t) => {
  const server = await fileServer(t, { files: 40 });
  const elsewhere = await fileServer(t, { files: 40, fileBytes: 50 });
  server.fault(/^\/get\/\d\.bin/, { status: 307, headers: { location: `${elsewhere.origin}/get/0.bin` } });
  server.fault('/get/11.bin', { status: 301, headers: { location: '12.bin' } });
  // There and back again.
  server.fault('/get/13.bin', { status: 302, headers: { location: `${elsewhere.origin}/back` } });
  elsewhere.fault('/back', { status: 302, headers: { location: `${server.origin}/get/14.bin?back` } });
  server.fault('/get/14.bin?back', { status: 200, body: 'back' });
  const posted = await service.post({
    source: { type: 'listing', url: server.listUrl },
    sink: { type: 'directory', path: 'elsewhere' },
    headers: { authorization: 'Bearer sesame' },
  });
  const job = await service.ended(posted.id);
  const bodyOf = (index: number): Uint8Array => {
    if (index < 10) return elsewhere.bodyOf('0.bin');
    if (index === 13) return Buffer.from('back');
    return server.bodyOf(index === 11 ? '12.bin' : `${index}.bin`);
  };
  const whole = new Map(Array.from({ length: 40 }, (_, index) => [`${index}.bin`, Buffer.from(bodyOf(index))]));
  check(job, server, 'elsewhere', whole, 0);
  assert.equal(elsewhere.count(), 11);
  for (const { headers } of elsewhere.requests) assert.equal(headers['authorization'], undefined);
  for (const { path, headers } of server.requests) {
    assert.equal(headers['authorization'], path.endsWith('?back') ? undefined : 'Bearer sesame', path);
  }
});
