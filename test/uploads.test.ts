import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { request as ask } from 'node:http';
import type { AddressInfo } from 'node:net';
import { dirname, join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { fastify } from 'fastify';
import { pino } from 'pino';
import { hurryBodies } from '../routes/slow-bodies.ts';
import { buildApp } from '../src/app.ts';
import { Problem } from '../src/errors.ts';
import { noLimiter, openConfig } from './helpers/app.ts';
import { fakeService, unknownId, type Service } from './helpers/fake-service.ts';
import { urlFiles } from './helpers/url-files.ts';

async function listen(t: TestContext, upload: Service['upload']): Promise<number> {
  const service = fakeService({ upload });
  const app = buildApp({ config: openConfig, service, limiter: noLimiter, logger: pino({ level: 'silent' }) });
  t.after(() => app.close());
  await app.listen({ port: 0, host: '127.0.0.1' });
  return (app.server.address() as AddressInfo).port;
}

/** A request whose body is the caller's to write. */
function post(port: number, path: string, type: string) {
  const request = ask({ port, path, method: 'POST', headers: { 'content-type': type } });
  request.on('error', () => {});
  request.flushHeaders();
  return request;
}

test('one upload more than may come in at once is a 429, and room is made by each that ends', async (t) => {
  const begun: (() => void)[] = [];
  const port = await listen(t, (_body, format) => {
    const { promise, resolve } = Promise.withResolvers<Awaited<ReturnType<Service['upload']>>>();
    begun.push(() => resolve({ id: unknownId, format, bytes: 1, urls: 1 }));
    return promise;
  });
  const send = (): Promise<Response> =>
    fetch(`http://127.0.0.1:${port}/uploads`, { method: 'POST', body: 'x', headers: { 'content-type': 'text/csv' } });
  const answers = Array.from({ length: 8 }, send);
  while (begun.length < 8) await new Promise(setImmediate);
  const ninth = await send();
  assert.equal(ninth.status, 429);
  assert.equal(ninth.headers.get('retry-after'), '10');
  for (const end of begun) end();
  for (const answer of answers) assert.equal((await answer).status, 201);
  const last = send();
  while (begun.length < 9) await new Promise(setImmediate);
  begun[8]?.();
  assert.deepEqual(await (await last).json(), { id: unknownId, format: 'csv', bytes: 1, urls: 1 });
});

test('an upload that its client gives up leaves nothing', async (t) => {
  const files = urlFiles();
  const folder = join(dirname(dirname(files.of('x').path)), 'uploads');
  const ended = Promise.withResolvers<unknown>();
  const port = await listen(t, (body, format) => {
    const upload = files.receive(body, format);
    upload.catch(ended.resolve);
    return upload;
  });
  const request = post(port, '/uploads', 'text/plain');
  request.write('https://h/a\n');
  let names: string[] = [];
  // The folder is made by the first upload.
  while (names.length === 0) {
    await new Promise(setImmediate);
    try {
      names = readdirSync(folder);
    } catch {
      continue;
    }
  }
  assert.match(names.join(), /^[\w-]+\.part$/);
  request.destroy();
  await ended.promise;
  while (readdirSync(folder).length > 0) await new Promise(setImmediate);
});

test('who sends too much is answered before the end of it', async (t) => {
  const files = urlFiles(1000);
  const port = await listen(t, (body, format) =>
    files.receive(body, format).catch((error: Error) => {
      throw new Problem('body_too_large', error.message);
    }),
  );
  const request = post(port, '/uploads', 'text/plain');
  for (const characters of [10, 1001]) request.write('x'.repeat(characters));
  const [answer] = (await once(request, 'response')) as [{ statusCode: number; headers: Record<string, string> }];
  assert.equal(answer.statusCode, 413);
  assert.equal(answer.headers['connection'], 'close');
  request.destroy();
});

test('a body that is not whole in time is answered 408 and hung up on, but for uploads', async (t) => {
  const app = fastify();
  t.after(() => app.close());
  hurryBodies(app, 1);
  app.addContentTypeParser('text/plain', (_request, body, done) => done(null, body));
  const { promise, resolve } = Promise.withResolvers<void>();
  app.post('/uploads', async ({ body }) => {
    resolve();
    return (await (body as NodeJS.ReadableStream & { toArray(): Promise<Buffer[]> }).toArray()).join('');
  });
  app.post('/jobs', async () => 'x');
  await app.listen({ port: 0, host: '127.0.0.1' });
  const { port } = app.server.address() as AddressInfo;
  const upload = post(port, '/uploads', 'text/plain');
  upload.write('slowly');
  await promise;
  const job = post(port, '/jobs', 'application/json');
  job.write('{');
  const [answer] = (await once(job, 'response')) as [{ statusCode: number; headers: Record<string, string> }];
  assert.equal(answer.statusCode, 408);
  assert.match(answer.headers['content-type'] ?? '', /problem\+json/);
  upload.end(' done');
  const [uploaded] = (await once(upload, 'response')) as [AsyncIterable<Buffer> & { statusCode: number }];
  assert.equal(uploaded.statusCode, 200);
  assert.equal(Buffer.concat(await Array.fromAsync(uploaded)).toString(), 'slowly done');
});
