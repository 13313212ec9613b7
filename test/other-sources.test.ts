import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import type { Failure, Job } from '../src/schemas.ts';
import type { Upload } from '../src/url-files.ts';
import { fileServer, type FileServer } from './helpers/file-server.ts';
import { filesBelow } from './helpers/folders.ts';
import { TestService } from './helpers/service.ts';
import { transactionApi } from './helpers/transaction-api.ts';

const service = new TestService({ PAGE_LOCK_MS: '1000', MAX_UPLOAD_BYTES: '10000000' });
before(() => service.start());
after(async () => {
  assert.equal(await service.stop(), 0);
});

function folder(path: string): string {
  return join(service.dataDir, path);
}

function filesIn(path: string): string[] {
  return filesBelow(folder(path)).filter((file) => !file.startsWith('.gigafetch/'));
}

function own(name: 'lists' | 'uploads'): string[] {
  return readdirSync(folder(`.gigafetch/${name}`));
}

/** Files of a server as `n.bin`. */
function urlsOf(server: FileServer, count: number): string[] {
  return Array.from({ length: count }, (_, index) => `${server.origin}/get/${index}.bin`);
}

async function send(path: string, body: string | Uint8Array<ArrayBuffer>, type: string, more = {}): Promise<Response> {
  return fetch(service.url + path, { method: 'POST', body, headers: { 'content-type': type, ...more } });
}

async function upload(body: string | Uint8Array<ArrayBuffer>, type = 'text/plain', more = {}): Promise<Upload> {
  const answer = await send('/uploads', body, type, more);
  assert.equal(answer.status, 201, await answer.clone().text());
  return (await answer.json()) as Upload;
}

async function failures(job: Job): Promise<Failure[]> {
  return (await service.get<{ failures: Failure[] }>(`/jobs/${job.id}/failures`))?.failures ?? [];
}

async function remove(job: Job): Promise<void> {
  assert.equal((await fetch(`${service.url}${job.links.self}`, { method: 'DELETE' })).status, 204);
}

test('every transaction of a slow API is fetched by its number, as many at once as the job may', async (t) => {
  const api = await transactionApi(t, { latencyMs: 20 });
  const posted = await service.post({
    source: { type: 'range', url: `${api.url}{1..3000}`, pageSize: 100, name: '{}.json' },
    sink: { type: 'directory', path: 'transactions' },
    limits: { concurrency: 200 },
  });
  assert.equal(posted.progress.filesTotal, 3000);
  const job = await service.ended(posted.id, ({ progress }) => assert.equal(progress.filesTotal, 3000));
  assert.equal(job.state, 'completed');
  assert.equal(job.progress.filesDownloaded, 3000);
  assert.equal(job.progress.pagesDone, 30);
  assert.equal(api.requests, 3000);
  assert.ok(api.maxInFlight <= 200, `${api.maxInFlight} in flight`);
  assert.equal(filesIn('transactions').length, 3000);
  for (const number of [1, 1500, 3000]) {
    assert.equal(readFileSync(folder(`transactions/${number}.json`), 'utf8'), api.bodyOf(number));
  }
});

for (const kind of ['range', 'urls'] as const) {
  test(`${kind}: everything killed at once loses nothing and counts nothing twice`, { timeout: 120_000 }, async (t) => {
    const server = await fileServer(t, { files: 2000, latencyMs: 2 });
    const kill = (): void => service.kill('worker', 'api', 'redis');
    const lines = urlsOf(server, 2000).map((url, index) => `${url}\t${index}.bin\n`);
    server.fault('/list.gz', { status: 200, body: gzipSync(lines.join('')) });
    const release = server.hold('/list.gz');
    const source =
      kind === 'range'
        ? ({ type: 'range', url: `${server.origin}/get/{0..1999}.bin`, pageSize: 100 } as const)
        : ({ type: 'urls', manifestUrl: `${server.origin}/list.gz` } as const);
    const posted = await service.post({ source, sink: { type: 'directory', path: kind }, limits: { concurrency: 32 } });
    if (kind === 'urls') {
      await server.requested('/list.gz');
      kill();
    }
    release();
    for (const done of [500, 1200]) {
      await service.until(
        posted.id,
        ({ progress, state }) => progress.filesDownloaded >= done || state === 'completed',
      );
      kill();
    }
    const job = await service.ended(posted.id);
    assert.equal(job.state, 'completed', service.output);
    const { filesListed, filesDownloaded, filesSkipped, filesTotal, bytesDownloaded } = job.progress;
    assert.deepEqual([filesListed, filesDownloaded, filesSkipped, filesTotal], [2000, 2000, 0, 2000]);
    assert.equal(bytesDownloaded, 200_000);
    assert.equal(filesIn(kind).length, 2000);
  });
}

test('URLs in the order are fetched under their names, and only their number is shown', async (t) => {
  const server = await fileServer(t, { files: 3 });
  const [first = '', second = '', third = ''] = urlsOf(server, 3);
  const posted = await service.post({
    source: { type: 'urls', urls: [first, { url: second, name: 'by/name.bin' }, `${third}?q=/x`] },
    sink: { type: 'directory', path: 'inline' },
    headers: { 'x-secret': 'one' },
  });
  assert.equal(posted.progress.filesTotal, 3);
  const { urls, ...source } = posted.source as { urls: unknown };
  assert.equal(urls, 3);
  assert.doesNotMatch(JSON.stringify(source), /bin/);
  const job = await service.ended(posted.id);
  assert.equal(job.progress.filesDownloaded, 3);
  const host = server.origin.slice('http://'.length);
  const names = [`${host}/get/0.bin`, 'by/name.bin', `${host}/get/2.bin?q=#x`];
  assert.deepEqual(filesIn('inline').toSorted(), names.toSorted());
  assert.ok(server.requests.every(({ headers }) => headers['x-secret'] === 'one'));
  await remove(job);
  assert.ok(!own('lists').includes(job.id));
});

test('an upload of any type, packed or not, is a list of files with their names', async (t) => {
  const server = await fileServer(t, { files: 1500 });
  const all = urlsOf(server, 1500);
  const csv = `id,link,name\n${all.map((url, index) => `${index},"${url}",${index}.bin`).join('\r\n')}`;
  const ndjson = all.map((url, index) => JSON.stringify({ link: url, name: `${index}.bin` })).join('\n');
  const text = all.map((url, index) => `${url}\t${index}.bin`).join('\n');
  const uploads: [string, Upload][] = [
    ['csv', await upload(gzipSync(csv), 'text/csv', { 'content-encoding': 'gzip' })],
    ['ndjson', await upload(zstdCompressSync(ndjson), 'application/x-ndjson; charset=utf-8')],
    ['text', await upload(text, 'text/tab-separated-values')],
    ['text', await upload(gzipSync(text), 'application/gzip')],
  ];
  for (const [index, [format, { id, ...told }]] of uploads.entries()) {
    const bytes = { csv: csv.length, ndjson: ndjson.length, text: text.length }[format];
    assert.deepEqual(told, { format, bytes, urls: 1500 });
    const posted = await service.post({
      source: { type: 'urls', uploadId: id, urlField: 'link' },
      sink: { type: 'directory', path: `upload-${index}` },
    });
    assert.equal(posted.progress.filesTotal, 1500);
    const job = await service.ended(posted.id);
    assert.equal(job.state, 'completed');
    assert.deepEqual(filesIn(`upload-${index}`).length, 1500);
    assert.deepEqual(readFileSync(folder(`upload-${index}/7.bin`)), Buffer.from(server.bodyOf('7.bin')));
    await remove(job);
  }
  assert.ok(uploads.every(([, { id }]) => own('uploads').includes(id)));
});

test('bad lines, and addresses that may not be reached, fail alone', async (t) => {
  const server = await fileServer(t, { files: 2 });
  const lines = [...urlsOf(server, 2), '', 'nonsense', 'http://169.254.169.254/latest', 'https://u:p@h/'];
  const { id } = await upload(lines.join('\n'));
  const posted = await service.post({
    source: { type: 'urls', uploadId: id },
    sink: { type: 'directory', path: 'bad' },
  });
  const job = await service.ended(posted.id);
  assert.equal(job.state, 'completed_with_failures');
  assert.equal(job.progress.filesDownloaded, 2);
  assert.deepEqual(job.failures, { bad_item: 2, blocked_address: 1 });
  const told = (await failures(job)).map(({ name, message }) => `${name}: ${message.slice(0, 12)}`);
  assert.ok(told.includes('nonsense: line 4 has n'), told.join());
});

test('what cannot be taken is refused, and says why', async () => {
  const refused: [Promise<Response>, number, string][] = [
    [send('/uploads', '{}', 'application/json'), 415, 'text/csv'],
    [send('/uploads', 'x', 'text/plain', { 'content-encoding': 'br' }), 415, 'gzip or zstd'],
    [send('/uploads?x=1', 'x', 'text/plain'), 400, '/x'],
    [send('/uploads', new Uint8Array(10_000_001), 'text/plain'), 413, '10000000 bytes'],
    [send('/uploads', gzipSync(new Uint8Array(10_000_001)), 'text/plain'), 413, '10000000 bytes'],
    [send('/uploads', gzipSync('https://h/a').subarray(0, -4), 'text/plain'), 400, 'damaged gzip'],
  ];
  const order = (body: object): Promise<Response> => send('/jobs', JSON.stringify(body), 'application/json');
  const type = 'urls';
  const uploadId = '019a9f3c-6c2e-7d4b-9f60-2b8c1d7e5a43';
  refused.push(
    [order({ source: { type, uploadId } }), 400, '/source/uploadId'],
    [order({ source: { type, uploadId: '../../etc/passwd' } }), 400, '/source/uploadId'],
    [order({ source: { type, urls: ['http://10.0.0.1/'] } }), 400, '/source/urls/0'],
    [order({ source: { type, urls: Array.from({ length: 10_001 }, () => 'https://h/') } }), 400, '/source/urls'],
    [order({ source: { type, urls: ['https://h/', 'https://i/'] }, headers: { a: 'b' } }), 400, '/headers'],
    [order({ source: { type: 'range', url: 'http://h/{1..x}' } }), 400, '/source/url'],
    [
      order({ source: { type, urls: ['https://h/'] }, filter: { include: ['{a,b}'.repeat(12)] } }),
      400,
      '/filter/include/0',
    ],
    [
      order({ source: { type, urls: ['https://h/'] }, sink: { type: 'directory', path: '.gigafetch/lists' } }),
      400,
      '/sink/path',
    ],
  );
  for (const [answer, status, said] of refused) {
    const { status: found, headers } = await answer;
    const text = await (await answer).text();
    assert.equal(found, status, text);
    assert.match(headers.get('content-type') ?? '', /^application\/problem\+json/);
    assert.ok(text.includes(said), text);
  }
  assert.deepEqual(
    own('uploads').filter((name) => name.endsWith('.part')),
    [],
  );
});

test('a manifest that cannot be had fails the job, with the headers sent to its origin alone', async (t) => {
  const [server, elsewhere] = [await fileServer(t, { files: 1 }), await fileServer(t, { files: 2 })];
  server.fault('/list', { status: 200, body: [...urlsOf(server, 1), `${elsewhere.origin}/get/1.bin`].join('\n') });
  const headers = { authorization: 'Bearer x' };
  const order = (path: string) => ({
    source: { type: 'urls', manifestUrl: server.origin + path } as const,
    sink: { type: 'directory', path: `manifest${path}` } as const,
    headers,
  });
  const gone = await service.ended((await service.post(order('/gone'))).id);
  assert.deepEqual([gone.state, gone.error?.statusCode], ['failed', 404]);
  const job = await service.ended((await service.post(order('/list'))).id);
  assert.deepEqual([job.state, job.progress.filesTotal], ['completed', 2]);
  assert.deepEqual(
    server.requests.map((request) => request.headers['authorization']),
    Array(3).fill('Bearer x'),
  );
  assert.deepEqual(
    elsewhere.requests.map((request) => request.headers['authorization']),
    [undefined],
  );
  assert.equal(server.count('/list'), 1);
});

test('a filter takes of every source what matches, up to its limit', async (t) => {
  const server = await fileServer(t, { files: 1000, pageSize: 100 });
  const sources = {
    listing: { type: 'listing', url: server.listUrl },
    range: { type: 'range', url: `${server.origin}/get/{0..999}.bin`, pageSize: 100 },
    urls: { type: 'urls', urls: urlsOf(server, 1000).map((url, index) => ({ url, name: `${index}.bin` })) },
  } as const;
  for (const [kind, source] of Object.entries(sources)) {
    const sink = { type: 'directory', path: `filter-${kind}` } as const;
    const filter = { include: ['*1.bin', '7?.bin'], exclude: ['??1.bin'] };
    const globs = await service.ended((await service.post({ source, sink, filter })).id);
    const names = Array.from({ length: 1000 }, (_, index) => `${index}.bin`);
    const wanted = names.filter((name) => /^(?:.?1|7.)\.bin$/.test(name));
    assert.deepEqual(filesIn(`filter-${kind}`).toSorted(), wanted.toSorted(), kind);
    assert.equal(globs.progress.filesListed, wanted.length);

    const most = { source, sink: { type: 'directory', path: `most-${kind}` }, filter: { maxFiles: 250 } } as const;
    const posted = await service.post(most);
    assert.equal(posted.progress.filesTotal, kind === 'listing' ? null : 250);
    const job = await service.ended(posted.id);
    assert.equal(job.state, 'completed');
    assert.deepEqual([job.progress.filesListed, job.progress.filesTotal], [250, 250], kind);
    assert.deepEqual(filesIn(`most-${kind}`).length, 250);
  }
});

test('a dry run lists and counts, and neither asks for a file nor writes anything', async (t) => {
  const server = await fileServer(t, { files: 300, pageSize: 100 });
  const order = {
    source: { type: 'listing', url: server.listUrl },
    sink: { type: 'directory', path: 'dry' },
    dryRun: true,
  } as const;
  const [one, other] = [await service.post(order), await service.post(order)];
  for (const { id } of [one, other]) {
    const job = await service.ended(id);
    assert.deepEqual([job.state, job.dryRun], ['completed', true]);
    assert.deepEqual([job.progress.filesListed, job.progress.filesSkipped], [300, 300]);
  }
  assert.ok(server.requests.every(({ path }) => path.startsWith('/list')));
  assert.equal(existsSync(folder('dry')), false);
});
