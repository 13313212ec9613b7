import assert from 'node:assert/strict';
import type { lookup as systemLookup } from 'node:dns';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { createServer as createHttpsServer } from 'node:https';
import { createServer, Socket, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { after, before, test, type TestContext } from 'node:test';
import { cachedLookup } from '../src/dns.ts';
import type { FetchError } from '../src/errors.ts';
import { Fetcher, type Answer } from '../src/fetch-file.ts';
import { guarded, openGuardedConnector } from '../src/guard.ts';
import { HttpAgent, openConnector, type Connector } from '../src/http.ts';
import type { Failure, JobRequest } from '../src/schemas.ts';
import { addressPolicy, readNetworks } from '../src/ssrf.ts';
import { certificate, certificateKey } from './helpers/certificate.ts';
import { startFileServer, type Fault, type FileServer } from './helpers/file-server.ts';
import { temporaryFolder } from './helpers/folders.ts';
import { TestService } from './helpers/service.ts';

const nothing = addressPolicy([]);
const oneAddress = addressPolicy(readNetworks('127.0.0.1'));

async function fileServer(t: TestContext): Promise<FileServer> {
  const server = await startFileServer({ files: 20 });
  t.after(() => server.stop());
  return server;
}

/** A server on 127.0.0.1 that says nothing; `heard`: the bytes of each connection that has ended. */
async function silentServer(t: TestContext): Promise<{ port: number; heard(): Promise<number> }> {
  const ends: Promise<number>[] = [];
  const first = Promise.withResolvers<void>();
  const server = createServer((socket) => {
    socket.on('error', () => {}).resume();
    ends.push(once(socket, 'close').then(() => socket.bytesRead));
    first.resolve();
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  const heard = async (): Promise<number> => {
    await first.promise;
    return (await Promise.all(ends)).reduce((sum, bytes) => sum + bytes, 0);
  };
  return { port: (server.address() as AddressInfo).port, heard };
}

/** Answers each name with the lists of addresses that it has, one after the other, then the last again. */
function resolver(names: Record<string, string[][]>): typeof systemLookup {
  const resolve = (name: string, _options: object, done: (error: Error | null, found: object[]) => void): void => {
    const lists = names[name] ?? [];
    const found = (lists.length > 1 ? lists.shift() : lists[0]) ?? [];
    setImmediate(
      done,
      null,
      found.map((address) => ({ address, family: address.includes(':') ? 6 : 4 })),
    );
  };
  return resolve as typeof systemLookup;
}

interface Getter {
  readonly get: (url: string) => Promise<Answer | FetchError>;
  agent: HttpAgent;
}

/** Gets URLs over one connector. */
function over(t: TestContext, connector: Connector): Getter {
  const agent = new HttpAgent({ connector });
  const fetcher = new Fetcher(agent);
  t.after(() => {
    fetcher.close();
    agent.close();
  });
  const get = (url: string): Promise<Answer | FetchError> => {
    const { origin, pathname } = new URL(url);
    const limits = { timeoutMs: 20_000, minBytesPerSecond: 0, maxBytes: 1e6, memoryBytes: 1e6 };
    const request = { origin, path: pathname, headers: [], sizeBytes: null, ...limits };
    return new Promise((resolve, reject) => {
      const onRedirect = (): void => reject(new Error('a redirect'));
      fetcher.start(request, { open: () => null, onBody: resolve, onRedirect, onError: resolve });
    });
  };
  return { get, agent };
}

function assertBlocked(outcome: Answer | FetchError, message?: RegExp): void {
  assert.ok(outcome instanceof Error, 'it was fetched');
  assert.equal(outcome.reason, 'blocked_address', outcome.message);
  assert.equal(outcome.retryable, false);
  assert.match(outcome.message, /ALLOWED_NETWORKS/);
  if (message !== undefined) assert.match(outcome.message, message);
}

function assertFetched(outcome: Answer | FetchError): void {
  if (outcome instanceof Error) throw outcome;
  assert.equal(outcome.statusCode, 200);
}

test('no notation of a loopback address leads to a server, by http and https', async (t) => {
  const server = await fileServer(t);
  const { get, agent } = over(t, openGuardedConnector(nothing));
  for (const host of [
    '127.0.0.1',
    '127.0.0.1.',
    '127.1',
    '127.0.1',
    '2130706433',
    '017700000001',
    '0177.0.0.1',
    '0x7f000001',
    '0x7F.0.0.0x1',
    '0',
    '0.0.0.0',
    '%3127.0.0.1',
    '①②⑦.0.0.1',
    '127。0。0。1',
    '[::]',
    '[::1]',
    '[0:0:0:0:0:0:0:1]',
    '[::ffff:127.0.0.1]',
    '[::ffff:7f00:1]',
    '[::127.0.0.1]',
    '[64:ff9b::127.0.0.1]',
    '[fe80::1]',
  ]) {
    for (const protocol of ['http', 'https']) {
      assertBlocked(await get(`${protocol}://${host}:${server.port}/get/1.bin`), /not globally reachable/);
    }
  }
  assert.equal(server.connections, 0);
  assert.equal(agent.connections, 0);
});

test('what the system reads as an address is refused too where a URL would not have shown it', async (t) => {
  const server = await fileServer(t);
  const connector = openGuardedConnector(nothing);
  for (const hostname of ['127.1', '0x7f.0.0.1', '2130706433', '0177.0.0.01', 'localhost', 'fe80::1%1']) {
    const options = { hostname, host: hostname, protocol: 'http:', port: String(server.port) };
    const error = await new Promise<Error | null>((resolve) => {
      const socket = connector(options, (...[error]) => resolve(error));
      t.after(() => socket.destroy());
    });
    assert.equal((error as FetchError | null)?.reason, 'blocked_address', `${hostname}: ${error?.message}`);
  }
  assert.equal(server.connections, 0);
});

test('allowed addresses are reached as before, and their connections kept', async (t) => {
  const server = await fileServer(t);
  const { get, agent } = over(t, openGuardedConnector(oneAddress));
  for (const host of ['127.0.0.1', '127.1', 'localhost']) {
    for (const file of [1, 2]) assertFetched(await get(`http://${host}:${server.port}/get/${file}.bin`));
  }
  assert.equal(agent.connections, 2);
  assert.equal(server.connections, 2);
});

test('of the addresses of a name only the allowed ones are used', async (t) => {
  const server = await fileServer(t);
  const names = {
    'inside.test': [['10.0.0.1']],
    'metadata.test': [['169.254.169.254', 'fe80::1']],
    'mixed.test': [['10.0.0.1', '::1', '127.0.0.1', '127.0.0.2']],
    'none.test': [],
  };
  const { get } = over(t, openGuardedConnector(oneAddress, { lookup: cachedLookup(resolver(names)) }));
  assertBlocked(await get(`http://inside.test:${server.port}/`), /^inside\.test leads to 10\.0\.0\.1, which is not/);
  assertBlocked(await get(`https://metadata.test:${server.port}/`), /169\.254\.169\.254/);
  assertFetched(await get(`http://mixed.test:${server.port}/get/1.bin`));
  const none = await get(`http://none.test:${server.port}/`);
  assert.ok(none instanceof Error && none.reason === 'connection' && none.retryable);
});

test('a name that changes is checked anew with each connection', async (t) => {
  const server = await fileServer(t);
  server.fault('/get/1.bin', { close: true });
  let clock = 0;
  const lookup = cachedLookup(resolver({ 'changing.test': [['127.0.0.1'], ['127.0.0.2']] }), () => clock);
  const { get } = over(t, openGuardedConnector(oneAddress, { lookup }));
  assertFetched(await get(`http://changing.test:${server.port}/get/1.bin`));
  clock = 60_000;
  assertBlocked(await get(`http://changing.test:${server.port}/get/1.bin`));
  assert.equal(server.count(), 1);
});

for (const protocol of ['http', 'https']) {
  test(`what a name led to in the end is checked before anything is sent by ${protocol}`, async (t) => {
    const server = await silentServer(t);
    // As if it had been another address when it was checked.
    const lookup = cachedLookup(resolver({ 'changing.test': [['127.0.0.1']] }));
    const { get, agent } = over(t, guarded(openConnector({ lookup }), nothing));
    const outcome = await get(`${protocol}://changing.test:${server.port}/`);
    assertBlocked(outcome, /^changing\.test leads to 127\.0\.0\.1, /);
    assert.equal(await server.heard(), 0);
    assert.equal(agent.connections, 0);
  });
}

test('a connection whose other end is gone before it could be checked is not used', async (t) => {
  const { get } = over(
    t,
    guarded((_options, callback) => {
      const socket = new Socket();
      socket.once('connect', () => callback(null, socket)).on('error', () => {});
      setImmediate(() => socket.emit('connect'));
      return socket;
    }, oneAddress),
  );
  const outcome = await get('http://127.0.0.1:1/');
  assert.ok(outcome instanceof Error && outcome.reason === 'connection' && outcome.retryable);
});

async function failuresOf(service: TestService, id: string): Promise<Failure[]> {
  return (await service.get<{ failures: Failure[] }>(`/jobs/${id}/failures`))?.failures ?? [];
}

async function refusedPointers(service: TestService, source: JobRequest['source']): Promise<string[]> {
  const body = JSON.stringify({ source });
  const headers = { 'content-type': 'application/json' };
  const answer = await fetch(`${service.url}/jobs`, { method: 'POST', headers, body });
  assert.equal(answer.status, 400);
  const { errors } = (await answer.json()) as { errors: { pointer: string; detail: string }[] };
  for (const { detail } of errors) assert.match(detail, /ALLOWED_NETWORKS/);
  return errors.map(({ pointer }) => pointer);
}

// Where only 127.0.0.1 is allowed.
const ca = join(temporaryFolder(), 'ca.pem');
const service = new TestService({ ALLOWED_NETWORKS: '127.0.0.1/32', WORKERS: '1', NODE_EXTRA_CA_CERTS: ca });
before(async () => {
  writeFileSync(ca, certificate);
  await service.start();
});
after(() => service.stop());

/** A redirect to another loopback address. */
function toElsewhere(protocol: string): Fault {
  return { status: 302, headers: { location: `${protocol}://127.0.0.2:8/` } };
}

test('an address that is not allowed is refused where a job is ordered', async () => {
  for (const url of ['http://127.0.0.2:8/list', 'http://[::1]/', 'https://169.254.169.254/', 'http://0/']) {
    assert.deepEqual(await refusedPointers(service, { type: 'listing', url }), ['/source/url']);
    const allowed = 'http://127.0.0.1:8/list';
    const fileUrl = `${url}?{name}`;
    assert.deepEqual(await refusedPointers(service, { type: 'listing', url: allowed, fileUrl }), ['/source/fileUrl']);
  }
});

test('files that a redirect or the listing puts elsewhere fail', async (t) => {
  const server = await fileServer(t);
  server.fault('/get/1.bin', toElsewhere('http'));
  server.fault('/get/2.bin', { status: 302, headers: { location: '/get/20.bin' } });
  server.fault('/get/20.bin', toElsewhere('https'));
  server.fault('/get/3.bin', { status: 302, headers: { location: `http://[::1]:${server.port}/` } });
  const urls = [0, 1, 2, 3].map((number) => `${server.origin}/get/${number}.bin`);
  urls.push('http://127.0.0.2:8/');
  const items = urls.map((url, number) => ({ name: `${number}.bin`, url }));
  server.fault('/items', { status: 200, body: JSON.stringify({ FileNames: items }) });
  const { id } = await service.post({
    source: { type: 'listing', url: `${server.origin}/items`, nameField: '/name', urlField: '/url' },
  });
  const job = await service.ended(id);
  assert.equal(job.state, 'completed_with_failures');
  assert.equal(job.progress.filesDownloaded, 1);
  assert.deepEqual(job.failures, { blocked_address: 4 });
  for (const { attempts, message, statusCode } of await failuresOf(service, id)) {
    assert.deepEqual([attempts, statusCode], [1, null]);
    assert.match(message, /^(127\.0\.0\.2|::1) is not globally reachable; ALLOWED_NETWORKS/);
  }
});

test('a listing that is redirected elsewhere fails the job', async (t) => {
  const server = await fileServer(t);
  for (const protocol of ['http', 'https']) {
    server.fault('/moved', toElsewhere(protocol));
    const { id } = await service.post({ source: { type: 'listing', url: `${server.origin}/moved` } });
    const job = await service.ended(id);
    assert.equal(job.state, 'failed');
    assert.equal(job.error?.reason, 'blocked_address');
  }
});

test('listings and files by https are not followed elsewhere either', async (t) => {
  const server = createHttpsServer({ key: certificateKey, cert: certificate }, (request, response) => {
    if (request.url === '/list') response.end(JSON.stringify({ FileNames: ['here.bin', 'there.bin'] }));
    else if (request.url === '/get/here.bin') response.end('here');
    else response.writeHead(307, { location: 'https://127.0.0.2:8/' }).end();
  });
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const origin = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const files = await service.post({ source: { type: 'listing', url: `${origin}/list` } });
  const listing = await service.post({ source: { type: 'listing', url: `${origin}/elsewhere` } });
  const ended = await service.ended(files.id);
  assert.equal(ended.progress.filesDownloaded, 1);
  assert.deepEqual(ended.failures, { blocked_address: 1 });
  assert.equal((await service.ended(listing.id)).error?.reason, 'blocked_address');
});

test('a service where nothing is allowed fails jobs whose names lead inside, and says that it uses no proxy', async (t) => {
  const server = await fileServer(t);
  const closed = new TestService({
    ALLOWED_NETWORKS: '',
    WORKERS: '1',
    HTTP_PROXY: '',
    https_proxy: 'http://user:secret@127.0.0.1:9',
  });
  t.after(() => closed.stop());
  await closed.start();
  assert.deepEqual(await refusedPointers(closed, { type: 'listing', url: server.listUrl }), ['/source/url']);
  const { id } = await closed.post({ source: { type: 'listing', url: `http://localhost:${server.port}/list` } });
  const job = await closed.ended(id);
  assert.equal(job.state, 'failed');
  assert.equal(job.error?.reason, 'blocked_address');
  assert.match(job.error.message, /^localhost leads to (127\.0\.0\.1|::1), which is not globally reachable/);
  assert.equal(server.connections, 0);
  assert.match(closed.output, /no proxy is used: .*https_proxy/);
  assert.doesNotMatch(closed.output, /HTTP_PROXY|secret/);
});
