import assert from 'node:assert/strict';
import { test } from 'node:test';
import { checkJob, checkPatched, fillDefaults, patchJob } from '../src/check-job.ts';
import type { JobPatch, JobRequest } from '../src/schemas.ts';
import { fillListing, type ListingRequest } from '../src/sources/listing-spec.ts';
import { addressPolicy, readNetworks } from '../src/ssrf.ts';

const url = 'http://h/a/list';
const mayReach = addressPolicy(readNetworks('::1'));
type Source = ListingRequest;

function wrong(request: Partial<JobRequest>): string[] {
  return checkJob({ source: { type: 'listing', url }, ...request }, mayReach).map(({ pointer }) => pointer);
}

function wrongSource(source: Partial<Source>): string[] {
  return wrong({ source: { type: 'listing', url, ...source } });
}

test('defaults fill what is not given, and only that', () => {
  const request: JobRequest = { source: { type: 'listing', url }, limits: { concurrency: 7 } };
  const before = structuredClone(request);
  assert.deepEqual(fillDefaults(request, 'the-id'), {
    name: null,
    source: {
      type: 'listing',
      url,
      fileUrl: 'get/{name}',
      namesField: '/FileNames',
      next: { in: 'body' },
      markerParam: 'next-marker',
    },
    sink: { type: 'directory', path: 'the-id', durability: 'process', manifest: false },
    priority: 5,
    existing: 'skip',
    headers: {},
    filter: { include: [], exclude: [], maxFiles: 0 },
    dryRun: false,
    retry: { attempts: 5, baseDelayMs: 300, maxDelayMs: 30_000, maxOutageMs: 900_000 },
    limits: {
      concurrency: 7,
      requestsPerSecond: 0,
      timeoutMs: 30_000,
      minBytesPerSecond: 1024,
      maxFileBytes: 1_073_741_824,
      maxFailures: 100_000,
    },
  });
  assert.deepEqual(request, before);

  const nextOf = (next: NonNullable<Source['next']>): unknown => fillListing({ type: 'listing', url, next }).next;
  assert.deepEqual(nextOf({ in: 'page' }), { in: 'page', param: 'page', first: 1 });
  assert.deepEqual(nextOf({ in: 'offset', param: 'o' }), { in: 'offset', param: 'o', first: 0 });
  assert.deepEqual(nextOf({ in: 'link' }), { in: 'link' });
  assert.deepEqual(nextOf({ in: 'body', field: '' }), { in: 'body', field: '' });
});

test('what was given in full stays as it is', () => {
  const request: JobRequest = {
    name: 'n',
    source: {
      type: 'listing',
      url,
      fileUrl: 'https://cdn.h/{name}?x={name}',
      namesField: '',
      nameField: '/n',
      sizeField: '/s',
      urlField: '/u',
      next: { in: 'body', field: '/more' },
      markerParam: 'm',
    },
    sink: { type: 'directory', path: 'p', durability: 'power', manifest: true },
    priority: 10,
    existing: 'overwrite',
    headers: { Authorization: 'x' },
    filter: { include: ['a'], exclude: ['b'], maxFiles: 1 },
    dryRun: true,
    retry: { attempts: 1, baseDelayMs: 1, maxDelayMs: 1, maxOutageMs: 1 },
    limits: {
      concurrency: 1,
      requestsPerSecond: 1,
      timeoutMs: 100,
      minBytesPerSecond: 0,
      maxFileBytes: 0,
      maxFailures: 1,
    },
  };
  assert.deepEqual(checkJob(request, mayReach), []);
  assert.deepEqual(fillDefaults(request, 'x'), request);
});

test('a URL must be http or https and hold no credentials', () => {
  for (const good of ['http://h', 'HTTPS://h:8443/a?b=c#d', 'http://[::1]/x', 'http://h/ä ö']) {
    assert.deepEqual(wrongSource({ url: good }), [], good);
  }
  for (const bad of [
    'h/list',
    '/list',
    'http://',
    'ftp://h/',
    'file:///etc/passwd',
    'javascript:1',
    'http://u:p@h/',
    'http://u@h/',
    'http://:p@h/',
  ]) {
    assert.deepEqual(wrongSource({ url: bad }), ['/source/url'], bad);
  }
});

test('an address in a URL must be one that jobs may reach; names are looked up later', () => {
  for (const bad of [
    'http://127.0.0.1/',
    'http://0x7f.1:80/',
    'https://[::ffff:7f00:1]/x',
    'http://169.254.169.254/',
  ]) {
    assert.deepEqual(wrongSource({ url: bad }), ['/source/url'], bad);
    assert.deepEqual(wrongSource({ fileUrl: `${bad}?{name}` }), ['/source/fileUrl'], bad);
  }
  for (const good of [
    'http://192.0.1.1/',
    'http://[2606:2800::1]/',
    'http://localhost/',
    'http://127.0.0.1.example/',
  ]) {
    assert.deepEqual(wrongSource({ url: good, fileUrl: `${good}?{name}` }), [], good);
  }
  const [error] = checkJob({ source: { type: 'listing', url: 'http://127.1/' } }, mayReach);
  assert.match(error?.detail ?? '', /127\.0\.0\.1 is not globally reachable; ALLOWED_NETWORKS/);
});

test('fileUrl must lead every name to an address of its own on one http host', () => {
  for (const good of [
    'get/{name}',
    '{name}',
    '?f={name}',
    '//cdn/{name}',
    'https://cdn/{name}',
    '/a/{name}/b?{name}',
  ]) {
    assert.deepEqual(wrongSource({ fileUrl: good }), [], good);
  }
  for (const bad of [
    'get/',
    'ftp://h/{name}',
    'http://u:p@h/{name}',
    'http://{name}/x',
    'http://{name}/{name}',
    'http://h:{name}/',
    '#{name}',
    '{name}:x',
    'http://[/{name}',
  ]) {
    assert.deepEqual(wrongSource({ fileUrl: bad }), ['/source/fileUrl'], bad);
  }
});

test('a parameter of the query is text that a URL can hold', () => {
  assert.deepEqual(wrongSource({ markerParam: '\ud800' }), ['/source/markerParam']);
  for (const way of ['page', 'offset'] as const) {
    assert.deepEqual(wrongSource({ next: { in: way, param: 'a\udc00' } }), ['/source/next/param']);
    assert.deepEqual(wrongSource({ next: { in: way, param: 'ä & 😀' }, markerParam: '\0' }), []);
  }
});

test('fields of an item need the name of the item', () => {
  assert.deepEqual(wrongSource({ sizeField: '/s', urlField: '/u' }), ['/source/sizeField', '/source/urlField']);
  assert.deepEqual(wrongSource({ sizeField: '/s', urlField: '/u', nameField: '/n' }), []);
});

test('a sink path leads to a folder below DATA_DIR and nowhere else', () => {
  const long = 'x'.repeat(255);
  for (const good of ['a', 'a/b', '...', '.a', 'a\\..\\b', 'ä ö', '~', long, `${long}/${long}/${long}/${long}`]) {
    assert.deepEqual(wrong({ sink: { type: 'directory', path: good } }), [], good);
  }
  const bad = [
    '',
    '/',
    '/a',
    'a/',
    'a//b',
    '.',
    '..',
    '../a',
    'a/..',
    'a/./b',
    'a\0b',
    '\ud800',
    '.gigafetch',
    'a/.gigafetch/b',
  ];
  for (const path of [...bad, 'a/.GigaFetch', `${long}x`, 'ä'.repeat(128), `${long}/${long}/${long}/${long}/b`]) {
    assert.deepEqual(wrong({ sink: { type: 'directory', path } }), ['/sink/path'], path);
  }
});

test('headers are names and values that can be sent, and none that the service sets itself', () => {
  for (const [name, value] of [
    ['authorization', 'Bearer x'],
    ['X-A~b', ''],
    ['accept', 'text/plain;q=0.5,\t*/*'],
    ['x', 'é'],
  ] as const) {
    assert.deepEqual(wrong({ headers: { [name]: value } }), [], name);
  }
  const refused =
    'Host,content-length,Connection,keep-alive,Proxy-Authorization,proxy-connection,TE,trailer,Transfer-Encoding,' +
    'upgrade,http2-settings,expect,accept-encoding,Range,if-none-match,If-Modified-Since';
  for (const name of [...refused.split(','), '', 'a b', 'a:', 'ä', 'a\n']) {
    assert.deepEqual(wrong({ headers: { [name]: 'x' } }), [`/headers/${name}`], name);
  }
  for (const value of ['a\r\nb: c', 'a\n', 'a\0', '€', '\x7f']) {
    assert.deepEqual(wrong({ headers: { a: value } }), ['/headers/a'], JSON.stringify(value));
  }
  assert.deepEqual(wrong({ headers: { Accept: 'a', 'x-b': 'c', aCCEPT: 'b' } }), ['/headers/aCCEPT']);
  assert.deepEqual(wrong({ headers: { 'a/b~c': 'x' } }), ['/headers/a~1b~0c']);
});

test('the first delay is at most the longest, also where one of them is a default', () => {
  assert.deepEqual(wrong({ retry: { baseDelayMs: 30_001 } }), ['/retry/baseDelayMs']);
  assert.deepEqual(wrong({ retry: { maxDelayMs: 299 } }), ['/retry/baseDelayMs']);
  assert.deepEqual(wrong({ retry: { baseDelayMs: 5, maxDelayMs: 5 } }), []);
});

test('everything that is wrong is told at once', () => {
  const sink = { type: 'directory', path: '..' } as const;
  assert.deepEqual(
    wrong({ source: { type: 'listing', url: 'x' }, sink, headers: { te: '\n' }, retry: { maxDelayMs: 1 } }),
    ['/source/url', '/sink/path', '/headers/te', '/headers/te', '/retry/baseDelayMs'],
  );
});

test('a change leaves what it does not name; header names are one in upper and lower case', () => {
  const spec = fillDefaults(
    { name: 'n', source: { type: 'listing', url }, headers: { Accept: 'a', 'X-Key': 'k' } },
    'x',
  );
  const patch: JobPatch = {
    name: null,
    priority: 9,
    headers: { accept: 'b', 'x-key': null, 'x-new': 'n' },
    limits: { concurrency: 1 },
  };
  const changed = patchJob(spec, patch);
  assert.deepEqual(changed, {
    ...spec,
    name: null,
    priority: 9,
    headers: { accept: 'b', 'x-new': 'n' },
    limits: { ...spec.limits, concurrency: 1 },
  });
  assert.deepEqual(checkPatched(changed), []);
  const pointers = (patch: JobPatch): string[] => checkPatched(patchJob(spec, patch)).map(({ pointer }) => pointer);
  assert.deepEqual(pointers({ headers: { host: 'x', y: 'a\nb' } }), ['/headers/host', '/headers/y']);
  assert.deepEqual(
    pointers({ retry: { baseDelayMs: 40_000 } }),
    ['/retry/baseDelayMs'],
    'the longest delay stays 30 s',
  );
});

test('update is for directories alone', () => {
  assert.deepEqual(wrong({ existing: 'update' }), []);
  for (const type of ['tar', 'ndjson'] as const) {
    assert.deepEqual(wrong({ existing: 'update', sink: { type } }), ['/existing']);
    assert.deepEqual(wrong({ existing: 'skip', sink: { type } }), []);
  }
});
