import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, openSync } from 'node:fs';
import { Writable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { test, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { FastifyInstance } from 'fastify';
import { pino } from 'pino';
import { buildApp } from '../src/app.ts';
import { withoutQueries } from '../src/log.ts';
import { noLimiter, openConfig } from './helpers/app.ts';
import { fakeService, knownId, type Service } from './helpers/fake-service.ts';
import { fileServer } from './helpers/file-server.ts';
import { TestService } from './helpers/service.ts';

const talkative = fileURLToPath(new URL('fixtures/talkative.ts', import.meta.url));

interface Line {
  readonly reqId?: string;
  readonly msg: string;
  readonly [field: string]: unknown;
}

function appWith(t: TestContext, service: Partial<Service> = {}): { app: FastifyInstance; lines: Line[] } {
  const lines: Line[] = [];
  const sink = new Writable({
    write(line: Buffer, _encoding, done) {
      lines.push(JSON.parse(line.toString()) as Line);
      done();
    },
  });
  const app = buildApp({
    config: openConfig,
    service: fakeService(service),
    limiter: noLimiter,
    logger: pino(sink),
  });
  t.after(() => app.close());
  return { app, lines };
}

test('an answer has the id of its call: the one it came with, where that is sane, else a new one', async (t) => {
  const { app } = appWith(t);
  const idOf = async (given?: string): Promise<unknown> => {
    const headers = given === undefined ? {} : { 'x-request-id': given };
    return (await app.inject({ url: '/livez', headers })).headers['x-request-id'];
  };
  for (const sane of ['7', 'a-B_c.d:e/f+g=', '0'.repeat(128)]) assert.equal(await idOf(sane), sane);
  const made = await Promise.all([undefined, '', 'a b', 'a"b', '\u00e4', '0'.repeat(129)].map(idOf));
  for (const id of made) assert.match(String(id), /^[\da-f-]{36}$/);
  assert.equal(new Set(made).size, made.length);
  assert.equal(
    (await app.inject({ url: '/nothing', headers: { 'x-request-id': 'lost' } })).headers['x-request-id'],
    'lost',
  );
});

test('a call that changed something is one line with its id and job, any other is none', async (t) => {
  const { app, lines } = appWith(t);
  const headers = { 'x-request-id': 'mine' };
  const payload = { source: { type: 'listing', url: 'http://127.0.0.1:3900/list?sig=secret' } };
  await app.inject({ method: 'POST', url: '/jobs', headers, payload });
  await app.inject({ method: 'DELETE', url: `/jobs/${knownId}`, headers });
  await app.inject({ method: 'POST', url: '/jobs', headers, payload: {} });
  await app.inject({ url: '/jobs', headers });
  await app.inject({ url: '/nothing', headers });
  const shown = lines.map(({ reqId, method, route, status, job }) => ({ reqId, method, route, status, job }));
  assert.deepEqual(shown, [
    { reqId: 'mine', method: 'POST', route: '/jobs', status: 202, job: knownId },
    { reqId: 'mine', method: 'DELETE', route: '/jobs/:id', status: 204, job: knownId },
  ]);
});

test('an error that nobody foresaw is logged with the id of its call', async (t) => {
  const { app, lines } = appWith(t, { workers: () => Promise.reject(new Error('a bug')) });
  await app.inject({ url: '/workers', headers: { 'x-request-id': 'mine' } });
  assert.deepEqual(
    lines.map(({ reqId, msg }) => ({ reqId, msg })),
    [{ reqId: 'mine', msg: 'a request failed' }],
  );
});

test('what is written to a log has no queries of URLs', () => {
  assert.equal(
    withoutQueries('{"msg":"from https://h/a?sig=1&b=2 to \\"http://h?x\\", why? (HTTPS://h/?t)","n":1}'),
    '{"msg":"from https://h/a?… to \\"http://h?…\\", why? (HTTPS://h/?…","n":1}',
  );
});

test(
  'no process prints a secret of a job: neither its headers nor the query of a URL',
  { timeout: 60_000 },
  async (t) => {
    const secret = 'kirschkuchen';
    const server = await fileServer(t, { files: 300, pageSize: 100 });
    const service = await new TestService({
      LOG_LEVEL: 'trace',
      WORKER_METRICS_PORT: '0',
    }).start();
    t.after(() => service.dispose());
    // A server that repeats what it is sent, redirects that lead nowhere, a file without an answer.
    server.fault(/^\/echo/, { status: 200, body: `you sent ${secret}` });
    server.fault(/^\/get\/7\.bin/, { status: 302, headers: { location: `/get/7.bin?sig=${secret}` } });
    server.fault('/get/8.bin', { cut: { after: 'start', by: 'reset' } });
    server.fault('/get/9.bin', { headers: { 'content-encoding': secret } });
    const post = (url: string, path: string) =>
      service.post({
        source: { type: 'listing', url },
        sink: { type: 'directory', path },
        headers: { authorization: `Bearer ${secret}`, cookie: secret },
        retry: { attempts: 2, baseDelayMs: 1 },
      });
    const release = server.hold('/get/250.bin');
    const long = await post(`${server.listUrl}?sig=${secret}`, 'long');
    const wrong = await post(`${server.origin}/echo?sig=${secret}`, 'wrong');
    assert.equal((await service.ended(wrong.id)).state, 'failed');
    await server.requested('/get/250.bin');
    service.kill('redis');
    await post(server.listUrl, 'late').catch(() => {});
    service.kill('worker');
    release();
    const ended = await service.ended(long.id);
    assert.deepEqual(Object.keys(ended.failures).sort(), ['connection', 'decode', 'too_many_redirects']);
    assert.equal(await service.stop(), 0);
    assert.match(service.output, new RegExp(`"job":"${wrong.id}","page":0,"reason":"not_json"`));
    assert.match(service.output, new RegExp(`"worker":"[^"]+","job":"${long.id}","page":\\d+,"files":100`));
    assert.ok(!service.output.includes(secret), service.output);
  },
);

const noFullDisk = existsSync('/dev/full') ? false : 'this system has no /dev/full';

test('a process whose log finds the disk full goes on, and ends as it should', { skip: noFullDisk }, async (t) => {
  const child = spawn(process.execPath, [talkative, '4096'], {
    stdio: ['ignore', openSync('/dev/full', 'w'), 'inherit'],
  });
  t.after(() => child.kill('SIGKILL'));
  assert.deepEqual(await once(child, 'exit'), [0, null]);
});

test('a process whose log nobody reads goes on, and ends as it should', async (t) => {
  const child = spawn(process.execPath, [talkative, '4096'], { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => child.kill('SIGKILL'));
  assert.deepEqual(await once(child, 'exit'), [0, null]);
});

test('a log that is read has every line, also the last one before the end', async () => {
  const child = spawn(process.execPath, [talkative, '16'], { stdio: ['ignore', 'pipe', 'inherit'] });
  const messages = (await text(child.stdout))
    .trimEnd()
    .split('\n')
    .map((line) => (JSON.parse(line) as Line).msg);
  assert.equal(messages.length, 17);
  assert.equal(messages.at(-1), 'the last line');
});
