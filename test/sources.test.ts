import type { RequestListener } from 'node:http';
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { sources, type SourcePage } from '../src/sources/index.ts';
import { nextLink } from '../src/sources/link-header.ts';
import type { ListingSourceSpec, Next } from '../src/sources/listing-spec.ts';
import { failsWith } from './conformance/sink.ts';
import { openSource, serve, sourceConformance, urlOf, walk } from './conformance/source.ts';
import { urlFiles } from './helpers/url-files.ts';

const { listing } = sources;
const noList = urlFiles().of('job');

function specFor(url: string, more: Partial<ListingSourceSpec> = {}): ListingSourceSpec {
  return {
    type: 'listing',
    url,
    fileUrl: 'get/{name}',
    namesField: '/FileNames',
    markerParam: 'next-marker',
    next: { in: 'body' },
    ...more,
  };
}

/** Lists one page that has this content, from a listing at http://host/dir/list. */
function readPage(
  content: unknown,
  more: Partial<ListingSourceSpec> = {},
  link?: string | string[],
): Promise<SourcePage> {
  const body = content instanceof Uint8Array ? content : Buffer.from(JSON.stringify(content));
  const spec = specFor('http://host/dir/list', more);
  const get = (url: string) => Promise.resolve({ url, headers: { link }, body });
  return listing.read(spec, listing.first(spec), get, noList);
}

function failsToList(
  content: unknown,
  why: RegExp,
  more: Partial<ListingSourceSpec> = {},
  link?: string,
): Promise<void> {
  return assert.rejects(readPage(content, more, link), failsWith('bad_listing', why));
}

/** The URL that a name gets by a template. */
async function urlBy(fileUrl: string, name = 'a b/ü&c'): Promise<string | null> {
  const item = (await readPage({ FileNames: [name] }, { fileUrl })).items[0];
  return item !== undefined && 'path' in item ? item.origin + item.path : null;
}

const pages = [
  ['plain.json', 'a/b-1/c_2.txt', '12345'],
  ['with space', 'ä/日本語/🙂', '100%', '%2e%2e', 'a+b', 'q?x=1&y=2#f', 'back\\slash', "it's(1)*!", '~'],
  ['new\nline', '.hidden', '"quoted"', 'a:b', '[x]', '{name}', '$&'],
];

// Every printable ASCII character, what escapes are made of, and more than one byte.
const oddTokens = [
  ' !"#$%&\'()*+,-./:;<=>?@[\\]^_`{|}~',
  'a%20b+c%2Bd%',
  '\u0000\u0001\t\r\n\u007f',
  'ä日本🙂\u2028',
  'http://elsewhere/list?x=1',
  '//host/list',
  '/list?page=2',
  'x'.repeat(4000),
];

/** A file server whose pages are told apart by `pageOf` and point to the next by `answer`. */
function fileServer(
  pageOf: (url: URL) => number,
  pagesThere: readonly (readonly unknown[])[],
  hint: (next: number, base: string) => { body?: object; link?: string | string[] },
): RequestListener {
  return (request, response) => {
    const url = urlOf(request);
    const base = `http://${request.headers.host}`;
    if (url.pathname.startsWith('/get/')) {
      response.end(decodeURIComponent((request.url ?? '').slice('/get/'.length)));
      return;
    }
    const number = pageOf(url);
    const next = number + 1 < pagesThere.length ? hint(number + 1, base) : {};
    if (next.link !== undefined) response.setHeader('link', next.link);
    response.end(JSON.stringify({ FileNames: pagesThere[number] ?? [], ...next.body }));
  };
}

const byMarker = (url: URL): number => Number(url.searchParams.get('next-marker') ?? 0);
const byPage = (url: URL): number => Number(url.searchParams.get('page') ?? 0);
const at =
  (next?: Next) =>
  (base: string): ListingSourceSpec =>
    specFor(`${base}/list`, next === undefined ? {} : { next });

const bodies: [string, (next: number, base: string) => object][] = [
  ['NextMarker', (next) => ({ NextMarker: String(next) })],
  ['NextFile', (next) => ({ NextFile: String(next) })],
  ['NextFile beside an empty NextMarker', (next) => ({ NextMarker: null, NextFile: String(next) })],
  ['a number', (next) => ({ NextMarker: next })],
  ['an absolute URL', (next, base) => ({ NextMarker: `${base}/list?next-marker=${next}` })],
];
for (const [name, body] of bodies) {
  sourceConformance(`listing with next in the body as ${name}`, {
    source: at(),
    answer: fileServer(byMarker, pages, (next, base) => ({ body: body(next, base) })),
    pages,
  });
}

sourceConformance('listing with next in a field of its own', {
  source: at({ in: 'body', field: '/meta/a~1b' }),
  answer: fileServer(byMarker, pages, (next) => ({ body: { meta: { 'a/b': String(next) }, NextFile: '0' } })),
  pages,
});

sourceConformance('listing with next in the Link header', {
  source: at({ in: 'link' }),
  answer: fileServer(byPage, pages, (next, base) => ({
    link: ['</style.css>; rel=preload; crossorigin', `<${next === 1 ? base : ''}/list?page=${next}>; rel="last next"`],
  })),
  pages,
});

sourceConformance('listing by page numbers', {
  source: at({ in: 'page' }),
  answer: fileServer(
    (url) => byPage(url) - 1,
    pages,
    () => ({}),
  ),
  pages: [...pages, []],
});

sourceConformance('listing by page numbers from 0 in a parameter of its own', {
  source: at({ in: 'page', param: 'p q', first: 0 }),
  answer: fileServer(
    (url) => Number(url.searchParams.get('p q')),
    pages,
    () => ({}),
  ),
  pages: [...pages, []],
});

sourceConformance('listing by offset', {
  source: at({ in: 'offset' }),
  answer: (request, response) => {
    const offset = Number(urlOf(request).searchParams.get('offset') ?? Number.NaN);
    const paged = fileServer(
      () => 0,
      [pages.flat().slice(offset, offset + 5)],
      () => ({}),
    );
    paged(request, response);
  },
  pages: [pages.flat().slice(0, 5), pages.flat().slice(5, 10), pages.flat().slice(10, 15), pages.flat().slice(15), []],
});

test('markers of every character arrive as they were given', async (t) => {
  const markers = [null, ...oddTokens];
  const heard: (string | null)[] = [];
  const base = await serve(t, (request, response) => {
    heard.push(urlOf(request).searchParams.get('next-marker'));
    response.end(JSON.stringify({ FileNames: [], NextMarker: markers[heard.length] }));
  });
  await walk(await openSource(specFor(`${base}/list`)));
  assert.deepEqual(heard, markers);
});

test('a marker replaces an earlier one, and the rest of the query stays to the byte', async () => {
  const { next } = await readPage(
    { FileNames: [], NextMarker: 'b' },
    { url: 'http://host/list?sig=a%2Bb+%7e&next-marker=0&flag&next%2Dmarker=1&x=%zz?y#part' },
  );
  assert.equal(next, 'http://host/list?sig=a%2Bb+%7e&flag&x=%zz?y&next-marker=b');
});

test('the first page is the URL of the source without its fragment', () => {
  const url = 'HTTP://Host:80/list?a=1#part';
  assert.equal(listing.first(specFor(url)), 'http://host/list?a=1');
  assert.equal(listing.first(specFor(url, { next: { in: 'page' } })), 'http://host/list?a=1&page=1');
  assert.equal(listing.first(specFor(url, { next: { in: 'offset', param: 'a' } })), 'http://host/list?a=0');
});

test('absent, null and empty markers end the listing', async () => {
  for (const end of [{}, { NextMarker: null }, { NextMarker: '' }, { NextMarker: '', NextFile: null }]) {
    assert.equal((await readPage({ FileNames: ['a'], ...end })).next, null);
  }
  const own: Next = { in: 'body', field: '/next' };
  assert.equal((await readPage({ FileNames: ['a'], NextFile: 'b' }, { next: own })).next, null);
});

test('what cannot be a marker fails the page', async () => {
  await failsToList({ FileNames: [], NextMarker: true }, /"\/NextMarker" is a boolean, not a token/);
  await failsToList({ FileNames: [], NextMarker: { a: 1 } }, /is an object with "a", not a token/);
  await failsToList({ FileNames: [], NextMarker: [] }, /is a list of 0/);
  await failsToList({ FileNames: [], NextMarker: 2 ** 64 }, /is a number/);
  await failsToList({ FileNames: [], NextMarker: '\ud800' }, /surrogate/);
  await failsToList({ FileNames: [], NextMarker: 'x'.repeat(16_384) }, /longer than 16384 bytes/);
  await failsToList({ FileNames: [], NextMarker: 'é'.repeat(3000) }, /longer than 16384 bytes/);
  await failsToList({ FileNames: [], NextMarker: 'http://user:secret@host/list' }, /credentials/);
});

test('a next link to another origin fails the page', async () => {
  const more: Partial<ListingSourceSpec> = { next: { in: 'link' } };
  await failsToList(
    { FileNames: [] },
    /the next page is at http:\/\/elsewhere, the source at http:\/\/host/,
    more,
    '<http://elsewhere/list>; rel=next',
  );
  await failsToList({ FileNames: [] }, /elsewhere/, more, '<//elsewhere/list>; rel=next');
  await failsToList({ FileNames: [] }, /https:\/\/host/, more, '<https://host/list>; rel=next');
  await failsToList({ FileNames: [] }, /null/, more, '<file:///etc/passwd>; rel=next');
  await failsToList({ FileNames: [] }, /credentials/, more, '<http://user@host/>; rel=next');
  await failsToList({ FileNames: [] }, /not a URL/, more, '<http://[>; rel=next');
  await failsToList({ FileNames: [] }, /malformed/, more, '<list?page=2; rel=next');
});

const redirected = () =>
  Promise.resolve({
    url: 'http://host/redirected/list?page=1',
    headers: { link: '<?page=2#top>; rel=next' },
    body: Buffer.from('{"FileNames":[]}'),
  });

test('a relative next link is resolved against the page', async () => {
  const spec = specFor('http://host/dir/list', { next: { in: 'link' } });
  const { next } = await listing.read(spec, listing.first(spec), redirected, noList);
  assert.equal(next, 'http://host/redirected/list?page=2');
});

test('the next link of a Link header is found', () => {
  const headers: [string, string | null][] = [
    ['', null],
    [' , ,', null],
    ['</2>; rel=next', '/2'],
    ['</2>;rel="next"', '/2'],
    ['</2> ; REL = NeXt ;', '/2'],
    ['</2>; rel="last\t next"', '/2'],
    ['</1>; rel=prev, </2>; rel=next, </9>; rel=last', '/2'],
    ['</1>;rel=prev,</2>;rel=next', '/2'],
    [', </2>; rel=next,', '/2'],
    ['</2?a=1,2;b="3">; rel=next', '/2?a=1,2;b="3"'],
    ['<>; rel=next', ''],
    ['</s.css>; rel=preload; as=style; crossorigin, </2>; rel=next', '/2'],
    ['</s.css>; rel=preload; nopush, </2>; rel="next"', '/2'],
    ['</1>; title="a, </x>; rel=next"; rel=prev', null],
    ['</1>; title="a \\" ; rel=next"; rel=prev', null],
    ['</1>; title="\\\\"; rel=next', '/1'],
    ['</1>; rel="ne\\xt"', '/1'],
    ["</2>; title*=UTF-8''a%20b; rel=next", '/2'],
    ['</2>; rel=prev; rel=next', null],
    ['</2>; rel=next; anchor="/other", </3>; rel=next', '/3'],
    ['</2>; rel=nextish', null],
    ['</2>', null],
    ['</2>; rel=next, </3>; rel=next', '/2'],
  ];
  for (const [header, next] of headers) assert.equal(nextLink(header), next, header);
  for (const broken of [
    'x',
    '</2; rel=next',
    '</1> x, </2>; rel=next',
    '</1>; title="open, </2>; rel=next',
    '</1></2>',
  ]) {
    assert.throws(() => nextLink(broken), /malformed/, broken);
  }
});

test('a page that is not JSON fails with how it begins', async () => {
  const page = `<html>${'x'.repeat(100)}`;
  const start = JSON.stringify(page.slice(0, 80));
  await assert.rejects(readPage(Buffer.from(page)), failsWith('not_json', new RegExp(`begins with ${start}$`)));
  await assert.rejects(readPage(Buffer.alloc(0)), failsWith('not_json', /the page is empty/));
  await assert.rejects(readPage(Buffer.from('{"FileNames":["a"]')), failsWith('not_json'));
  await assert.rejects(readPage(Buffer.from('{"FileNames":["\xe9"]}', 'latin1')), failsWith('not_json'));
});

test('a byte-order mark is tolerated', async () => {
  const { items } = await readPage(Buffer.from('\ufeff{"FileNames":["a"]}'));
  assert.equal(items[0]?.name, 'a');
});

test('a page without a list of names fails with what it is instead', async () => {
  await failsToList({ files: [], Total: 3 }, /^the page has no "\/FileNames"; it is an object with "files", "Total"$/);
  await failsToList({}, /it is an object with no fields$/);
  await failsToList([], /it is a list of 0$/);
  await failsToList('text', /it is a string$/);
  await failsToList({ FileNames: { a: 1 } }, /is an object with "a"/);
  await failsToList({ a: 1 }, /^the page is an object with "a", not a list$/, { namesField: '' });
  await failsToList([1], /no "\/length"/, { namesField: '/length' });
  await failsToList({}, /no "\/__proto__"/, { namesField: '/__proto__' });
});

test('null in place of the list is an empty page', async () => {
  assert.deepEqual((await readPage({ FileNames: null, NextMarker: 'b' })).items, []);
});

test('the list may be the page itself or lie deep in it', async () => {
  assert.equal((await readPage(['a'], { namesField: '' })).items[0]?.name, 'a');
  const deep = { 'a/b': [{ '~': { '': ['x'] } }] };
  assert.equal((await readPage(deep, { namesField: '/a~1b/0/~0/' })).items[0]?.name, 'x');
});

test('a file is at the template with each segment of its name percent-encoded', async () => {
  assert.equal(await urlBy('get/{name}'), 'http://host/dir/get/a%20b/%C3%BC%26c');
  assert.equal(
    await urlBy('/x?f={name}&again={name}#{name}'),
    'http://host/x?f=a%20b/%C3%BC%26c&again=a%20b/%C3%BC%26c',
  );
  assert.equal(await urlBy('../ü/{name}.json'), 'http://host/%C3%BC/a%20b/%C3%BC%26c.json');
  assert.equal(await urlBy('https://files.host:8443/{name}'), 'https://files.host:8443/a%20b/%C3%BC%26c');
  assert.equal(await urlBy('{name}', 'http:/x/y'), 'http://host/dir/http%3A/x/y');
  assert.equal(await urlBy('get/{name}', '{name}'), 'http://host/dir/get/%7Bname%7D');
  for (const fileUrl of ['get', 'http://{name}.host/', 'get#{name}', 'http://[/{name}']) {
    await assert.rejects(urlBy(fileUrl), failsWith('bad_listing', /fileUrl/));
  }
});

test('items that are objects give name, size and URL by their pointers', async () => {
  const pointers = { nameField: '/key', sizeField: '/stat/size', urlField: '/url' };
  const read = async (...items: unknown[]) => (await readPage({ FileNames: items }, pointers)).items;
  const origin = 'http://host';
  assert.deepEqual(
    await read(
      { key: 'a', stat: { size: 5 }, url: 'http://files:81/x y?q=ü#part' },
      { key: 7, stat: { size: '12' }, url: '../up' },
      { key: 'no size', url: '?q' },
      { key: 'null size', stat: { size: null }, url: '/' },
      'only a name',
    ),
    [
      { name: 'a', origin: 'http://files:81', path: '/x%20y?q=%C3%BC', sizeBytes: 5 },
      { name: '7', origin, path: '/up', sizeBytes: 12 },
      { name: 'no size', origin, path: '/dir/list?q', sizeBytes: null },
      { name: 'null size', origin, path: '/', sizeBytes: null },
      { name: 'only a name', origin, path: '/dir/get/only%20a%20name', sizeBytes: null },
    ],
  );
});

test('items that name no file are bad items, and their neighbours are not', async () => {
  const pointers = { nameField: '/key', sizeField: '/size', urlField: '/url' };
  const good = { key: 'good', url: '/good' };
  const badItems = [
    null,
    true,
    [],
    { name: 'other field' },
    { key: null },
    { key: ['a'] },
    ...[-1, 1.5, '1.5', '', '-1', true, 1e300, '99999999999999999999'].map((size) => ({
      key: 'good',
      url: '/good',
      size,
    })),
    ...['ftp://host/a', 'javascript:alert(1)', 'http://user:secret@host/a', 'http://[', null, 5, 'x'.repeat(9000)].map(
      (url) => ({ key: 'good', url }),
    ),
    { key: 'no url' },
    2 ** 64,
  ];
  const { items } = await readPage({ FileNames: badItems.flatMap((item) => [item, good]) }, pointers);
  for (const [n, item] of badItems.entries()) {
    const read = items[2 * n];
    assert.ok(read !== undefined && 'bad' in read, JSON.stringify(item));
    assert.equal(read.bad, 'bad_item');
    assert.equal(read.name, JSON.stringify(item).slice(0, 200));
    assert.equal(items[2 * n + 1]?.name, 'good');
  }
});

test('unsafe names are bad items with their reason, in every form of item', async () => {
  const names = ['', '../x', '/etc/passwd', 'a//b', 'nul\0', '.gigafetch/x', '\ud800', 'x'.repeat(256)];
  const forms = names.flatMap((name) => [name, { key: name }, { key: name, url: '/ok' }]);
  for (const urlField of [undefined, '/url']) {
    const more = { nameField: '/key', ...(urlField === undefined ? {} : { urlField }) };
    for (const item of (await readPage({ FileNames: forms }, more)).items) {
      assert.ok('bad' in item && item.bad === 'unsafe_name', JSON.stringify(item));
      assert.ok(item.name.length <= 200 && item.name.isWellFormed());
    }
  }
});

test('an object is a bad item where no pointer says what its name is', async () => {
  const { items } = await readPage({ FileNames: [{ name: 'a' }] });
  assert.deepEqual(items, [
    { name: '{"name":"a"}', url: null, bad: 'bad_item', message: 'the item is neither a name nor an object with one' },
  ]);
});

test('an item that is nested very deeply is a bad item', async () => {
  const deep = Buffer.from(`{"FileNames":[${'['.repeat(50_000)}${']'.repeat(50_000)}]}`);
  const { items } = await readPage(deep);
  assert.ok('bad' in (items[0] ?? {}));
});

test('duplicates stay in the list', async () => {
  assert.equal((await readPage({ FileNames: ['a', 'a', 'b'] })).items.length, 3);
});
