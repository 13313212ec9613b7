import assert from 'node:assert/strict';
import { readdirSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import { constants, gzipSync, zstdCompressSync } from 'node:zlib';
import * as fc from 'fast-check';
import { countRecords, type ListFormat } from '../src/records.ts';
import { sources, type BadItem, type SourceFile } from '../src/sources/index.ts';
import { nameOfUrl } from '../src/sources/url-names.ts';
import { addressPolicy, readNetworks } from '../src/ssrf.ts';
import { UNUSED_MS_MAX } from '../src/url-files.ts';
import { get, openSource, serve, sourceConformance, urlOf, walk, type Opened } from './conformance/source.ts';
import { failsWith } from './conformance/sink.ts';
import { urlFiles } from './helpers/url-files.ts';

const { urls } = sources;
const mayReach = addressPolicy(readNetworks(''));
type Request = Parameters<typeof urls.withDefaults>[0];

function wrong(request: Omit<Request, 'type'>): string[] {
  return [...urls.check({ type: 'urls', ...request }, mayReach)].map(({ pointer }) => pointer);
}

const originOf = (request: Omit<Request, 'type'>) =>
  urls.headersOrigin(urls.withDefaults({ type: 'urls', ...request }));
const wholeOf = ({ origin, pathname, search }: URL): string => origin + pathname + search;

/** A list as it would come as an upload, in pages. */
async function uploaded(text: string | Buffer, format: ListFormat, fields: Partial<Request> = {}): Promise<Opened> {
  const files = urlFiles(10_000_000);
  const { id } = await files.receive(Readable.from([Buffer.from(text)]), format);
  const spec = await urls.prepare!({ type: 'urls', uploadId: id, ...fields }, 'job', files);
  return { spec, list: files.of('job') };
}

async function items(opened: Opened): Promise<(SourceFile | BadItem)[]> {
  return (await walk(opened)).flatMap(({ page }) => page.items);
}

/** What each line becomes: its name and URL, or why it is none. */
async function read(text: string | Buffer, format: ListFormat, fields: Partial<Request> = {}): Promise<string[]> {
  const found = await items(await uploaded(text, format, fields));
  return found.map((item) =>
    'bad' in item ? `${item.bad}: ${item.message}` : `${item.name} = ${item.origin}${item.path}`,
  );
}

const answerName = (names: Record<string, string>) => (request: { url?: string | undefined }) =>
  names[request.url ?? ''];

const served = { '/a': 'one', '/b?x=1': 'two', '/c': 'three' };
const listOf = (base: string) => Object.entries(served).map(([path, name]) => ({ url: base + path, name }));
const asText = (base: string) => listOf(base).map(({ url, name }) => `${url}\t${name}\n`);

sourceConformance('urls in the order', {
  source: (base) => ({ type: 'urls', urls: listOf(base) }),
  answer: (request, response) => response.end(answerName(served)(request)),
  pages: [['one', 'two', 'three']],
  asksNothing: true,
});

for (const [path, pack] of [
  ['/list', (text: string) => Buffer.from(text)],
  ['/list.txt.gz', gzipSync],
  ['/list.zst', zstdCompressSync],
  ['/list.csv', (text: string) => Buffer.from(`name,url\n${text.replaceAll(/(.*)\t(.*)/g, '$2,"$1"')}`)],
] as const) {
  sourceConformance(`urls of a manifest at ${path}`, {
    source: (base) => ({ type: 'urls', manifestUrl: base + path }),
    answer: (request, response) => {
      const base = `http://${request.headers.host}`;
      if (urlOf(request).pathname === path) response.end(pack(asText(base).join('')));
      else response.end(answerName(served)(request));
    },
    pages: [['one', 'two', 'three']],
  });
}

const many = Array.from({ length: 2500 }, (_, index) => `/f/${index}`);
sourceConformance('urls of a manifest with more than a page', {
  source: (base) => ({ type: 'urls', manifestUrl: `${base}/list` }),
  answer: (request, response) => {
    const base = `http://${request.headers.host}`;
    if (request.url === '/list') response.end(many.map((path) => `${base}${path}\t${path.slice(3)}`).join('\n'));
    else response.end(request.url?.slice(3));
  },
  pages: [0, 1000, 2000].map((from) => many.slice(from, from + 1000).map((path) => path.slice(3))),
});

test('a line of text is a URL, or a URL, a tab and a name; blank lines and the byte-order mark are none', async () => {
  assert.deepEqual(await read('\uFEFFhttps://h/a\r\n\r\n  \nhttps://h/b\tx/y z\n https://h/c \t \n', 'text'), [
    'h/a = https://h/a',
    'x/y z = https://h/b',
    'h/c = https://h/c',
  ]);
});

test('a bad line is told with its number, wherever the pages end', async () => {
  const lines = Array.from({ length: 3000 }, (_, index) => `https://h/${index}`);
  for (const line of [1, 1000, 1001, 2999]) lines[line - 1] = 'ftp://h/x';
  lines[1499] = '';
  const found = await items(await uploaded(lines.join('\n'), 'text'));
  assert.equal(found.length, 2999);
  const bad = found.filter((item) => 'bad' in item).map((item) => `${item.name} ${item.bad} ${item.message}`);
  assert.equal(bad.length, 4);
  for (const [index, line] of [1, 1000, 1001, 2999].entries()) {
    assert.match(bad[index] ?? '', new RegExp(`^ftp://h/x bad_item line ${line} has no http`));
  }
});

test('what is no URL that may be asked is told, never fetched', async () => {
  for (const bad of [
    'h/x',
    '//h/x',
    'https://',
    'file:///etc/passwd',
    'https://u:p@h/',
    `https://h/${'x'.repeat(8200)}`,
  ]) {
    assert.match((await read(bad, 'text'))[0] ?? '', /^bad_item: line 1 has no http or https URL/, bad.slice(0, 40));
  }
  assert.deepEqual(await read(Buffer.from('https://h/a\nhttps://h/\xff\n', 'latin1'), 'text'), [
    'h/a = https://h/a',
    'bad_item: line 2 is not UTF-8',
  ]);
  assert.deepEqual(await read('https://h/a\t../x', 'text'), ['unsafe_name: the name has ".." as a part']);
});

test('a line that is too long is cut, and the next ones are read', async () => {
  const found = await read(`https://h/a\n${'x'.repeat(100_000)}\nhttps://h/b`, 'text');
  assert.deepEqual([found[0], found.at(-1)], ['h/a = https://h/a', 'h/b = https://h/b']);
  assert.equal(found.filter((item) => item.startsWith('bad_item: line 2')).length, found.length - 2);
});

test('lines of JSON are strings or objects, with fields by name or by pointer', async () => {
  const lines = [
    '"https://h/a"',
    '{"url":"https://h/b","name":"x"}',
    '{"url":"https://h/c","name":null}',
    '{"x":1}',
    '{',
    '7',
  ];
  assert.deepEqual(await read(lines.join('\n'), 'ndjson'), [
    'h/a = https://h/a',
    'x = https://h/b',
    'h/c = https://h/c',
    'bad_item: line 4 has no URL',
    'bad_item: line 5 is not JSON',
    'bad_item: line 6 has no URL',
  ]);
  const deep = JSON.stringify({ file: { 'the url': 'https://h/d' }, id: 'e' });
  assert.deepEqual(await read(deep, 'ndjson', { urlField: '/file/the url', nameField: 'id' }), ['e = https://h/d']);
  assert.deepEqual(await read('{"url":"https://h/a","name":7}', 'ndjson'), [
    'bad_item: line 1 has a name that is not text',
  ]);
});

test('records of a CSV have their columns by the header, and may go over several lines', async () => {
  const text = ['id,"the name",link', '1,"a ""b""\nc",https://h/a', '2,,"https://h/b?x=1,2"', '', '3,x'].join('\r\n');
  assert.deepEqual(await read(text, 'csv', { urlField: 'link', nameField: 'the name' }), [
    'a "b"\nc = https://h/a',
    'h/b?x=1,2 = https://h/b?x=1,2',
    'bad_item: line 6 has no URL',
  ]);
});

test('a quote that is never closed spoils its own line alone', async () => {
  const lines = ['url,name', 'https://h/a"b,x', 'https://h/b,y', 'https://h/c,"z', 'https://h/e,w'];
  assert.deepEqual(await read(lines.join('\n'), 'csv'), [
    'bad_item: line 2 is not CSV (RFC 4180)',
    'y = https://h/b',
    'bad_item: line 4 is not CSV (RFC 4180)',
    'w = https://h/e',
  ]);
});

test('a CSV without the column fails the listing with what it has', async () => {
  const opened = await uploaded('link,name\nhttps://h/a,x', 'csv');
  await assert.rejects(items(opened), failsWith('bad_listing', /no column "url"; it has "link", "name"/));
});

test('a CSV of many records is the same in pages as in one', async () => {
  const rows = Array.from({ length: 2600 }, (_, index) => `https://h/${index},"${index}\n${'x'.repeat(index % 200)}"`);
  const opened = await uploaded(`url,name\n${rows.join('\n')}\n`, 'csv');
  assert.equal(urls.filesTotal(opened.spec as never), 2600);
  const found = await items(opened);
  assert.deepEqual(
    found.map(({ name }) => name),
    rows.map((_, index) => `${index}\n${'x'.repeat(index % 200)}`),
  );
});

test('records are counted as they are read, however the bytes come', async () => {
  const alphabet = fc.constantFrom('"', ',', '\n', '\r\n', 'a', 'https://h/', ' ', '\t');
  const text = fc.array(alphabet, { maxLength: 60 }).map((parts) => parts.join(''));
  await fc.assert(
    fc.asyncProperty(
      text,
      fc.constantFrom('', '\uFEFF'),
      fc.constantFrom('text', 'csv', 'ndjson'),
      fc.integer({ min: 1, max: 9 }),
      async (text, mark, format, size) => {
        const bytes = Buffer.from(`${mark}${format === 'csv' ? 'url\n' : ''}${text}`);
        const chunks = Array.from({ length: Math.ceil(bytes.length / size) }, (_, index) =>
          bytes.subarray(index * size, (index + 1) * size),
        );
        const counted = await countRecords(Readable.from(chunks) as AsyncIterable<Buffer>, format);
        assert.equal(counted, (await read(bytes, format)).length);
      },
    ),
    { numRuns: 150 },
  );
});

test('names that are not given never collide', () => {
  const names: [string, string][] = [
    ['https://h/a/b.json', 'h/a/b.json'],
    ['https://h:443/a/b.json', 'h/a/b.json'],
    ['http://h/a/b.json', 'h:80/a/b.json'],
    ['http://h:8080/a', 'h:8080/a'],
    ['https://h:8080/a', 'h:8080#https/a'],
    ['https://h', 'h/#index.html'],
    ['https://h/a/', 'h/a/#index.html'],
    ['https://h/a/index.html', 'h/a/index.html'],
    ['https://h/a/?x', 'h/a/#index.html?x'],
    ['https://h/a//b', 'h/a/#/b'],
    ['https://h/a%20b/%C3%A4', 'h/a%20b/%C3%A4'],
    ['https://h/a?x=/y#z', 'h/a?x=#y'],
    ['https://h/a?x=%2Fy', 'h/a?x=%2Fy'],
    ['https://[::1]:7/x', '[::1]:7#https/x'],
  ];
  for (const [url, name] of names) assert.equal(nameOfUrl(new URL(url)), name, url);
  const long = [`https://h/${'x'.repeat(256)}`, `https://h/${'x'.repeat(257)}`, `https://h/${'a/'.repeat(2100)}`];
  for (const url of long) assert.match(nameOfUrl(new URL(url)), /^h\/#long\/[0-9a-f]{64}$/);

  const piece = fc.constantFrom(
    '/',
    '//',
    '?',
    '#',
    'a',
    '%2F',
    '%23',
    '.',
    '..',
    'index.html',
    '&',
    ':8080',
    'https',
    '%',
    ' ',
  );
  const url = fc
    .tuple(
      fc.constantFrom('http', 'https'),
      fc.constantFrom('h', 'h:80', 'h:443', 'h:8080'),
      fc.array(piece, { maxLength: 8 }),
    )
    .map(([scheme, host, pieces]) => new URL(`${scheme}://${host}/${pieces.join('')}`));
  fc.assert(
    fc.property(url, url, (one, other) => {
      assert.equal(nameOfUrl(one) === nameOfUrl(other), wholeOf(one) === wholeOf(other), `${one.href} ${other.href}`);
    }),
    { numRuns: 5000 },
  );
});

test('an order has one of the three lists, and what belongs to it', () => {
  const url = 'https://h/a';
  const uploadId = '019a9f3c-6c2e-7d4b-9f60-2b8c1d7e5a43';
  for (const good of [
    { urls: [url] },
    { urls: [url, { url: 'https://i/a', name: 'x' }, url], headersOrigin: 'https://h' },
    { uploadId, urlField: 'link' },
    { manifestUrl: url, format: 'csv' },
  ] as const) {
    assert.deepEqual(wrong(good as Omit<Request, 'type'>), []);
  }
  assert.deepEqual(wrong({}), ['']);
  assert.deepEqual(wrong({ urls: [url], uploadId }), ['']);
  assert.deepEqual(wrong({ urls: [url], format: 'csv', nameField: 'x' }), ['/format', '/nameField']);
  assert.deepEqual(wrong({ manifestUrl: 'ftp://h/a' }), ['/manifestUrl']);
  assert.deepEqual(wrong({ manifestUrl: 'http://169.254.169.254/' }), ['/manifestUrl']);
  assert.deepEqual(wrong({ manifestUrl: url, headersOrigin: url }), ['/headersOrigin']);
  assert.deepEqual(wrong({ uploadId, headersOrigin: 'h' }), ['/headersOrigin']);
  assert.deepEqual(wrong({ urls: [url, 'h/a', { url: 'http://127.1/' }, { url, name: '../x' }] }), [
    '/urls/1',
    '/urls/2/url',
    '/urls/3/name',
  ]);
  assert.deepEqual(wrong({ urls: [url, { url: 'https://h/b', name: 'h/a' }, { url, name: 'h/a' }] }), ['/urls/1']);
});

test('headers go to the origin that all URLs have, that of the manifest, or the one that is named', () => {
  assert.equal(originOf({ urls: ['https://h/a', { url: 'https://H:443/b' }] }), 'https://h');
  assert.equal(originOf({ urls: ['https://h/a', 'https://i/a'] }), null);
  assert.equal(originOf({ urls: ['https://h/a', 'https://i/a'], headersOrigin: 'https://i/x' }), 'https://i');
  assert.equal(originOf({ manifestUrl: 'https://h/list' }), 'https://h');
  assert.equal(originOf({ uploadId: 'x' }), null);
});

test("a manifest's format is told by the ending of its path", () => {
  const format = (manifestUrl: string) => urls.withDefaults({ type: 'urls', manifestUrl }).format;
  assert.equal(format('https://h/a.CSV.gz?x=.txt'), 'csv');
  assert.equal(format('https://h/a.ndjson'), 'ndjson');
  assert.equal(format('https://h/a.jsonl.zst'), 'ndjson');
  assert.equal(format('https://h/a.gz?b.csv'), 'text');
  assert.equal(urls.withDefaults({ type: 'urls', manifestUrl: 'https://h/a.csv', format: 'text' }).format, 'text');
});

test('a manifest is fetched once, also when its first page is read again, and is there whole or not at all', async (t) => {
  let asked = 0;
  const base = await serve(t, (_request, response) => {
    asked += 1;
    response.end(asked === 1 ? gzipSync('https://h/a\n').subarray(0, 20) : 'https://h/a\nhttps://h/b');
  });
  const opened = await openSource({ type: 'urls', manifestUrl: `${base}/list` });
  await assert.rejects(walk(opened), failsWith('decode', /damaged gzip/));
  assert.equal(await opened.list.isThere(), false);
  for (const _ of [1, 2]) {
    const [first] = await walk(opened);
    assert.deepEqual([first?.page.items.length, first?.page.filesTotal], [2, 2]);
  }
  assert.equal(asked, 2);
  assert.deepEqual(readdirSync(dirname(opened.list.path)), ['job']);
});

test('of two workers that fetch a manifest at once the first one wins, for both', async (t) => {
  const held: (() => void)[] = [];
  const base = await serve(t, (_request, response) => {
    const number = held.length;
    held.push(() => response.end(`https://h/${number}\n`.repeat(number + 1)));
  });
  const opened = await openSource({ type: 'urls', manifestUrl: base });
  const both = [walk(opened), walk(opened)];
  while (held.length < 2) await new Promise(setImmediate);
  held[1]?.();
  const [first] = await Promise.race(both);
  held[0]?.();
  for (const walked of await Promise.all(both)) assert.deepEqual(walked[0]?.page, first?.page);
  assert.deepEqual(readdirSync(dirname(opened.list.path)), ['job']);
});

test('an empty manifest is a list without files', async (t) => {
  const base = await serve(t, (_request, response) => response.end());
  assert.deepEqual(await items(await openSource({ type: 'urls', manifestUrl: base })), []);
});

test('a list that is larger than allowed, packed or not, is refused and nothing stays', async () => {
  const files = urlFiles(100_000);
  const small = gzipSync(Buffer.alloc(100_001));
  for (const body of [Buffer.alloc(100_001, 'x'), small, zstdCompressSync(Buffer.alloc(100_001))]) {
    await assert.rejects(files.receive(Readable.from([body]), 'text'), failsWith('too_large', /100000 bytes/));
  }
  const broken = Readable.from(
    (async function* () {
      yield Buffer.from('https://h/a\n');
      throw new Error('the client went away');
    })(),
  );
  await assert.rejects(files.receive(broken, 'text'), /went away/);
  assert.deepEqual(readdirSync(dirname(files.of('x').path).replace(/lists$/, 'uploads')), []);
});

test('a packed upload comes apart in pieces of any size', async () => {
  // A frame to be skipped (RFC 8878, section 3.1.2), as pzstd puts one before each.
  const skipped = Buffer.from('502a4d180400000000000000', 'hex');
  const zstdInParallel = (text: string): Buffer => Buffer.concat([skipped, zstdCompressSync(text)]);
  for (const pack of [gzipSync, zstdCompressSync, zstdInParallel]) {
    const files = urlFiles();
    const packed = Buffer.concat([pack('https://h/a\n'), pack('https://h/b\n')]);
    const upload = await files.receive(Readable.from([...packed].map((byte) => Buffer.from([byte]))), 'text');
    assert.deepEqual({ ...upload, id: '' }, { id: '', format: 'text', bytes: 24, urls: 2 });
  }
});

test('a list that takes more memory to unpack than one has to lend is refused, with the remedy', async () => {
  const packed = zstdCompressSync(Buffer.alloc(9_000_000), { params: { [constants.ZSTD_c_windowLog]: 24 } });
  const refused = failsWith('decode', /window of more than 8 MiB: pack it without --long and --ultra/);
  await assert.rejects(urlFiles().receive(Readable.from([packed]), 'text'), refused);
});

test('an upload goes after a day without use; a job keeps what it took, and takes it along', async () => {
  const files = urlFiles();
  const { id } = await files.receive(Readable.from([Buffer.from('https://h/a')]), 'text');
  assert.equal((await files.use(id, 'job'))?.urls, 1);
  assert.equal(await files.use('019a9f3c-0000-7d4b-9f60-2b8c1d7e5a43', 'other'), null);
  const now = statSync(files.of('job').path).ctimeMs;
  await files.sweep(now + UNUSED_MS_MAX - 1000, async (job) => job === 'job');
  assert.equal((await files.use(id, 'never-stored'))?.urls, 1);
  await files.sweep(Date.now() + UNUSED_MS_MAX + 1000, async (job) => job === 'job');
  assert.equal(await files.use(id, 'other'), null);
  assert.deepEqual(readdirSync(dirname(files.of('job').path)), ['job']);
  await files.of('job').remove();
  assert.deepEqual(readdirSync(dirname(files.of('job').path)), []);
});

test('a list that is not there fails the listing', async () => {
  const opened = await uploaded('https://h/a', 'text');
  await opened.list.remove();
  await assert.rejects(walk(opened), failsWith('bad_listing', /ENOENT.*share DATA_DIR/));
});

test('a hundred thousand lines are read in pages of a thousand', async () => {
  const text = Array.from({ length: 100_000 }, (_, index) => `https://h/${index}`).join('\n');
  const opened = await uploaded(text, 'text');
  let token: string | null = urls.first(opened.spec as never);
  let pages = 0;
  while (token !== null) {
    const page: Awaited<ReturnType<typeof urls.read>> = await urls.read(opened.spec as never, token, get, opened.list);
    assert.equal(page.items[0]?.name, `h/${pages * 1000}`);
    assert.equal(page.items.length, 1000);
    pages += 1;
    token = page.next;
  }
  assert.equal(pages, 100);
});
