import assert from 'node:assert/strict';
import { mkdirSync, symlinkSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { FastifyInstance, LightMyRequestResponse } from 'fastify';
import { Redis } from 'ioredis';
import { pino } from 'pino';
import { createJobService } from '../jobs/service.ts';
import { createCallLimiter } from '../routes/rate-limit.ts';
import { buildApp, type AppOptions } from '../src/app.ts';
import { loopbackHosts, readConfig } from '../src/config.ts';
import { StartError } from '../src/errors.ts';
import { hostMatcher } from '../src/hosts.ts';
import type { Job } from '../src/schemas.ts';
import { noLimiter, openConfig } from './helpers/app.ts';
import { fakeService, knownId } from './helpers/fake-service.ts';
import { startFileServer } from './helpers/file-server.ts';
import { temporaryFolder } from './helpers/folders.ts';
import { startTestRedis } from './helpers/redis.ts';
import { TestService } from './helpers/service.ts';
import { startProcess } from './helpers/service-process.ts';
import { urlFiles } from './helpers/url-files.ts';

const source = { type: 'listing', url: 'http://127.0.0.1:3900/list' } as const;
const silent = pino({ level: 'silent' });

function appWith(t: TestContext, more: Partial<AppOptions> = {}): FastifyInstance {
  const app = buildApp({ config: openConfig, service: fakeService(), limiter: noLimiter, logger: silent, ...more });
  t.after(() => app.close());
  return app;
}

function isProblem(response: LightMyRequestResponse, status: number, detail = /./): void {
  assert.equal(response.statusCode, status, response.body);
  assert.match(String(response.headers['content-type']), /^application\/problem\+json/);
  assert.equal(response.json<{ status: number }>().status, status);
  assert.match(response.json<{ detail: string }>().detail, detail);
}

/** Writes bytes to a server and reads until it hangs up. */
async function exchange(app: FastifyInstance, bytes: string): Promise<string> {
  const address = app.server.listening ? app.listeningOrigin : await app.listen({ port: 0, host: '127.0.0.1' });
  const client = connect(Number(new URL(address).port), '127.0.0.1').setEncoding('utf8');
  client.write(bytes);
  let answer = '';
  for await (const chunk of client) answer += String(chunk);
  return answer;
}

test('the Host header may say what ALLOWED_HOSTS has: names, all below a name, addresses and networks', () => {
  const check = hostMatcher([...loopbackHosts, 'Gigafetch.example', '*.lan', '192.0.2.7', '[2001:db8::]/32']);
  const host = (text: string): boolean => check(new URL(`http://${text}`).hostname);
  for (const good of 'localhost LOCALHOST:3000 localhost. a.localhost:1 127.0.0.1 127.9.9.9:80 [::1]:3000 [0::1] gigafetch.example a.b.lan 192.0.2.7 [2001:db8:1::5]'.split(
    ' ',
  )) {
    assert.ok(host(good), good);
  }
  for (const bad of 'evil.example localhost.evil.example notlocalhost 128.0.0.1 0.0.0.0 [::2] [::] lan xlan a.gigafetch.example 192.0.2.8 [2001:db9::] 127.0.0.1.evil.example'.split(
    ' ',
  )) {
    assert.ok(!host(bad), bad);
  }
  assert.ok(hostMatcher(['*'])('evil.example'));
  assert.ok(!hostMatcher([])('localhost'));
});

test('ALLOWED_HOSTS, RATE_LIMIT and MAX_ACTIVE_JOBS are read and checked at the start', () => {
  assert.deepEqual(readConfig({}).allowedHosts, [...loopbackHosts, '127.0.0.1']);
  assert.deepEqual(readConfig({ HOST: '0.0.0.0' }).allowedHosts, loopbackHosts);
  assert.deepEqual(readConfig({ HOST: '::' }).allowedHosts, loopbackHosts);
  assert.deepEqual(readConfig({ HOST: '192.0.2.7' }).allowedHosts, [...loopbackHosts, '192.0.2.7']);
  assert.deepEqual(readConfig({ HOST: '192.0.2.7', ALLOWED_HOSTS: 'a.example , *.b' }).allowedHosts, [
    'a.example',
    '*.b',
  ]);
  assert.deepEqual([readConfig({}).rateLimit, readConfig({}).activeJobsMax], [6000, 10_000]);
  for (const bad of ['a,,b', 'http://a', 'a:3000', '10.0.0.0/99', '*a', 'a b']) {
    assert.throws(
      () => readConfig({ ALLOWED_HOSTS: bad }),
      /^StartError: ALLOWED_HOSTS is ".*"; it must be names/,
      bad,
    );
  }
  assert.throws(() => readConfig({ HOST: 'a b' }), /^StartError: HOST is "a b"; it must be a host name/);
  for (const name of ['RATE_LIMIT', 'MAX_ACTIVE_JOBS']) assert.throws(() => readConfig({ [name]: '0' }), StartError);
});

test('a foreign Host is a 403 for everything but what container platforms ask, and before the token is looked at', async (t) => {
  const app = appWith(t, { config: { ...openConfig, apiTokens: ['secret'] } });
  const get = (url: string, host: string): Promise<LightMyRequestResponse> => app.inject({ url, headers: { host } });
  for (const url of ['/jobs', '/docs', '/docs/json', '/openapi.json', '/nothing']) {
    isProblem(await get(url, 'rebound.evil.example:3000'), 403, /^the Host header says rebound.evil.example:3000, /);
  }
  for (const host of ['evil@localhost', 'localhost/x', 'localhost?', 'a b', '[::1', '\\localhost']) {
    isProblem(await get('/docs', host), 400, /^send one Host header/);
  }
  isProblem(await get('/jobs', 'localhost:1'), 401);
  for (const url of ['/livez', '/readyz']) assert.equal((await get(url, '10.1.2.3:3000')).statusCode, 200);
  const anyHost = appWith(t, { config: { ...openConfig, allowedHosts: ['*'] } });
  assert.equal((await anyHost.inject({ url: '/jobs', headers: { host: 'evil.example' } })).statusCode, 200);
});

test('a request with no Host or with two is a 400 problem, but for HTTP/1.0 probes', async (t) => {
  const app = appWith(t);
  for (const head of [
    'GET /jobs HTTP/1.1',
    'GET /jobs HTTP/1.0',
    'GET /jobs HTTP/1.1\r\nHost: localhost\r\nhost: localhost',
  ]) {
    const answer = await exchange(app, `${head}\r\nConnection: close\r\n\r\n`);
    assert.match(answer, /^HTTP\/1.1 400 [^]*content-type: application\/problem\+json[^]*send one Host header/, head);
  }
  assert.match(await exchange(app, 'GET /readyz HTTP/1.0\r\n\r\n'), /^HTTP\/1.1 200 /);
});

test('a page of a foreign origin can change nothing; one of the very host that is called can', async (t) => {
  const app = appWith(t);
  const status = async (
    method: 'GET' | 'POST' | 'DELETE' | 'PATCH',
    origin: string,
    host = 'localhost:3000',
  ): Promise<number> => {
    const url = method === 'GET' ? '/jobs' : `/jobs/${knownId}${method === 'POST' ? '/resume' : ''}`;
    const response = await app.inject({ method, url, headers: { host, ...(origin === '' ? {} : { origin }) } });
    if (response.statusCode === 403) isProblem(response, 403, /another origin/);
    assert.deepEqual(
      Object.keys(response.headers).filter((name) => name.startsWith('access-control')),
      [],
    );
    return response.statusCode;
  };
  const foreign = [
    'null',
    'http://evil.example',
    'http://localhost',
    'http://localhost:3001',
    'http://127.0.0.1:3000',
    'x',
    'file://',
    'app://localhost:3000',
  ];
  for (const origin of [...foreign, 'http://localhost:3000.evil.example', 'chrome-extension://localhost']) {
    assert.equal(await status('POST', origin), 403, origin);
    assert.equal(await status('DELETE', origin), 403, origin);
    assert.equal(await status('PATCH', origin), 403, origin);
    assert.equal(await status('GET', origin), 200, origin);
  }
  // URLs of files have no host, and "localhost" counts as none there.
  assert.equal(await status('POST', 'file://', 'localhost'), 403);
  for (const [origin, host] of [
    ['', 'localhost:3000'],
    ['http://localhost:3000', 'localhost:3000'],
    ['http://127.0.0.1:3000', '127.0.0.1:3000'],
    ['https://localhost', 'localhost'],
    ['https://localhost', 'localhost:443'],
    ['http://[::1]:3000', '[::1]:3000'],
  ] as const) {
    assert.equal(await status('POST', origin, host), 202, origin);
    assert.equal(await status('DELETE', origin, host), 204, origin);
  }
  isProblem(await app.inject({ method: 'OPTIONS', url: '/jobs', headers: { origin: 'http://evil.example' } }), 404);
});

test('every answer has the security headers, an error too, and nothing is kept in a cache', async (t) => {
  const app = appWith(t);
  for (const url of ['/jobs', `/jobs/${knownId}`, '/nothing', '/%zz', '/docs', '/livez', '/jobs?x=1']) {
    const { headers } = await app.inject(url);
    assert.match(String(headers['content-security-policy']), /default-src 'self'.*frame-ancestors 'none'/, url);
    assert.equal(headers['x-content-type-options'], 'nosniff', url);
    assert.equal(headers['referrer-policy'], 'no-referrer', url);
    assert.equal(headers['cache-control'], 'no-store', url);
    assert.equal(headers['strict-transport-security'], undefined, url);
  }
});

test('Swagger UI has no inline script and nothing from elsewhere, as its policy demands', async (t) => {
  const app = appWith(t);
  const page = await app.inject('/docs/');
  assert.equal(page.statusCode, 200);
  const used = [...page.body.matchAll(/<(?:script|link)\b[^>]*?(?:src|href)="([^"]+)"[^>]*>/g)];
  assert.ok(used.length >= 4, page.body);
  for (const [, address = ''] of used) {
    assert.doesNotMatch(address, /^(https?:)?\/\//);
    assert.equal((await app.inject(new URL(address, 'http://localhost/docs/').pathname)).statusCode, 200, address);
  }
  assert.doesNotMatch(page.body, /<script(?![^>]*\bsrc=)|\son\w+="/);
});

function manyHeaders(count: number): Record<string, string> {
  return Object.fromEntries(Array.from({ length: count }, (_, index) => [`x-${index}`, 'x']));
}

test('a URL that is too long is a 414, too many headers a 431', async (t) => {
  const app = appWith(t);
  isProblem(await app.inject(`/jobs?${'x'.repeat(8192)}`), 414, /8192/);
  isProblem(await app.inject(`/jobs/${'x'.repeat(8192)}`), 414);
  isProblem(await app.inject(`/jobs/${'x'.repeat(8000)}`), 404);
  isProblem(await app.inject({ url: '/jobs', headers: manyHeaders(101) }), 431);
  assert.equal((await app.inject({ url: '/jobs', headers: manyHeaders(90) })).statusCode, 200);
});

test('a body too deep or of too many values is a 400 at once, whatever stands in its strings', async (t) => {
  const app = appWith(t);
  const post = (payload: string): Promise<LightMyRequestResponse> =>
    app.inject({ method: 'POST', url: '/jobs', payload, headers: { 'content-type': 'application/json' } });
  const million = 1_000_000;
  for (const [payload, detail] of [
    ['['.repeat(5 * million) + ']'.repeat(5 * million), /nested more than 32/],
    ['{"a":'.repeat(million), /nested more than 32/],
    [`{"source":${'['.repeat(33)}`, /nested more than 32/],
    [`[${'0,'.repeat(5 * million)}0]`, /more than 50000 values/],
    [`{${Array.from({ length: 700_000 }, (_, index) => `"x${index}":1`).join(',')}}`, /more than 50000 values/],
    [`{"headers":{${'"a":"b",'.repeat(million)}"a":"b"}}`, /more than 50000 values/],
    [`{"a":[${'{},'.repeat(million)}{}]}`, /more than 50000 values/],
  ] as const) {
    const start = performance.now();
    isProblem(await post(payload), 400, detail);
    assert.ok(performance.now() - start < 2000, `${performance.now() - start} ms`);
  }
  const name = JSON.stringify('\\"[{,'.repeat(30));
  assert.equal((await post(`{"name":${name},"source":${JSON.stringify(source)}}`)).statusCode, 202);
  isProblem(await post('{"name":"never ends \\'), 400);
  isProblem(await post(`${'['.repeat(32)}${']'.repeat(32)}`), 400, /must be a JSON object/);
});

test('megabytes in a single field are refused shortly, also where a pattern is to be matched', async (t) => {
  const app = appWith(t);
  const long = 'a'.repeat(9_000_000);
  const bodies: object[] = [
    { source: { ...source, namesField: `/${long}` } },
    { source: { ...source, namesField: '/'.repeat(9_000_000) } },
    { source: { ...source, namesField: '~1'.repeat(4_500_000) } },
    { source: { ...source, url: `http://${long}` } },
    { source: { ...source, fileUrl: `{name}${long}` } },
    { source: { ...source, [long]: 1 } },
    { source, name: long },
    { source, [long]: 1 },
    { source, headers: { [long]: 'x' } },
    { source, headers: { [long]: 1 } },
    { source, headers: { x: long } },
    { source, sink: { type: 'directory', path: long } },
    { source, sink: { type: long } },
    { source: { type: long } },
    { source, existing: long },
    { source, limits: { [long]: 1 } },
  ];
  for (const payload of bodies) {
    const response = await app.inject({ method: 'POST', url: '/jobs', payload });
    isProblem(response, 400);
    assert.ok(response.body.length < 10_000, `${response.body.length} characters of answer`);
  }
});

test('who is slow with a request is hung up on, and the bounds of connections are set', async (t) => {
  const app = appWith(t);
  await app.listen({ port: 0, host: '127.0.0.1' });
  const { headersTimeout, requestTimeout, timeout, keepAliveTimeout, maxConnections } = app.server;
  assert.deepEqual([headersTimeout, requestTimeout, timeout, maxConnections], [10_000, 3_600_000, 60_000, 10_000]);
  assert.ok(keepAliveTimeout > 0 && keepAliveTimeout <= 72_000);
  app.server.headersTimeout = app.server.requestTimeout = 1;
  const post = 'POST /jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{';
  const beginnings = ['GET /jobs HTTP/1.1\r\nhost: localhost\r\n', post, ''];
  const answers = await Promise.all(beginnings.map((bytes) => exchange(app, bytes)));
  for (const answer of answers.slice(0, 2)) assert.match(answer, /^HTTP\/1.1 408 [^]*problem\+json/);
});

test('calls are counted for each client over all API processes, and one too many is a 429 that says until when', async (t) => {
  const redis = await startTestRedis();
  t.after(() => redis.stop());
  const apps = [0, 1].map(() => {
    const limiter = createCallLimiter({ redisUrl: redis.url, rateLimit: 4 });
    t.after(() => limiter.close());
    return appWith(t, { limiter, config: { ...openConfig, apiTokens: ['one', 'two'] } });
  });
  const watch = new Redis(redis.url);
  t.after(() => watch.disconnect());
  // Until it is connected, each counts for itself.
  while (!t.signal.aborted && (await watch.keys('*')).length === 0) await call(0, 'warm-up', '192.0.2.1');
  async function call(
    index: number,
    token: string,
    remoteAddress: string,
    url = '/jobs',
  ): Promise<LightMyRequestResponse> {
    const app = apps[index % 2];
    assert.ok(app !== undefined);
    return app.inject({ url, remoteAddress, headers: { authorization: `Bearer ${token}` } });
  }
  const statuses = async (token: string, address: (index: number) => string): Promise<number[]> => {
    const answers: number[] = [];
    for (let index = 0; index < 6; index += 1) answers.push((await call(index, token, address(index))).statusCode);
    return answers;
  };
  for (const index of [1, 1, 1]) await call(index, 'warm-up', '192.0.2.2');
  assert.deepEqual(
    await statuses('one', (index) => `203.0.113.${index}`),
    [200, 200, 200, 200, 429, 429],
    'a token, from anywhere',
  );
  assert.deepEqual(
    await statuses('two', () => '203.0.113.1'),
    [200, 200, 200, 200, 429, 429],
    'another token at the same address',
  );
  assert.deepEqual(
    await statuses('wrong', () => '203.0.113.9'),
    [401, 401, 401, 401, 429, 429],
    'guesses, by their address',
  );
  assert.deepEqual(
    await statuses('wrong', (index) => `2001:db8:0:1::${index}`),
    [401, 401, 401, 401, 429, 429],
    'one IPv6 network',
  );
  assert.equal((await call(0, 'wrong', '2001:db8:0:2::1')).statusCode, 401, 'another IPv6 network');
  const refused = await call(0, 'one', '203.0.113.1');
  isProblem(refused, 429, /too many calls/);
  const seconds = Number(refused.headers['retry-after']);
  assert.ok(Number.isInteger(seconds) && seconds >= 1 && seconds <= 60, String(seconds));
  isProblem(await call(0, 'one', '203.0.113.1', '/nothing'), 429);
  for (let index = 0; index < 10; index += 1) assert.equal((await call(index, 'one', 'x', '/livez')).statusCode, 200);
  const keys = await watch.keys('*');
  assert.ok(keys.length >= 5);
  for (const key of keys) {
    assert.match(key, /^\{gigafetch\}:calls:/);
    assert.doesNotMatch(key, /:(one|two|wrong)/);
    assert.ok((await watch.pttl(key)) > 0);
  }
});

test('of a high limit each process takes a hundredth at once, and no client gets more than the limit', async (t) => {
  const redis = await startTestRedis();
  t.after(() => redis.stop());
  const watch = new Redis(redis.url);
  t.after(() => watch.disconnect());
  const limiters = [0, 1].map(() => createCallLimiter({ redisUrl: redis.url, rateLimit: 1000 }));
  for (const limiter of limiters) t.after(() => limiter.close());
  const key = '{gigafetch}:calls:';
  // Until both are connected, each counts for itself.
  for (const [index, limiter] of limiters.entries()) {
    for (let n = 0; !t.signal.aborted && (await watch.get(`${key}warm-${index}-${n}`)) === null; n += 1) {
      await limiter.count(`warm-${index}-${n + 1}`);
      await limiter.count(`warm-${index}-${n}`);
    }
  }
  const call = async (index: number): Promise<boolean> => (await limiters[index]?.count('a')) === null;
  for (let calls = 1; calls <= 10; calls += 1) assert.ok(await call(0));
  assert.equal(await watch.get(`${key}a`), '10');
  assert.ok(await call(0));
  assert.ok(await call(1));
  assert.equal(await watch.get(`${key}a`), '30');
  let taken = 12;
  for (let calls = 0; calls < 2000; calls += 1) if (await call(calls % 2)) taken += 1;
  assert.equal(taken, 1000);
});

test('while Redis is away each process counts for itself and answers in time', async (t) => {
  const limiter = createCallLimiter({ redisUrl: '/nowhere/redis.sock', rateLimit: 2 });
  t.after(() => limiter.close());
  assert.deepEqual([await limiter.count('a'), await limiter.count('a'), await limiter.count('b')], [null, null, null]);
  assert.ok(Number(await limiter.count('a')) > 0);

  const redis = await startTestRedis();
  t.after(() => redis.stop());
  const service = createJobService({ redisUrl: redis.url, activeJobsMax: 10, urlFiles: urlFiles(), logger: silent });
  t.after(() => service.close());
  const shared = createCallLimiter({ redisUrl: redis.url, rateLimit: 1000 });
  t.after(() => shared.close());
  const app = appWith(t, { service, limiter: shared });
  while (!t.signal.aborted && (await app.inject('/readyz')).statusCode !== 200) await new Promise(setImmediate);
  process.kill(redis.pid, 'SIGSTOP');
  const start = performance.now();
  isProblem(await app.inject('/jobs'), 503);
  assert.ok(performance.now() - start < 2000, `${performance.now() - start} ms`);
  assert.equal((await app.inject('/livez')).statusCode, 200);
  assert.equal((await app.inject('/openapi.json')).statusCode, 200);
});

test('of many orders at once no more than MAX_ACTIVE_JOBS are taken, over all APIs; the rest is a 429', async (t) => {
  const redis = await startTestRedis();
  t.after(() => redis.stop());
  const apps = [0, 1].map(() => {
    const service = createJobService({ redisUrl: redis.url, activeJobsMax: 3, urlFiles: urlFiles(), logger: silent });
    t.after(() => service.close());
    return appWith(t, { service });
  });
  for (const app of apps)
    while (!t.signal.aborted && (await app.inject('/readyz')).statusCode !== 200) await new Promise(setImmediate);
  const post = (index: number): Promise<LightMyRequestResponse> => {
    const headers = { 'idempotency-key': `key-${index}` };
    return (apps[index % 2] as FastifyInstance).inject({ method: 'POST', url: '/jobs', payload: { source }, headers });
  };
  const answers = await Promise.all(Array.from({ length: 10 }, (_, index) => post(index)));
  const accepted = answers.findIndex(({ statusCode }) => statusCode === 202);
  assert.equal(answers.filter(({ statusCode }) => statusCode === 202).length, 3);
  for (const response of answers.filter(({ statusCode }) => statusCode !== 202)) {
    isProblem(response, 429, /there are 3 active jobs/);
    assert.equal(response.headers['retry-after'], '10');
  }
  const again = await post(accepted);
  assert.deepEqual([again.statusCode, again.headers['idempotency-replayed']], [202, 'true']);
});

/** Everything that Redis holds: the key, the field or index, and the value. */
async function everythingIn(redis: Redis): Promise<[key: string, field: string, value: string][]> {
  const all: [string, string, string][] = [];
  for (const key of await redis.keys('*')) {
    const type = await redis.type(key);
    if (type === 'hash') for (const pair of Object.entries(await redis.hgetall(key))) all.push([key, ...pair]);
    else if (type === 'string') all.push([key, '', (await redis.get(key)) ?? '']);
    else if (type === 'list') all.push([key, '', JSON.stringify(await redis.lrange(key, 0, -1))]);
    else if (type === 'set') all.push([key, '', JSON.stringify(await redis.smembers(key))]);
    else if (type === 'zset') all.push([key, '', JSON.stringify(await redis.zrange(key, 0, '-1'))]);
    else if (type === 'stream') all.push([key, '', JSON.stringify(await redis.xrange(key, '-', '+'))]);
    else assert.fail(`${key} is a ${type}`);
  }
  return all;
}

test('what a job sends in its headers is nowhere but in its request and in one field of its record', async (t) => {
  const secret = 'k3ep-th1s-s3cret';
  const redis = await startTestRedis();
  t.after(() => redis.stop());
  const files = await startFileServer({ files: 20 });
  t.after(() => files.stop());
  files.fault('/get/3.bin', { status: 404 });
  files.fault('/get/4.bin', { cut: { after: 50, by: 'reset' } });
  files.fault('/get/5.bin', { status: 302, headers: { location: '/get/5.bin' } });
  files.fault('/get/6.bin', { cut: { after: 'start', by: 'reset' } });
  // Servers that say back what they were sent.
  files.fault('/get/7.bin', { status: 302, headers: { location: `/get/7.bin?${secret}` } });
  files.fault(`/get/7.bin?${secret}`, { status: 302, headers: { location: `/get/7.bin?${secret}` } });
  files.fault('/get/8.bin', { contentEncoding: secret });
  const service = new TestService({ REDIS_URL: redis.url, LOG_LEVEL: 'trace', WORKERS: '1' });
  t.after(() => service.stop());
  await service.start();

  const said: string[] = [];
  const call = async (path: string, init: RequestInit = {}): Promise<number> => {
    const response = await fetch(service.url + path, init);
    said.push(JSON.stringify([...response.headers]), await response.text());
    return response.status;
  };
  const order = (more: object): Promise<number> => {
    const body = {
      source: { type: 'listing', url: files.listUrl },
      sink: { type: 'directory', path: 'kept' },
      headers: { authorization: `Bearer ${secret}`, 'x-other': secret },
      retry: { attempts: 2, baseDelayMs: 1, maxDelayMs: 1 },
      ...more,
    };
    const headers = { 'content-type': 'application/json', 'idempotency-key': 'one' };
    return call('/jobs', { method: 'POST', headers, body: JSON.stringify(body) });
  };
  assert.equal(await order({}), 202);
  const { id } = JSON.parse(said.at(-1) ?? '') as Job;
  assert.equal(await order({}), 202);
  assert.equal(await order({ name: 'other' }), 422);
  assert.equal(await order({ headers: { authorization: `${secret}\r\n` } }), 400);
  assert.equal(await order({ headers: { host: secret } }), 400);
  assert.equal(await order({ source: { type: 'listing', url: `http://u:${secret}@h/` } }), 400);
  const ended = await service.ended(id);
  assert.equal(ended.state, 'completed_with_failures');
  assert.equal(ended.progress.filesFailed, 6);
  assert.ok(files.requests.every(({ headers }) => headers['authorization'] === `Bearer ${secret}`));
  // A listing that cannot be read, so that there is an `error` too.
  files.fault('/list?broken', { body: `<html>${secret} ${'-'.repeat(45)} ${secret}` });
  const broken = await service.post({
    source: { type: 'listing', url: `${files.listUrl}?broken` },
    headers: { cookie: secret },
  });
  assert.equal((await service.ended(broken.id)).state, 'failed');
  for (const path of [
    '/jobs',
    `/jobs/${id}`,
    `/jobs/${broken.id}`,
    '/workers',
    '/openapi.json',
    '/metrics',
    `/jobs/${id}/events`,
  ]) {
    await call(path);
  }
  for (const accept of ['application/json', 'application/x-ndjson', 'text/csv']) {
    assert.equal(await call(`/jobs/${id}/failures`, { headers: { accept } }), 200);
  }

  const watch = new Redis(redis.url);
  t.after(() => watch.disconnect());
  const holders = (await everythingIn(watch)).filter((where) => where.join(' ').includes(secret));
  assert.deepEqual(
    holders.map(([key, field]) => `${key} ${field}`).toSorted(),
    [id, broken.id].map((id) => `{gigafetch}:job:${id} headers`).toSorted(),
  );
  // An error that nobody foresaw, from the very command that stores the headers.
  await watch.del('{gigafetch}:sinks');
  await watch.set('{gigafetch}:sinks', 'of a wrong type');
  assert.equal(await order({ name: 'third', sink: { type: 'directory', path: 'third' } }), 422);
  const failed = await fetch(`${service.url}/jobs`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ source, headers: { authorization: secret } }),
  });
  said.push(await failed.text());
  assert.equal(failed.status, 500);
  assert.equal(await service.stop(), 0);
  assert.match(service.output, /WRONGTYPE.*a request failed/);
  // The last of what the broken listing says back is cut off.
  const begin = new RegExp(secret.slice(0, 8));
  assert.doesNotMatch(service.output, begin);
  assert.doesNotMatch(said.join('\n'), begin);
});

test('a job cannot be led into STATE_DIR, by its path or by a link, and a worker refuses folders that are one', async (t) => {
  const redis = await startTestRedis();
  t.after(() => redis.stop());
  const folder = temporaryFolder();
  const data = join(folder, 'data');
  const state = join(folder, 'state');
  for (const [DATA_DIR, STATE_DIR] of [
    [data, data],
    [data, join(data, 'state')],
    [join(state, 'data'), state],
    [data, `${data}/../data/x`],
  ]) {
    assert.throws(() => readConfig({ DATA_DIR, STATE_DIR }), /neither inside the other/);
  }
  mkdirSync(state);
  symlinkSync(folder, data);
  const worker = startProcess(fileURLToPath(new URL('../src/worker.ts', import.meta.url)), {
    REDIS_URL: redis.url,
    DATA_DIR: data,
    STATE_DIR: state,
  });
  t.after(() => worker.process.kill('SIGKILL'));
  assert.equal((await worker.ended).code, 78);
  assert.match(worker.errors.join('\n'), /^gigafetch: by their links, STATE_DIR .* are not two separate folders$/);
});
