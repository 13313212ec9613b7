/** All sockets read into one buffer: what one brought must never be found in what another is given. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer as createSecureServer } from 'node:https';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { test, type TestContext } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { createServer as createTlsServer } from 'node:tls';
import { gzipSync } from 'node:zlib';
import { Fetcher, type Answer, type FetchRequest } from '../src/fetch-file.ts';
import { HttpAgent, openConnector } from '../src/http.ts';
import { onread, readInPlace, takeReads } from '../src/socket-reads.ts';
import { certificate, certificateKey } from './helpers/certificate.ts';

type Get = (
  path: string,
  over?: Partial<FetchRequest>,
  write?: (chunk: Uint8Array) => void,
) => Promise<Answer | string>;

/** Starts the server, on the port that is returned. */
async function listening(t: TestContext, server: Server): Promise<number> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  return (server.address() as AddressInfo).port;
}

/** Starts the server, and returns what asks it: for a body, or for where a redirect leads. */
async function client(t: TestContext, server: Server, protocol = 'http'): Promise<Get> {
  const origin = `${protocol}://127.0.0.1:${await listening(t, server)}`;
  const agent = new HttpAgent({ connector: openConnector({ ca: certificate }) });
  t.after(() => agent.close());
  const fetcher = new Fetcher(agent);
  return (path, over = {}, write = () => {}) =>
    new Promise((resolve, reject) => {
      const request = { origin, path, headers: [], sizeBytes: null, timeoutMs: 30_000, minBytesPerSecond: 0 };
      fetcher.start(
        { ...request, maxBytes: 1e9, memoryBytes: 1e9, ...over },
        {
          open: () => ({ write, finish: () => {}, abort: () => {} }),
          onBody: resolve,
          onRedirect: resolve,
          onError: reject,
        },
      );
    });
}

/** Answers by what `serve` writes, byte for byte. */
function rawServer(serve: (socket: Socket, path: string) => void): Server {
  return createServer({ noDelay: true }, (socket) => {
    socket.on('error', () => {});
    socket.on('data', (head) => serve(socket, head.toString().split(' ')[1]!));
  });
}

/** In chunks of 100,000 bytes. */
function chunked(body: Buffer<ArrayBuffer>): Buffer {
  const parts = [Buffer.from('HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n')];
  for (let at = 0; at < body.length; at += 100_000) {
    const chunk = body.subarray(at, at + 100_000);
    parts.push(Buffer.from(`${chunk.length.toString(16)}\r\n`), chunk, Buffer.from('\r\n'));
  }
  return Buffer.concat([...parts, Buffer.from('0\r\n\r\n')]);
}

const headOf = (bytes: number): string => `HTTP/1.1 200 OK\r\ncontent-length: ${bytes}\r\n\r\n`;

test('the head of an answer that comes in pieces holds nothing of what other answers brought meanwhile', async (t) => {
  const target = `http://127.0.0.1/${'right/'.repeat(20)}end`;
  const head = `HTTP/1.1 302 Found\r\nlocation: ${target}\r\ncontent-length: 0\r\n\r\n`;
  const waiting: Socket[] = [];
  const server = rawServer((socket, path) => {
    const bytes = path === '/large' ? 300_000 : 3000;
    if (path === '/slow') waiting.push(socket);
    else socket.write(headOf(bytes) + 'wrong/'.repeat(bytes / 6));
  });
  const get = await client(t, server);
  const answers = Array.from({ length: 4 }, () => get('/slow'));
  while (waiting.length < answers.length) await turn();
  for (let at = 0; at < head.length; at += 20) {
    for (const socket of waiting) socket.write(head.slice(at, at + 20));
    await get('/small');
    await get('/large', { memoryBytes: 1000 });
  }
  assert.deepEqual(await Promise.all(answers), Array(4).fill(target));
});

test('a body that is held in memory is its own, whatever is read before it is whole', async (t) => {
  const bodies = Array.from({ length: 8 }, () => randomBytes(200_000));
  const waiting = new Map<string, Socket>();
  const get = await client(
    t,
    rawServer((socket, path) => waiting.set(path, socket)),
  );
  const answers = bodies.map((_, index) => get(`/${index}`));
  while (waiting.size < bodies.length) await turn();
  for (const socket of waiting.values()) socket.write(headOf(200_000));
  for (let at = 0; at < 200_000; at += 20_000) {
    for (const [path, socket] of waiting) socket.write(bodies[Number(path.slice(1))]!.subarray(at, at + 20_000));
    await turn();
  }
  for (const [index, answer] of (await Promise.all(answers)).entries()) {
    assert.ok(typeof answer === 'object' && answer.body !== null);
    assert.ok(bodies[index]!.equals(answer.body), `body ${index}`);
  }
});

test('a large body is written from one place, and the answer after it has memory of its own again', async (t) => {
  const body = randomBytes(4_000_000);
  const small = 'x'.repeat(1000);
  const get = await client(
    t,
    rawServer((socket, path) => {
      if (path === '/large') socket.write(Buffer.concat([Buffer.from(headOf(body.length)), body]));
      else if (path === '/chunked') socket.write(chunked(body));
      else socket.write(headOf(small.length) + small);
    }),
  );
  for (const path of ['/large', '/chunked', '/large', '/chunked']) {
    const written: Buffer[] = [];
    const places = new Set<ArrayBufferLike>();
    await get(path, { memoryBytes: 1000 }, (chunk) => {
      written.push(Buffer.from(chunk));
      places.add(chunk.buffer);
    });
    assert.ok(Buffer.concat(written).equals(body));
    // What came along with the head lies elsewhere.
    assert.ok(places.size <= 2, `the pieces lay in ${places.size} places`);
    const answer = await get('/small');
    await get(path, { memoryBytes: 1000 });
    assert.ok(typeof answer === 'object' && answer.body !== null);
    assert.equal(Buffer.from(answer.body).toString(), small);
  }
});

test('by TLS too: small bodies, large ones, and coded ones that wait for their decoder', async (t) => {
  const body = randomBytes(4_000_000);
  const coded = gzipSync(Buffer.concat([body, Buffer.alloc(50_000_000)]));
  const server = createSecureServer({ key: certificateKey, cert: certificate }, (request, response) => {
    if (request.url === '/coded') response.setHeader('content-encoding', 'gzip').end(coded);
    else response.end(request.url === '/large' ? body : 'small');
  });
  const get = await client(t, server, 'https');
  const check = async (path: string, bytes: number): Promise<void> => {
    let total = 0;
    const first = Buffer.alloc(body.length);
    await get(path, { memoryBytes: 1000 }, (chunk) => {
      if (total < body.length) first.set(chunk.subarray(0, body.length - total), total);
      total += chunk.length;
    });
    assert.equal(total, bytes);
    assert.ok(first.equals(body));
  };
  const checkSmall = async (): Promise<void> => {
    const answer = await get('/small');
    assert.ok(typeof answer === 'object' && answer.body !== null);
    assert.equal(Buffer.from(answer.body).toString(), 'small');
  };
  for (let round = 0; round < 2; round += 1) {
    await Promise.all([
      check('/large', body.length),
      check('/coded', 54_000_000),
      checkSmall(),
      check('/large', 4_000_000),
    ]);
    await checkSmall();
  }
});

for (const protocol of ['http', 'https']) {
  test(`${protocol}: a coded body is whole where its server closes unannounced while it is decoded`, async (t) => {
    // A little more than a decoder takes before it asks to wait.
    const coded = gzipSync(Buffer.alloc(80_000_000));
    assert.ok(coded.length > 65_536 && coded.length < 98_304);
    const serve = (socket: Socket): void => {
      socket.on('error', () => {});
      socket.on('data', () => {
        const head = `HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: ${coded.length}\r\n\r\n`;
        socket.end(Buffer.concat([Buffer.from(head), coded]));
      });
    };
    const server =
      protocol === 'http' ? createServer(serve) : createTlsServer({ key: certificateKey, cert: certificate }, serve);
    const get = await client(t, server, protocol);
    for (let round = 0; round < 3; round += 1) {
      const answer = await get('/coded', { memoryBytes: 1000 });
      assert.ok(typeof answer === 'object');
      assert.equal(answer.bytes, 80_000_000);
    }
  });
}

test('a reader that is not ready finds all that came when it is', async (t) => {
  let count = 1;
  const server = createServer((socket) => void socket.end(`${count++}`.repeat(200_000)));
  const port = await listening(t, server);
  const sockets = [1, 2].map(() => takeReads(connect({ port, onread })));
  for (const socket of sockets) readInPlace(socket, true);
  await Promise.all(sockets.map((socket) => once(socket, 'readable')));
  const texts: string[] = [];
  for (const socket of sockets) {
    let text = '';
    const readAll = (): void => {
      for (let chunk = socket.read(); chunk !== null; chunk = socket.read()) text += chunk.toString();
    };
    socket.on('readable', readAll);
    readAll();
    await once(socket, 'end');
    texts.push(text);
  }
  assert.deepEqual(
    texts.toSorted(),
    ['1', '2'].map((digit) => digit.repeat(200_000)),
  );
});

test('a reader that has destroyed its socket hears of nothing more', async (t) => {
  const server = createServer((socket) => void socket.on('error', () => {}).end('x'.repeat(200_000)));
  const socket = takeReads(connect({ port: await listening(t, server), onread }));
  let heard = 0;
  socket.on('readable', () => {
    heard += 1;
    socket.destroy();
  });
  await once(socket, 'close');
  assert.equal(heard, 1);
});
