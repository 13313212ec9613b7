import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { Writable } from 'node:stream';
import { test, type TestContext } from 'node:test';
import type { FastifyInstance, InjectOptions, LightMyRequestResponse } from 'fastify';
import { pino } from 'pino';
import { buildApp } from '../src/app.ts';
import { Problem, type FieldError } from '../src/errors.ts';
import type { Job, JobRequest } from '../src/schemas.ts';
import { noLimiter, openConfig } from './helpers/app.ts';
import { failuresOf, fakeService, jobOf, knownId, unknownId, type Service } from './helpers/fake-service.ts';

const source = { type: 'listing', url: 'http://127.0.0.1:3900/list' } as const;

function appWith(
  t: TestContext,
  service: Partial<Service> = {},
  apiTokens: string[] = [],
  log?: string[],
): FastifyInstance {
  const sink = new Writable({
    write(line: Buffer, _encoding, done) {
      log?.push(line.toString());
      done();
    },
  });
  const config = { ...openConfig, apiTokens };
  const app = buildApp({ config, service: fakeService(service), limiter: noLimiter, logger: pino(sink) });
  t.after(() => app.close());
  return app;
}

interface ProblemBody {
  type: string;
  title: string;
  status: number;
  detail: string;
  errors?: FieldError[];
}

function problemOf(response: LightMyRequestResponse, status: number): ProblemBody {
  assert.equal(response.statusCode, status, response.body);
  assert.match(String(response.headers['content-type']), /^application\/problem\+json/);
  const problem = response.json<ProblemBody>();
  assert.equal(problem.type, 'about:blank');
  assert.equal(problem.status, status);
  assert.equal(typeof problem.title, 'string');
  assert.ok(problem.detail.length > 0);
  return problem;
}

async function errorsOf(app: FastifyInstance, payload: object): Promise<Record<string, string>> {
  const problem = problemOf(await app.inject({ method: 'POST', url: '/jobs', payload }), 400);
  const errors = problem.errors ?? [];
  const byPointer = Object.fromEntries(errors.map(({ pointer, detail }) => [pointer, detail]));
  assert.equal(Object.keys(byPointer).length, errors.length, `something is said twice: ${JSON.stringify(errors)}`);
  return byPointer;
}

test('a job is accepted with 202, its place, and every field of its answer', async (t) => {
  const request: JobRequest = {
    name: 'ä',
    source: { ...source, next: { in: 'offset', first: 10 }, nameField: '/name', sizeField: '/size' },
    sink: { type: 'directory', path: 'a/b' },
    existing: 'overwrite',
    headers: { authorization: 'Bearer secret' },
    retry: { attempts: 1 },
    limits: { maxFileBytes: 1_099_511_627_776 },
  };
  const seen: unknown[] = [];
  const app = appWith(t, {
    create: async (...given) => {
      seen.push(given);
      return { job: jobOf(given[0]), replayed: false };
    },
  });
  const response = await app.inject({ method: 'POST', url: '/jobs', payload: request });
  assert.equal(response.statusCode, 202, response.body);
  assert.equal(response.headers.location, `/jobs/${knownId}`);
  assert.equal(response.headers['idempotency-replayed'], undefined);
  assert.deepEqual(seen, [[request, null]]);
  assert.deepEqual(response.json(), jobOf(request));
});

test('an idempotency key reaches the service, and a replay says so', async (t) => {
  const keys: unknown[] = [];
  const app = appWith(t, {
    create: async (request, key) => {
      keys.push(key);
      return { job: jobOf(request), replayed: true };
    },
  });
  const post = (key: string): Promise<LightMyRequestResponse> =>
    app.inject({ method: 'POST', url: '/jobs', payload: { source }, headers: { 'Idempotency-Key': key } });
  const response = await post('k'.repeat(255));
  assert.equal(response.statusCode, 202);
  assert.equal(response.headers['idempotency-replayed'], 'true');
  assert.deepEqual(keys, ['k'.repeat(255)]);
  for (const bad of ['', 'k'.repeat(256), 'a b', 'ä']) {
    assert.deepEqual(
      problemOf(await post(bad), 400).errors?.map(({ pointer }) => pointer),
      ['/idempotency-key'],
      bad,
    );
  }
  assert.equal(keys.length, 1);
});

test('every unknown field, wrong type and number out of range is named once, none is dropped or coerced', async (t) => {
  const app = appWith(t, { create: () => assert.fail('must not be called') });
  assert.deepEqual(
    await errorsOf(app, {
      name: '',
      source: { ...source, 'a/b~c': 1, next: { in: 'page', first: '1', param: '', x: 1 }, namesField: 'FileNames' },
      sink: { type: 'directory', path: 'a', durability: 'disk' },
      existing: 'always',
      filter: { include: 'x', maxFiles: -1 },
      priority: 11,
      headers: { a: 1 },
      retry: { maxOutageMs: 0, attempts: 0 },
      limits: { concurrency: '64', timeoutMs: 99, maxFailures: 1.5, minBytesPerSecond: null },
    }),
    {
      '/name': 'must have 1 to 200 characters',
      '/source/a~1b~0c':
        'is not known; known are type, url, fileUrl, namesField, nameField, sizeField, urlField, next, markerParam',
      '/source/next/first': 'must be a whole number',
      '/source/next/param': 'must have 1 to 128 characters',
      '/source/next/x': 'is not known; known are in, param, first',
      '/source/namesField': 'must be a JSON Pointer (RFC 6901), such as "/FileNames", or ""',
      '/sink/durability': 'is not supported; supported are "process", "power"',
      '/existing': 'is not supported; supported are "skip", "update", "overwrite"',
      '/filter/include': 'must be a list',
      '/filter/maxFiles': 'must be between 0 and 1000000000000',
      '/priority': 'must be between 1 and 10',
      '/headers/a': 'must be a string',
      '/retry/maxOutageMs': 'must be between 1 and 86400000',
      '/retry/attempts': 'must be between 1 and 100',
      '/limits/concurrency': 'must be a whole number',
      '/limits/timeoutMs': 'must be between 100 and 3600000',
      '/limits/maxFailures': 'must be a whole number',
      '/limits/minBytesPerSecond': 'must be a whole number',
    },
  );
});

test('a source or sink that is not there is refused by its type alone', async (t) => {
  const app = appWith(t);
  assert.deepEqual(await errorsOf(app, { source: { type: 's3', bucket: 'b' }, sink: { type: 's3' } }), {
    '/source/type': 'is not supported; supported are "listing", "range", "urls"',
    '/sink/type': 'is not supported; supported are "directory", "tar", "ndjson"',
  });
  assert.deepEqual(await errorsOf(app, { source: { ...source, next: { in: 'header' } } }), {
    '/source/next/in': 'is not supported; supported are "body", "link", "page", "offset"',
  });
  assert.deepEqual(await errorsOf(app, { source: {} }), { '/source/type': 'is missing' });
  assert.deepEqual(await errorsOf(app, { source: { type: 7 } }), { '/source/type': 'must be a string' });
  assert.deepEqual(await errorsOf(app, {}), { '/source': 'is missing' });
  assert.deepEqual(await errorsOf(app, { source: [] }), { '/source': 'must be a JSON object' });
  assert.deepEqual(await errorsOf(app, []), { '': 'must be a JSON object' });
});

test('what only checkJob can tell is a 400 with pointers too', async (t) => {
  const payload = { source: { type: 'listing', url: 'ftp://h/' }, headers: { Host: 'h' } };
  const problem = problemOf(await appWith(t).inject({ method: 'POST', url: '/jobs', payload }), 400);
  assert.deepEqual(
    problem.errors?.map(({ pointer }) => pointer),
    ['/source/url', '/headers/Host'],
  );
  assert.equal(problem.detail, '/source/url must be an http or https URL, such as http://host/list (1 more in errors)');
});

test('a body with very many errors gets a hundred of them told', async (t) => {
  const payload = { source, ...Object.fromEntries(Array.from({ length: 1000 }, (_, index) => [`x${index}`, 1])) };
  const response = await appWith(t).inject({ method: 'POST', url: '/jobs', payload });
  assert.equal(problemOf(response, 400).errors?.length, 100);
});

test('a body that is no JSON, empty, of another type or too large is answered as a problem', async (t) => {
  const app = appWith(t);
  const post = (payload: string, type?: string): Promise<LightMyRequestResponse> =>
    app.inject({ method: 'POST', url: '/jobs', payload, headers: type === undefined ? {} : { 'content-type': type } });
  problemOf(await post('{"source"', 'application/json'), 400);
  problemOf(await post('{"__proto__":{}}', 'application/json'), 400);
  assert.equal(problemOf(await post('', 'application/json'), 400).errors?.[0]?.pointer, '');
  assert.equal(problemOf(await post(''), 400).errors?.[0]?.pointer, '');
  problemOf(await post(JSON.stringify({ source }), 'text/plain'), 415);
  problemOf(await post(JSON.stringify({ source }), 'no type'), 415);
  problemOf(await post(JSON.stringify({ source })), 415);
  problemOf(await post(`"${'x'.repeat(10 * 1024 * 1024)}"`, 'application/json'), 413);
  assert.equal((await post(JSON.stringify({ source }), 'application/json; charset=utf-8')).statusCode, 202);
});

test('a query is coerced, has defaults, and refuses what it does not know', async (t) => {
  const queries: unknown[] = [];
  const app = appWith(t, {
    list: async (query) => {
      queries.push({ ...query });
      return { jobs: [], nextCursor: null };
    },
  });
  const listed = await app.inject('/jobs');
  assert.deepEqual(listed.json(), { jobs: [], nextCursor: null });
  await app.inject(`/jobs?limit=100&state=paused&cursor=${knownId}`);
  assert.deepEqual(queries, [{ limit: 20 }, { limit: 100, state: 'paused', cursor: knownId }]);
  for (const [query, pointer] of [
    ['limit=0', '/limit'],
    ['limit=101', '/limit'],
    ['limit=x', '/limit'],
    ['limit=1.5', '/limit'],
    ['limit=1&limit=2', '/limit'],
    ['state=done', '/state'],
    ['cursor=x', '/cursor'],
    ['what=1', '/what'],
  ]) {
    const problem = problemOf(await app.inject(`/jobs?${query}`), 400);
    assert.deepEqual(
      problem.errors?.map((error) => error.pointer),
      [pointer],
      query,
    );
  }
  problemOf(await app.inject({ method: 'POST', url: '/jobs?dryRun=true', payload: { source } }), 400);
  problemOf(await app.inject(`/jobs/${knownId}?x=1`), 400);
  assert.equal(queries.length, 2);
});

test('a job is shown, listed and deleted, and an id that is unknown or no UUID is a 404', async (t) => {
  const app = appWith(t);
  const job = jobOf({ source });
  assert.deepEqual((await app.inject(`/jobs/${knownId}`)).json(), job);
  assert.deepEqual((await app.inject('/jobs')).json(), { jobs: [job], nextCursor: knownId });
  const gone = await app.inject({ method: 'DELETE', url: `/jobs/${knownId}` });
  assert.deepEqual([gone.statusCode, gone.body], [204, '']);
  for (const id of [unknownId, 'x', '%00', '..%2f', knownId.toUpperCase(), 'x'.repeat(3000)]) {
    for (const [method, path] of [
      ['GET', ''],
      ['DELETE', ''],
      ['POST', '/resume'],
      ['POST', '/pause'],
      ['POST', '/cancel'],
      ['POST', '/retry'],
      ['GET', '/failures'],
    ] as const) {
      problemOf(await app.inject({ method, url: `/jobs/${id}${path}` }), 404);
    }
  }
});

test('a job is paused, resumed, cancelled, retried and changed', async (t) => {
  const asked: unknown[] = [];
  const job = jobOf({ source });
  const note = async (...what: unknown[]): Promise<Job> => (asked.push(what), job);
  const app = appWith(t, { steer: note, retry: note, change: note });
  const at = `/jobs/${knownId}`;
  for (const verb of ['pause', 'resume', 'cancel', 'retry', 'retry?reason=timeout', 'retry?statusCode=404']) {
    const response = await app.inject({ method: 'POST', url: `${at}/${verb}` });
    assert.deepEqual([response.statusCode, response.json()], [202, job]);
  }
  const payload = { limits: { concurrency: 3 }, headers: { a: null } };
  const changed = await app.inject({ method: 'PATCH', url: at, payload });
  assert.deepEqual([changed.statusCode, changed.json()], [200, job]);
  assert.deepEqual(asked, [
    [knownId, 'pause'],
    [knownId, 'resume'],
    [knownId, 'cancel'],
    [knownId, { reason: null, statusCode: null }],
    [knownId, { reason: 'timeout', statusCode: null }],
    [knownId, { reason: null, statusCode: 404 }],
    [knownId, payload],
  ]);
  for (const query of ['reason=bored', 'statusCode=99', 'statusCode=x', 'all=1']) {
    problemOf(await app.inject({ method: 'POST', url: `${at}/retry?${query}` }), 400);
  }
});

test('a change names what may be changed, and says of each wrong field what it must be', async (t) => {
  const app = appWith(t, { change: () => assert.fail() });
  const url = `/jobs/${knownId}`;
  const payload = {
    name: '',
    priority: 0,
    source,
    headers: { a: 1 },
    retry: { attempts: null, x: 1 },
    limits: { concurrency: 0 },
  };
  const { errors } = problemOf(await app.inject({ method: 'PATCH', url, payload }), 400);
  assert.deepEqual(Object.fromEntries((errors ?? []).map(({ pointer, detail }) => [pointer, detail])), {
    '/source': 'is not known; known are name, priority, headers, retry, limits',
    '/name': 'must have 1 to 200 characters',
    '/priority': 'must be between 1 and 10',
    '/headers/a': 'must be a string or null',
    '/retry/x': 'is not known; known are attempts, baseDelayMs, maxDelayMs, maxOutageMs',
    '/retry/attempts': 'must be a whole number',
    '/limits/concurrency': 'must be between 1 and 65536',
  });
  assert.match(problemOf(await app.inject({ method: 'PATCH', url, payload: {} }), 400).detail, /at least one/);
});

test('a call without a body takes an empty one however it is declared, and refuses any other', async (t) => {
  const app = appWith(t);
  const url = `/jobs/${knownId}/resume`;
  const empty: InjectOptions[] = [
    {},
    { headers: { 'content-type': 'application/json' } },
    { headers: { 'content-type': 'application/json' }, payload: '' },
    { headers: { 'content-type': 'application/x-www-form-urlencoded', 'content-length': '0' } },
    { payload: {} },
  ];
  for (const options of empty) {
    const response = await app.inject({ method: 'POST', url, ...options });
    assert.equal(response.statusCode, 202, JSON.stringify(options));
    assert.deepEqual(response.json(), jobOf({ source }));
  }
  for (const payload of [{ force: true }, []]) problemOf(await app.inject({ method: 'POST', url, payload }), 400);
  problemOf(await app.inject({ method: 'POST', url, payload: 'a=1', headers: { 'content-type': 'text/plain' } }), 415);
});

test('failures come as a page, as lines of JSON or as CSV, whatever is accepted', async (t) => {
  const seen: unknown[] = [];
  const log: string[] = [];
  const service: Partial<Service> = {
    failures: async (_id, query) => {
      seen.push(query);
      return { failures: failuresOf(2), nextCursor: '1-0' };
    },
  };
  const app = appWith(t, service, [], log);
  const get = (accept: string, query = ''): Promise<LightMyRequestResponse> =>
    app.inject({ url: `/jobs/${knownId}/failures${query}`, headers: { accept } });
  const all = [...failuresOf(2), ...failuresOf(1)];

  for (const accept of ['', '*/*', 'application/json', 'text/csv;q=0.5, application/json']) {
    assert.deepEqual((await get(accept)).json(), { failures: failuresOf(2), nextCursor: '1-0' });
  }
  await get('*/*', '?reason=timeout&limit=1000&cursor=1-0');
  assert.deepEqual(seen.at(0), { limit: 100 });
  assert.deepEqual(seen.at(-1), { reason: 'timeout', limit: 1000, cursor: '1-0' });

  const lines = await get('application/x-ndjson');
  assert.equal(lines.headers['content-type'], 'application/x-ndjson; charset=utf-8');
  assert.ok(lines.body.endsWith('}\n'));
  assert.deepEqual(
    lines.body
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as unknown),
    all,
  );

  const csv = await get('text/csv');
  assert.equal(csv.headers['content-type'], 'text/csv; charset=utf-8');
  assert.equal(
    csv.body,
    'name,url,reason,statusCode,attempts,message,at\r\n' +
      '0.bin,http://h/get/0.bin,http_status,404,1,the server answered 404,2026-11-20T10:00:01.000Z\r\n' +
      '"say ""1"",\nplease.bin",,http_status,,1,the server answered 404,2026-11-20T10:00:01.000Z\r\n' +
      '0.bin,http://h/get/0.bin,http_status,404,1,the server answered 404,2026-11-20T10:00:01.000Z\r\n',
  );

  problemOf(await get('text/html'), 406);
  problemOf(await get('text/csv', '?limit=5'), 400);
  problemOf(await get('application/json', '?limit=1001'), 400);
  problemOf(await get('application/json', '?reason=bad%20luck'), 400);
  problemOf(await get('application/json', '?cursor=abc'), 400);
  for (const accept of ['text/csv', 'application/x-ndjson']) {
    problemOf(await app.inject({ url: `/jobs/${unknownId}/failures`, headers: { accept } }), 404);
  }
  assert.deepEqual(log, []);
});

test('a stream of failures goes no faster than it is read, and closing the app ends it', async (t) => {
  let batches = 0;
  const ended = Promise.withResolvers<void>();
  const app = appWith(t, {
    async *allFailures() {
      try {
        for (;;) {
          batches += 1;
          yield failuresOf(500);
          // As a Redis would, let others have their turn.
          await new Promise(setImmediate);
        }
      } finally {
        ended.resolve();
      }
    },
  });
  const { port } = new URL(await app.listen({ port: 0, host: '127.0.0.1' }));
  const client = connect(Number(port), '127.0.0.1');
  client.write(`GET /jobs/${knownId}/failures HTTP/1.1\r\nhost: localhost\r\naccept: application/x-ndjson\r\n\r\n`);
  await once(client, 'readable');
  // Nothing is read from here on: the sockets' buffers fill and the source comes to a halt.
  let before = -1;
  while (before !== batches) {
    before = batches;
    for (let turn = 0; turn < 1000; turn += 1) await new Promise(setImmediate);
  }
  assert.ok(batches < 1000, `${batches} batches`);
  await app.close();
  await ended.promise;
  client.destroy();
});

test('an error in the middle of a stream cuts the answer and is logged', async (t) => {
  const log: string[] = [];
  const app = appWith(
    t,
    {
      async *allFailures() {
        yield failuresOf(1);
        throw new Problem('unavailable', 'Redis went away');
      },
    },
    [],
    log,
  );
  const address = await app.listen({ port: 0, host: '127.0.0.1' });
  for (const accept of ['application/x-ndjson', 'text/csv']) {
    const response = await fetch(`${address}/jobs/${knownId}/failures`, { headers: { accept } });
    await assert.rejects(response.text(), accept);
    assert.match(log.join(''), /a stream broke off/);
    log.length = 0;
  }
});

test('an unknown route and a method that a route does not have are a 404', async (t) => {
  const app = appWith(t);
  for (const [method, url] of [
    ['GET', '/'],
    ['GET', '/jobs/'],
    ['PUT', '/jobs'],
    ['POST', `/jobs/${knownId}/stop`],
    ['PUT', `/jobs/${knownId}`],
    ['GET', '/queues?secret=1'],
  ] as const) {
    assert.doesNotMatch(problemOf(await app.inject({ method, url }), 404).detail, /secret/);
  }
  problemOf(await app.inject('/%zz'), 400);
});

test('an error that nobody foresaw is a 500 that tells nothing, logged once with its stack', async (t) => {
  const log: string[] = [];
  const app = appWith(t, { workers: () => Promise.reject(new TypeError('secret')) }, [], log);
  assert.doesNotMatch(JSON.stringify(problemOf(await app.inject('/workers'), 500)), /secret|TypeError/);
  assert.equal(log.length, 1);
  assert.match(log[0] ?? '', /TypeError: secret\\n +at /);
});

test('each problem of the service has its status', async (t) => {
  for (const [kind, status] of [
    ['conflict', 409],
    ['idempotency_conflict', 422],
    ['unavailable', 503],
  ] as const) {
    const app = appWith(t, { create: () => Promise.reject(new Problem(kind, 'because')) });
    const response = await app.inject({ method: 'POST', url: '/jobs', payload: { source } });
    assert.equal(problemOf(response, status).detail, 'because');
    assert.equal(response.headers['retry-after'], kind === 'unavailable' ? '1' : undefined);
  }
});

test('livez is always 200; readyz is 503 with the reason while Redis does not answer', async (t) => {
  const app = appWith(t, { ping: () => Promise.reject(new Problem('unavailable', 'Redis does not answer')) });
  assert.deepEqual((await app.inject('/livez')).json(), { status: 'ok' });
  assert.equal(problemOf(await app.inject('/readyz'), 503).detail, 'Redis does not answer');
  assert.deepEqual((await appWith(t).inject('/readyz')).json(), { status: 'ok' });
});

test('with tokens, everything but health and documentation needs one, unknown routes too', async (t) => {
  const app = appWith(t, {}, ['first', 'second+/=']);
  const get = (url: string, authorization?: string): Promise<LightMyRequestResponse> =>
    app.inject({ url, headers: authorization === undefined ? {} : { authorization } });
  for (const authorization of [undefined, 'Bearer', 'Bearer x', 'Bearer firs', 'Bearer first second', 'Basic first']) {
    for (const url of ['/jobs', '/jobs/x', '/nothing', '/docsx']) {
      const response = await get(url, authorization);
      problemOf(response, 401);
      assert.equal(response.headers['www-authenticate'], 'Bearer realm="gigafetch"');
    }
  }
  for (const token of ['Bearer first', 'bearer second+/=']) assert.equal((await get('/jobs', token)).statusCode, 200);
  problemOf(await get('/nothing', 'Bearer first'), 404);
  for (const url of ['/livez', '/readyz', '/openapi.json', '/docs', '/docs/json', '/docs/static/swagger-ui.css']) {
    assert.ok((await get(url)).statusCode < 400, url);
  }
});

test('bytes that are no HTTP request get a problem too', async (t) => {
  const app = appWith(t);
  const { port } = new URL(await app.listen({ port: 0, host: '127.0.0.1' }));
  for (const [bytes, status, detail] of [
    ['what?\r\n\r\n', 400, /no HTTP/],
    [`GET / HTTP/1.1\r\nhost: localhost\r\nx: ${'x'.repeat(20_000)}\r\n\r\n`, 431, /more than 16 KiB/],
  ] as const) {
    const client = connect(Number(port), '127.0.0.1').setEncoding('utf8');
    client.write(bytes);
    let answer = '';
    for await (const chunk of client) answer += String(chunk);
    assert.match(answer, new RegExp(`^HTTP/1.1 ${status} .*\r\ncontent-type: application/problem\\+json\r\n`));
    assert.match(answer, /\r\nx-content-type-options: nosniff\r\n/);
    const problem = JSON.parse(answer.split('\r\n\r\n')[1] ?? '') as ProblemBody;
    assert.equal(problem.status, status);
    assert.match(problem.detail, detail);
  }
});

test('closing waits for a request in work, and for no connection that is idle or busy with nothing else', async (t) => {
  const entered = Promise.withResolvers<void>();
  const leave = Promise.withResolvers<never[]>();
  const app = appWith(t, {
    workers: () => {
      entered.resolve();
      return leave.promise;
    },
  });
  const { port } = new URL(await app.listen({ port: 0, host: '127.0.0.1' }));
  const idle = connect(Number(port), '127.0.0.1');
  idle.write('GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n');
  await once(idle, 'data');
  const busy = connect(Number(port), '127.0.0.1').setEncoding('utf8');
  busy.write('GET /workers HTTP/1.1\r\nhost: localhost\r\n\r\n');
  await entered.promise;
  const closed = app.close();
  await once(idle, 'close');
  leave.resolve([]);
  let answer = '';
  for await (const chunk of busy) answer += String(chunk);
  await closed;
  assert.match(answer, /^HTTP\/1.1 200 OK\r\n[^]*connection: close/i);
});

test('a request that comes while the app closes is a 503 problem', async (t) => {
  const app = appWith(t);
  let address = '';
  let response: Response | undefined;
  app.addHook('preClose', async () => {
    response = await fetch(`${address}/jobs`);
  });
  address = await app.listen({ port: 0, host: '127.0.0.1' });
  await app.close();
  assert.equal(response?.status, 503);
  assert.match(response.headers.get('content-type') ?? '', /^application\/problem\+json/);
});

test('the document is OpenAPI 3.1, and every example of a body in it is accepted', async (t) => {
  const app = appWith(t);
  const response = await app.inject('/openapi.json');
  const document = response.json<{
    openapi: string;
    paths: Record<string, Record<string, { operationId?: string; summary?: string; description?: string }>>;
    components: { schemas: Record<string, { examples?: object[] }> };
  }>();
  assert.equal(document.openapi, '3.1.0');
  const operations = Object.values(document.paths).flatMap((path) => Object.values(path));
  assert.equal(operations.length, 19);
  for (const { operationId, summary, description } of operations) assert.ok(operationId && summary && description);
  const examples = document.components.schemas['JobRequest']?.examples ?? [];
  assert.ok(examples.length > 0);
  for (const payload of examples) {
    assert.equal((await app.inject({ method: 'POST', url: '/jobs', payload })).statusCode, 202);
  }
});
