import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import type { lookup as systemLookup } from 'node:dns';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:https';
import { Socket, type AddressInfo } from 'node:net';
import { after, before, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { brotliCompressSync, constants, deflateSync, gzipSync, zstdCompressSync } from 'node:zlib';
import { cachedLookup } from '../src/dns.ts';
import { FetchError } from '../src/errors.ts';
import { Fetcher, type Answer, type Exchange, type FetchRequest } from '../src/fetch-file.ts';
import { HttpAgent, openConnector } from '../src/http.ts';
import { collector } from '../src/memory.ts';
import type { BodyWriter } from '../src/sinks/index.ts';
import { certificate, certificateKey } from './helpers/certificate.ts';
import { startFileServer, type Coding, type Fault, type FileServer } from './helpers/file-server.ts';

let server: FileServer;
let agent: HttpAgent;
let fetcher: Fetcher;

before(async () => {
  server = await startFileServer({ files: 10_000 });
  agent = new HttpAgent();
  fetcher = new Fetcher(agent);
});

after(async () => {
  fetcher.close();
  agent.close();
  await server.stop();
});

/** A writer that remembers what became of it. */
class MemoryWriter implements BodyWriter {
  chunks: Uint8Array[] = [];
  state: 'open' | 'finished' | 'aborted' = 'open';
  write(chunk: Uint8Array): void {
    this.chunks.push(new Uint8Array(chunk));
  }
  finish(): void {
    this.state = 'finished';
  }
  abort(): void {
    assert.notEqual(this.state, 'finished');
    this.state = 'aborted';
  }
}

class ForgetfulWriter extends MemoryWriter {
  override write(): void {}
}

type Outcome = { answer: Answer } | { location: string } | { error: FetchError };

interface Running {
  exchange: Exchange;
  outcome: Promise<Outcome>;
}

function start(path: string, over: Partial<FetchRequest> = {}, open: () => BodyWriter | null = () => null): Running {
  const { promise, resolve } = Promise.withResolvers<Outcome>();
  let returned = false;
  let ended = false;
  const end = (outcome: Outcome): void => {
    assert.ok(returned, 'the handler was called from within start()');
    assert.ok(!ended, 'the handler was called twice');
    ended = true;
    resolve(outcome);
  };
  const exchange = fetcher.start(
    {
      origin: server.origin,
      path,
      headers: [],
      sizeBytes: null,
      timeoutMs: 30_000,
      minBytesPerSecond: 0,
      maxBytes: 1_000_000_000,
      memoryBytes: 65_536,
      ...over,
    },
    {
      open,
      onBody: (answer) => end({ answer }),
      onRedirect: (location) => end({ location }),
      onError: (error) => end({ error }),
    },
  );
  returned = true;
  return { exchange, outcome: promise };
}

async function get(path: string, over?: Partial<FetchRequest>, open?: () => BodyWriter | null): Promise<Answer> {
  const outcome = await start(path, over, open).outcome;
  if ('error' in outcome) throw outcome.error;
  assert.ok('answer' in outcome, 'a redirect came');
  return outcome.answer;
}

async function fail(path: string, over?: Partial<FetchRequest>, open?: () => BodyWriter | null): Promise<FetchError> {
  const outcome = await start(path, over, open).outcome;
  assert.ok('error' in outcome, `no error but ${JSON.stringify(outcome)}`);
  return outcome.error;
}

async function withFault<T>(path: string, fault: Fault, run: () => Promise<T>): Promise<T> {
  const remove = server.fault(path, fault);
  try {
    return await run();
  } finally {
    remove();
  }
}

function text(answer: Answer): string {
  assert.ok(answer.body !== null);
  return Buffer.from(answer.body).toString('latin1');
}

function assertError(error: FetchError, reason: string, retryable: boolean, message?: RegExp): void {
  assert.equal(error.reason, reason, error.message);
  assert.equal(error.retryable, retryable, error.message);
  if (message !== undefined) assert.match(error.message, message);
}

const file = '/get/1.bin';
const whole = () => Buffer.from(server.bodyOf('1.bin')).toString();

test('a file comes whole, with its status and headers', async () => {
  const answer = await get(file, { sizeBytes: 100 });
  assert.equal(text(answer), whole());
  assert.equal(answer.bytes, 100);
  assert.equal(answer.statusCode, 200);
  assert.equal(answer.headers['content-type'], 'application/octet-stream');
});

test('thousands of files come over as many connections as are in flight, each asked for once', async () => {
  const { connections } = server;
  let next = 0;
  const one = async (): Promise<void> => {
    while (next < 5_000) {
      const path = server.pathOf(`${next++}.bin`);
      const already = server.count(path);
      assert.equal(text(await get(path)), Buffer.from(server.bodyOf(path.slice(5))).toString());
      assert.equal(server.count(path), already + 1);
    }
  };
  await Promise.all(Array.from({ length: 32 }, one));
  assert.ok(server.connections - connections <= 32);
  assert.equal(fetcher.inFlight, 0);
});

function lastHeaders(): Readonly<Record<string, string>> {
  return server.requests.at(-1)?.headers ?? {};
}

test('the request asks for no coding and says who asks, unless the caller does', async () => {
  await get(file);
  assert.equal(lastHeaders()['accept-encoding'], 'identity');
  assert.match(lastHeaders()['user-agent']!, /^gigafetch\/\d/);
  await get(file, { headers: ['User-Agent', 'me', 'Accept-Encoding', 'gzip', 'authorization', 'Bearer x'] });
  assert.equal(lastHeaders()['accept-encoding'], 'identity');
  assert.equal(lastHeaders()['user-agent'], 'me');
  assert.equal(lastHeaders()['authorization'], 'Bearer x');
});

test('a request that cannot be sent fails, for good and not from within start', async () => {
  assertError(await fail(file, { headers: ['bad name', 'x'] }), 'connection', false, /header/);
  assertError(await fail('/with a space'), 'connection', false, /path/);
  assertError(await fail(file, { origin: 'nonsense' }), 'connection', false, /URL/);
});

const stacks: Coding[][] = [
  ['gzip'],
  ['x-gzip'],
  ['deflate'],
  ['deflate-raw'],
  ['br'],
  ['zstd'],
  ['gzip', 'br'],
  ['deflate', 'zstd', 'gzip'],
  ['deflate-raw', 'gzip'],
];
for (const codings of stacks) {
  test(`a body coded by ${codings.join(', ')} is decoded`, async () => {
    await withFault(file, { codings }, async () => assert.equal(text(await get(file, { sizeBytes: 100 })), whole()));
    await withFault(file, { codings, framing: 'chunked', slow: { bytes: 7, everyMs: 1 } }, async () =>
      assert.equal(text(await get(file)), whole()),
    );
  });

  test(`a body coded by ${codings.join(', ')} that is cut, damaged or followed by more is no file`, async () => {
    const fault = { codings, framing: 'chunked' as const };
    await withFault(file, { ...fault, cut: { after: 20, by: 'end' } }, async () =>
      assertError(await fail(file), 'truncated', true),
    );
    const contentEncoding = codings.map((coding) => (coding === 'deflate-raw' ? 'deflate' : coding)).join(', ');
    await withFault(file, { contentEncoding, body: 'this was never coded, whatever it says' }, async () =>
      assertError(await fail(file), 'decode', false, /damaged/),
    );
    const coded = await codedBy(codings);
    for (const body of [
      coded.subarray(0, -1),
      coded.subarray(0, coded.length >> 1),
      Buffer.concat([coded, Buffer.from('more')]),
    ]) {
      await withFault(file, { contentEncoding, body }, async () =>
        assertError(await fail(file), 'decode', false, /damaged/),
      );
    }
  });
}

/** The file's bytes as the server sends them. */
async function codedBy(codings: readonly Coding[]): Promise<Buffer> {
  return withFault(file, { codings, contentEncoding: '' }, async () => Buffer.from(text(await get(file)), 'latin1'));
}

test('codings are counted as one list, identity is none, and an unknown one is an error', async () => {
  await withFault(file, { contentEncoding: 'identity' }, async () => assert.equal(text(await get(file)), whole()));
  await withFault(file, { codings: ['gzip'], contentEncoding: 'GZIP , identity' }, async () =>
    assert.equal(text(await get(file)), whole()),
  );
  await withFault(file, { contentEncoding: 'exi' }, async () =>
    assertError(await fail(file), 'decode', false, /unknown: exi/),
  );
  await withFault(file, { contentEncoding: 'toString' }, async () => assertError(await fail(file), 'decode', false));
  await withFault(file, { contentEncoding: 'gzip, gzip, gzip, gzip, gzip' }, async () =>
    assertError(await fail(file), 'decode', false, /more than/),
  );
  await withFault(file, { headers: { 'transfer-encoding': 'gzip, chunked' }, framing: 'chunked' }, async () =>
    assertError(await fail(file), 'decode', false, /transfer/),
  );
});

test('an empty body is an empty file in any coding', async () => {
  await withFault(file, { body: '', contentEncoding: 'gzip' }, async () => assert.equal(text(await get(file)), ''));
  await withFault(file, { body: '' }, async () => assert.equal(text(await get(file, { sizeBytes: 0 })), ''));
  await withFault(file, { body: '', framing: 'chunked' }, async () => assert.equal(text(await get(file)), ''));
  await withFault(file, { status: 204 }, async () => assert.equal(text(await get(file)), ''));
  await withFault(file, { status: 204 }, async () =>
    assertError(await fail(file, { sizeBytes: 1 }), 'truncated', true),
  );
});

const quickBrotli = (body: Buffer) => brotliCompressSync(body, { params: { [constants.BROTLI_PARAM_QUALITY]: 3 } });
const bombs = { gzip: gzipSync, deflate: deflateSync, br: quickBrotli, zstd: zstdCompressSync };
for (const [coding, encode] of Object.entries(bombs)) {
  test(`a ${coding} bomb is cut at maxBytes, with little memory`, async () => {
    // Packed beforehand, so that the server, in this same process, needs no memory for it.
    const bomb = encode(Buffer.alloc(100_000_000));
    await withFault(file, { body: bomb, contentEncoding: coding }, async () => {
      await assertBounded(async (writer) => {
        assertError(await fail(file, { maxBytes: 20_000_000 }, () => writer), 'too_large', false);
        assert.equal(writer.state, 'aborted');
      });
    });
  });
}

test('a coded body without end that stands for nothing is cut', async () => {
  const body = Buffer.concat(Array(500_000).fill(gzipSync('')));
  await withFault('/get/9011.bin', { body, contentEncoding: 'gzip' }, async () => {
    assertError(await fail('/get/9011.bin', { maxBytes: 1_000_000 }), 'too_large', false, /larger than 2065536 bytes/);
    await server.abandoned('/get/9011.bin');
    assert.equal(text(await get('/get/9011.bin', { maxBytes: 10_000_000 })), '');
  });
});

/** Nothing but small change may pile up in memory while a writer that forgets what it gets is written to. */
async function assertBounded(run: (writer: MemoryWriter) => Promise<void>): Promise<void> {
  await collector()({ execution: 'async' });
  const before = process.memoryUsage().arrayBuffers;
  let most = 0;
  const writer = new MemoryWriter();
  writer.write = () => {
    most = Math.max(most, process.memoryUsage().arrayBuffers);
  };
  await run(writer);
  assert.ok(most > 0 && most - before < 40_000_000, `${most - before} bytes`);
}

test('a large coded body is decoded with back-pressure and every byte of it', async () => {
  const body = randomBytes(20_000_000);
  const coded = gzipSync(zstdCompressSync(body));
  await withFault(file, { body: coded, contentEncoding: 'zstd, gzip' }, async () => {
    const writer = new MemoryWriter();
    const answer = await get(file, { sizeBytes: body.length }, () => writer);
    assert.equal(answer.body, null);
    assert.equal(writer.state, 'finished');
    assert.ok(Buffer.concat(writer.chunks).equals(body));
  });
});

test('a body may be several zstd frames or gzip members, one after another, however they come', async () => {
  const parts = [Buffer.alloc(0), Buffer.from('first '), randomBytes(300_000), Buffer.from(' last')];
  const body = Buffer.concat(parts);
  for (const [contentEncoding, pack] of Object.entries({ zstd: zstdCompressSync, gzip: gzipSync })) {
    const whole = Buffer.concat(parts.map((part) => pack(part)));
    for (const slow of [{}, { slow: { bytes: 10_007, everyMs: 1 } }]) {
      await withFault(file, { body: whole, contentEncoding, ...slow }, async () => {
        const writer = new MemoryWriter();
        await get(file, { sizeBytes: body.length }, () => writer);
        assert.ok(Buffer.concat(writer.chunks).equals(body), contentEncoding);
      });
    }
    const followed = ['and more', '\0', '\0and more'].map((more) => Buffer.concat([whole, Buffer.from(more)]));
    for (const damaged of [whole.subarray(0, -3), ...followed]) {
      await withFault(file, { body: damaged, contentEncoding }, async () => {
        assert.equal((await fail(file, {}, () => new MemoryWriter())).reason, 'decode');
      });
    }
  }
});

test('a body of very many zstd frames with nothing in them is no file', async () => {
  const frame = zstdCompressSync('');
  await withFault(file, { body: Buffer.alloc(10_100 * frame.length, frame), contentEncoding: 'zstd' }, async () => {
    assertError(await fail(file), 'decode', false, /more than 10000 zstd frames/);
  });
});

// Each 30 KB of it are 30 MB, which takes far longer to unfold than to bring.
const slowToDecode = (members: number) => Buffer.concat(Array(members).fill(gzipSync(Buffer.alloc(30_000_000))));

test('a server that is quicker than the decoder waits', async () => {
  await withFault('/get/9010.bin', { body: slowToDecode(2_000), contentEncoding: 'gzip' }, async () => {
    const error = await fail('/get/9010.bin', { maxBytes: 400_000_000 }, () => new ForgetfulWriter());
    assertError(error, 'too_large', false);
    await server.abandoned('/get/9010.bin');
  });
});

test('a coding that unfolds faster than the next one takes waits', async () => {
  const body = deflateSync(slowToDecode(3_000));
  await withFault(file, { body, contentEncoding: 'gzip, deflate' }, async () => {
    await assertBounded(async (writer) => {
      assertError(await fail(file, { maxBytes: 600_000_000 }, () => writer), 'too_large', false);
    });
  });
});

const cuts: [string, Fault][] = [
  ['by length, closed', { cut: { after: 50, by: 'end' } }],
  ['by length, reset', { cut: { after: 50, by: 'reset' } }],
  ['by length, closed before the body', { cut: { after: 0, by: 'end' } }],
  ['by length, on a connection that closes anyway', { cut: { after: 50, by: 'end' }, close: true }],
  ['by length, HTTP/1.0', { cut: { after: 50, by: 'end' }, http10: true }],
  ['in chunks, closed', { cut: { after: 60, by: 'end' }, framing: 'chunked' }],
  ['in chunks, reset', { cut: { after: 60, by: 'reset' }, framing: 'chunked' }],
  ['in chunks, without the last', { cut: { after: 112, by: 'end' }, framing: 'chunked', close: true }],
];
for (const [name, fault] of cuts) {
  test(`a body that is cut (${name}) is truncated, and its connection is not used again`, async () => {
    await get(file);
    await withFault(file, fault, async () => assertError(await fail(file), 'truncated', true));
    assert.equal(text(await get(file)), whole());
  });
}

test('a body that ends by closing counts only where the listing confirms its size', async () => {
  const fault: Fault = { framing: 'close' };
  await withFault(file, fault, async () => assert.equal(text(await get(file, { sizeBytes: 100 })), whole()));
  await withFault(file, fault, async () => assertError(await fail(file), 'truncated', true, /cannot be told/));
  for (const by of ['end', 'reset'] as const) {
    await withFault(file, { ...fault, cut: { after: 50, by } }, async () =>
      assertError(await fail(file, { sizeBytes: 100 }), 'truncated', true),
    );
  }
  await withFault(file, { ...fault, http10: true, codings: ['gzip'] }, async () =>
    assert.equal(text(await get(file, { sizeBytes: 100 })), whole()),
  );
});

test('HTTP/1.0, connections that close, chunks and 203 are all fine', async () => {
  for (const fault of [{ http10: true }, { close: true }, { framing: 'chunked' }, { status: 203 }] satisfies Fault[]) {
    await withFault(file, fault, async () => {
      assert.equal(text(await get(file, { sizeBytes: 100 })), whole());
      assert.equal(text(await get(file)), whole());
    });
  }
});

test('a size other than the listing says is truncated', async () => {
  assertError(await fail(file, { sizeBytes: 99 }), 'truncated', true, /100 bytes, the listing says 99/);
  await withFault(file, { codings: ['br'] }, async () =>
    assertError(await fail(file, { sizeBytes: 101 }), 'truncated', true),
  );
});

test('every other status is an error that says whether another attempt may help', async () => {
  const retryable = [408, 425, 429, 500, 502, 503, 504];
  for (const status of [201, 206, 300, 304, 400, 401, 403, 404, 410, 416, 418, 501, 505, 599, ...retryable]) {
    await withFault(file, { status }, async () => {
      const error = await fail(file);
      assertError(error, 'http_status', retryable.includes(status));
      assert.equal(error.statusCode, status);
      assert.equal(error.retryAfterMs, null);
    });
  }
});

test('Retry-After is told in milliseconds, as seconds and as a date in all three forms', async () => {
  const date = 'Sun, 06 Nov 1994 08:49:27 GMT';
  const cases: [string, number | null][] = [
    ['7', 7000],
    ['7 ', 7000],
    ['0', 0],
    ['Sun, 06 Nov 1994 08:49:37 GMT', 10_000],
    ['Sunday, 06-Nov-94 08:49:37 GMT', 10_000],
    ['Sun Nov  6 08:49:37 1994', 10_000],
    ['Sun, 06 Nov 1994 08:49:17 GMT', 0],
    ['soon', null],
    ['-5', null],
    ['1.5', null],
  ];
  for (const [value, expected] of cases) {
    for (const status of [429, 503]) {
      await withFault(file, { status, headers: { date, 'retry-after': value } }, async () =>
        assert.equal((await fail(file)).retryAfterMs, expected, value),
      );
    }
  }
  const inAMinute = new Date(Date.now() + 60_000).toUTCString();
  await withFault(file, { status: 503, headers: { 'retry-after': inAMinute } }, async () => {
    const { retryAfterMs } = await fail(file);
    assert.ok(retryAfterMs !== null && retryAfterMs > 50_000 && retryAfterMs <= 60_000);
  });
  await withFault(file, { status: 500, headers: { 'retry-after': '7' } }, async () =>
    assert.equal((await fail(file)).retryAfterMs, null),
  );
});

test('a redirect is told as an absolute URL, without fragment and credentials', async () => {
  const cases: [string, string][] = [
    ['/get/2.bin', `${server.origin}/get/2.bin`],
    ['2.bin?x=1#part', `${server.origin}/get/2.bin?x=1`],
    ['//other.test/a', 'http://other.test/a'],
    ['https://me:secret@other.test/a', 'https://other.test/a'],
    [Buffer.from('/get/ü', 'utf8').toString('latin1'), `${server.origin}/get/%C3%BC`],
  ];
  for (const [location, expected] of cases) {
    for (const status of [301, 302, 303, 307, 308]) {
      await withFault(file, { status, headers: { location } }, async () =>
        assert.deepEqual(await start(file).outcome, { location: expected }),
      );
    }
  }
  for (const location of ['', 'ftp://other.test/a', 'http://', 'javascript:1']) {
    await withFault(file, { status: 302, headers: { location } }, async () =>
      assertError(await fail(file), 'http_status', false),
    );
  }
});

test('small bodies of errors and redirects are read to keep the connection, large ones cost it', async () => {
  await get(file);
  let { connections } = server;
  const small: Fault[] = [
    { status: 404, body: 'x'.repeat(60_000) },
    { status: 404, framing: 'chunked' },
  ];
  for (const fault of [...small, { status: 302, headers: { location: '/x' } }]) {
    await withFault(file, fault, () => start(file).outcome);
    await get(file);
    assert.equal(server.connections, connections);
  }
  for (const framing of ['length', 'chunked'] as const) {
    await withFault(file, { status: 404, body: 'x'.repeat(1_000_000), framing }, async () =>
      assertError(await fail(file), 'http_status', false),
    );
    await get(file);
    assert.equal(server.connections, ++connections);
  }
  await withFault(file, { status: 404, body: 'x'.repeat(70_000), cut: { after: 0, by: 'silence' } }, async () =>
    assertError(await fail(file, { timeoutMs: 3_600_000 }), 'http_status', false),
  );
  await withFault(file, { status: 404, cut: { after: 3, by: 'reset' } }, async () =>
    assertError(await fail(file), 'http_status', false),
  );
});

test('a body over maxBytes is refused by its length, or as soon as it has come', async () => {
  await withFault(file, { cut: { after: 0, by: 'silence' } }, async () =>
    assertError(await fail(file, { maxBytes: 99 }), 'too_large', false),
  );
  await withFault(file, { framing: 'chunked' }, async () =>
    assertError(await fail(file, { maxBytes: 99 }), 'too_large', false),
  );
  assert.equal(text(await get(file, { maxBytes: 100 })), whole());
});

test('a body over memoryBytes goes to the writer, one of just that size does not', async () => {
  const writer = new MemoryWriter();
  const answer = await get(file, { memoryBytes: 99 }, () => writer);
  assert.equal(answer.body, null);
  assert.equal(answer.bytes, 100);
  assert.equal(writer.state, 'finished');
  assert.equal(Buffer.concat(writer.chunks).toString(), whole());
  assert.equal(text(await get(file, { memoryBytes: 100 }, () => assert.fail('opened'))), whole());
  assertError(await fail(file, { memoryBytes: 99 }), 'too_large', false);
});

test('a body that comes in crumbs is put together, in memory and in the writer', async () => {
  await withFault(file, { body: 'abcdefg'.repeat(100), slow: { bytes: 3, everyMs: 0 } }, async () => {
    assert.equal(text(await get(file)), 'abcdefg'.repeat(100));
    const writer = new MemoryWriter();
    await get(file, { memoryBytes: 350 }, () => writer);
    assert.equal(Buffer.concat(writer.chunks).toString(), 'abcdefg'.repeat(100));
  });
});

test('what the writer throws is the error, and a body that did not end whole is aborted', async () => {
  const full = new FetchError('sink', 'disk full');
  for (const method of ['write', 'finish'] as const) {
    const writer = new MemoryWriter();
    writer[method] = () => {
      throw full;
    };
    assert.equal(await fail(file, { memoryBytes: 0 }, () => writer), full);
    assert.equal(writer.state, 'aborted');
  }
  const unopened = () => {
    throw full;
  };
  assert.equal(await fail(file, { memoryBytes: 0 }, unopened), full);
  const cut = new MemoryWriter();
  await withFault(file, { cut: { after: 50, by: 'reset' } }, async () =>
    assertError(await fail(file, { memoryBytes: 10 }, () => cut), 'truncated', true),
  );
  assert.equal(cut.state, 'aborted');
  // The head says that it will be a large one.
  const begun = new MemoryWriter();
  let opened = 0;
  await withFault(file, { cut: { after: 0, by: 'end' } }, async () =>
    fail(file, { memoryBytes: 10 }, () => {
      opened += 1;
      return begun;
    }),
  );
  assert.equal(opened, 1);
  assert.equal(begun.state, 'aborted');
  const wrongSize = new MemoryWriter();
  assertError(await fail(file, { memoryBytes: 10, sizeBytes: 5 }, () => wrongSize), 'truncated', true);
  assert.equal(wrongSize.state, 'aborted');
});

test('silence is cut after timeoutMs, before the answer and within the body', async () => {
  for (const after of ['start', 0, 50] as const) {
    await withFault(file, { cut: { after, by: 'silence' } }, async () => {
      const began = performance.now();
      const error = await fail(file, { timeoutMs: 100 });
      assertError(error, 'timeout', true, after === 'start' ? /no answer within 100 ms/ : /no more of the body/);
      assert.ok(performance.now() - began >= 100);
      await server.abandoned(file);
    });
  }
});

test('a connection that does not come about is cut after timeoutMs', async () => {
  const sockets: Socket[] = [];
  const deaf = new HttpAgent({
    connector: () => {
      sockets.push(new Socket());
      return sockets[0]!;
    },
  });
  const usual = fetcher;
  fetcher = new Fetcher(deaf);
  const keepAlive = setInterval(() => undefined, 1000);
  assertError(await fail(file, { timeoutMs: 100 }), 'timeout', true, /no connection within 100 ms/);
  clearInterval(keepAlive);
  assert.ok(sockets[0]?.destroyed);
  assert.equal(deaf.connections, 0);
  fetcher = usual;
});

test('a body slower than minBytesPerSecond is cut once it took timeoutMs, and only then', async () => {
  await withFault(file, { slow: { bytes: 1, everyMs: 10 } }, async () => {
    const began = performance.now();
    const error = await fail(file, { timeoutMs: 200, minBytesPerSecond: 10_000 });
    assertError(error, 'too_slow', true, /bytes of the body in \d+ ms/);
    assert.ok(performance.now() - began >= 200);
    assert.equal(text(await get(file, { timeoutMs: 5_000, minBytesPerSecond: 10_000 })), whole());
    assert.equal(text(await get(file, { timeoutMs: 200, minBytesPerSecond: 0 })), whole());
  });
});

test('time for which the process was held up is no silence of the server', async () => {
  const release = server.hold('/get/9002.bin');
  const { outcome } = start('/get/9002.bin', { timeoutMs: 300 });
  await server.requested('/get/9002.bin');
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1000);
  await turn();
  release();
  assert.ok('answer' in (await outcome));
});

test('a refused connection is told in the words of the system', async () => {
  const gone = await startFileServer();
  await gone.stop();
  assertError(await fail(file, { origin: gone.origin }), 'connection', true, /ECONNREFUSED 127\.0\.0\.1/);
});

test('HTTPS works, and a certificate that is not trusted is a connection error', async () => {
  const secure = createServer({ key: certificateKey, cert: certificate }, (_request, response) => response.end('safe'));
  secure.listen(0, '127.0.0.1');
  await once(secure, 'listening');
  const origin = `https://127.0.0.1:${(secure.address() as AddressInfo).port}`;
  assertError(await fail('/', { origin }), 'connection', true, /self-signed certificate/);
  const trusting = new HttpAgent({ connector: openConnector({ ca: certificate }) });
  const usual = fetcher;
  fetcher = new Fetcher(trusting);
  for (let round = 0; round < 3; round++) assert.equal(text(await get('/', { origin })), 'safe');
  assert.equal(trusting.connections, 1);
  trusting.close();
  fetcher = usual;
  secure.close();
});

test('a name is looked up once for many connections, and again when what was found is too old', async () => {
  const missing = new Error('getaddrinfo EAI_AGAIN files.test');
  let clock = 0;
  let asked = 0;
  const resolve = (_name: string, _options: object, done: (error: Error | null, found: object[]) => void): void => {
    if (asked++ === 0) setImmediate(done, missing, []);
    else setImmediate(done, null, [{ address: '127.0.0.1', family: 4 }]);
  };
  const lookup = cachedLookup(resolve as typeof systemLookup, () => clock);
  const look = (options: object): Promise<unknown> =>
    new Promise((done) => {
      lookup('files.test', options, (error, found) => done(error ?? found));
    });
  assert.deepEqual(await Promise.all([look({ all: true }), look({})]), [missing, missing]);
  clock = 999;
  assert.equal(await look({}), missing);
  assert.equal(asked, 1);
  clock = 1000;
  assert.deepEqual(await Promise.all([look({ all: true }), look({})]), [
    [{ address: '127.0.0.1', family: 4 }],
    '127.0.0.1',
  ]);
  assert.match(String(await look({ family: 6 })), /ENOTFOUND/);
  clock = 10_999;
  assert.equal(await look({ family: 4 }), '127.0.0.1');
  assert.equal(asked, 2);
  clock = 11_000;
  await look({});
  assert.equal(asked, 3);
});

test('a reset before the first byte is stale on a connection that had answered, and only there', async () => {
  const fresh = await startFileServer();
  fresh.fault('/get/1.bin', { cut: { after: 'start', by: 'reset' } });
  fresh.fault('/get/2.bin', { cut: { after: 'start', by: 'end' } });
  fresh.fault('/get/3.bin', { raw: 'HTTP/1.1 2' });
  const { origin } = fresh;
  const first = await fail('/get/1.bin', { origin });
  assertError(first, 'connection', true);
  assert.equal(first.stale, false);
  for (const path of ['/get/1.bin', '/get/2.bin']) {
    await get('/get/4.bin', { origin });
    const error = await fail(path, { origin });
    assertError(error, 'connection', true);
    assert.equal(error.stale, true);
    const again = await fail(path, { origin });
    assert.equal(again.stale, false);
  }
  // A closing answer: what follows at once goes over a new socket of the same connection.
  fresh.fault('/get/5.bin', { close: true });
  await get('/get/5.bin', { origin });
  assert.equal((await fail('/get/1.bin', { origin })).stale, false);
  await get('/get/4.bin', { origin });
  const begun = await fail('/get/3.bin', { origin });
  assertError(begun, 'connection', true);
  assert.equal(begun.stale, false);
  await fresh.stop();
});

test('a connection that the server closed while idle is replaced without an error', async () => {
  const restless = await startFileServer();
  const { origin } = restless;
  const mine = new HttpAgent();
  const usual = fetcher;
  fetcher = new Fetcher(mine);
  for (let round = 0; round < 5; round++) {
    await get(file, { origin });
    assert.equal(mine.connections, 1);
    await restless.down();
    while (mine.connections > 0) await turn();
    await restless.up();
  }
  fetcher = usual;
  await restless.stop();
});

test('connections that close after each answer leave nothing behind', async () => {
  const closing = await startFileServer();
  closing.fault(/./, { close: true, codings: ['gzip'] });
  const mine = new HttpAgent();
  const usual = fetcher;
  fetcher = new Fetcher(mine);
  await Promise.all(Array.from({ length: 50 }, () => get(file, { origin: closing.origin })));
  while (mine.connections > 0) await turn();
  fetcher = usual;
  await closing.stop();
});

const malformed: [string, string][] = [
  ['something else', 'SSH-2.0-OpenSSH_9.2\r\n'],
  ['a length that is no number', 'HTTP/1.1 200 OK\r\ncontent-length: abc\r\n\r\n'],
  ['a status that is none', 'HTTP/1.1 000 OK\r\ncontent-length: 0\r\n\r\n'],
  ['two lengths', 'HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab'],
  ['length and chunks', 'HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n'],
  ['bad chunks', 'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n'],
  ['endless headers', `HTTP/1.1 200 OK\r\nx: ${'y'.repeat(100_000)}\r\n\r\n`],
];
for (const [name, raw] of malformed) {
  test(`an answer that is not HTTP (${name}) is a connection error`, async () => {
    await withFault(file, { raw }, async () => assertError(await fail(file), 'connection', true, /not HTTP/));
  });
}

test('informational answers are passed over, and strange bytes in headers do no harm', async () => {
  const raw =
    'HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 \xff\r\nx: \x80\xff\r\ncontent-length: 2\r\n\r\nok';
  await withFault(file, { raw: Buffer.from(raw, 'latin1') }, async () => {
    const answer = await get(file);
    assert.equal(text(answer), 'ok');
    assert.equal(answer.headers['x'], '\x80\xff');
  });
});

test('an aborted exchange ends at once with the given error, and once', async () => {
  const release = server.hold('/get/9005.bin');
  const { exchange, outcome } = start('/get/9005.bin');
  await server.requested('/get/9005.bin');
  const reason = new FetchError('connection', 'paused');
  exchange.abort(reason);
  exchange.abort(new FetchError('connection', 'again'));
  assert.deepEqual(await outcome, { error: reason });
  await server.abandoned('/get/9005.bin');
  release();
  const early = start('/get/9006.bin');
  early.exchange.abort(reason);
  assert.deepEqual(await early.outcome, { error: reason });
  const { exchange: ended, outcome: answer } = start(file);
  assert.ok('answer' in (await answer));
  ended.abort(reason);
  assert.equal(text(await get(file)), whole());
});

test('the error of an abort wins over a redirect whose body is still being read', async () => {
  const fault: Fault = { status: 302, headers: { location: '/x' }, body: 'abcdef', cut: { after: 3, by: 'silence' } };
  await withFault(file, fault, async () => {
    const already = server.count(file);
    const { exchange, outcome } = start(file);
    await server.requested(file, already + 1);
    // The head of the redirect was sent before this: it has been read when this has.
    await get('/get/2.bin');
    const reason = new FetchError('connection', 'paused');
    exchange.abort(reason);
    assert.deepEqual(await outcome, { error: reason });
  });
});

test('at maxConnections the longest idle connection makes room', async () => {
  const others = await Promise.all([startFileServer(), startFileServer(), startFileServer()]);
  const mine = new HttpAgent({ maxConnections: 2 });
  const usual = fetcher;
  fetcher = new Fetcher(mine);
  for (const { origin } of [...others, ...others]) {
    assert.ok(fetcher.hasRoom);
    await get(file, { origin });
    assert.ok(mine.connections <= 2);
  }
  assert.deepEqual(
    others.map((other) => other.connections),
    [2, 2, 2],
  );
  const last = others[2];
  const release = last.hold(/./);
  const held = [start('/get/1.bin', { origin: last.origin }), start('/get/2.bin', { origin: last.origin })];
  assert.equal(fetcher.hasRoom, false);
  release();
  for (const { outcome } of held) assert.ok('answer' in (await outcome));
  assert.equal(mine.connections, 2);
  assert.ok(fetcher.hasRoom);
  mine.close();
  assert.equal(mine.connections, 0);
  assertError(await fail(file), 'connection', true, /shutting down/);
  fetcher = usual;
  await Promise.all(others.map((other) => other.stop()));
});

test('close ends all that is in flight', async () => {
  const release = server.hold('/get/9007.bin');
  const running = [start('/get/9007.bin'), start('/get/9007.bin')];
  await server.requested('/get/9007.bin', 2);
  fetcher.close();
  for (const { outcome } of running) {
    const ended = await outcome;
    assert.ok('error' in ended);
    assertError(ended.error, 'connection', true, /shutting down/);
  }
  release();
});

test('the limit of open files bounds the connections, less what else is open', () => {
  const script = `import { connectionLimit } from './src/http.ts'; console.log(JSON.stringify(connectionLimit()))`;
  for (const [files, connections] of [
    [256, 192],
    [10_000, 9_000],
  ] as const) {
    const command = `ulimit -n ${files} && exec "$0" --input-type=module -e "$1"`;
    const { stdout } = spawnSync('sh', ['-c', command, process.execPath, script], { encoding: 'utf8' });
    assert.deepEqual(JSON.parse(stdout), { connections, openFilesLimit: files });
  }
});

test('304 is an answer to a request with a condition, and to no other', async () => {
  const condition = ['if-none-match', '"a"'] as const;
  const notModified: Fault = { status: 304, headers: { etag: '"a"' } };
  await withFault('/get/1.bin', notModified, async () => {
    const before = server.connections;
    const headers = ['x-own', '1'];
    for (let n = 0; n < 3; n++) {
      const answer = await get('/get/1.bin', { headers, condition });
      assert.deepEqual([answer.statusCode, answer.body, answer.bytes], [304, null, 0]);
      assert.equal(answer.headers['etag'], '"a"');
    }
    assert.equal((await fail('/get/1.bin', { headers })).statusCode, 304);
    assert.ok(server.connections - before <= 1, 'its connections are used again');
    const asked = server.requests.slice(-4).map(({ headers }) => [headers['if-none-match'], headers['x-own']]);
    const conditional = ['"a"', '1'];
    assert.deepEqual(asked, [conditional, conditional, conditional, [undefined, '1']]);
  });
  // As if the length of what is not sent were that of a body.
  for (const length of ['100', '1000000']) {
    const lengthy = { ...notModified, headers: { 'content-length': length } };
    await withFault('/get/1.bin', lengthy, async () => {
      assert.equal((await get('/get/1.bin', { condition })).statusCode, 304);
    });
  }
  assert.equal((await get('/get/1.bin', { condition })).statusCode, 200);
});
