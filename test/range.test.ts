import assert from 'node:assert/strict';
import { test } from 'node:test';
import { kindOf, sources, type SourceFile } from '../src/sources/index.ts';
import { addressPolicy, readNetworks } from '../src/ssrf.ts';
import { read, sourceConformance, walk } from './conformance/source.ts';
import { urlFiles } from './helpers/url-files.ts';

const { range } = sources;
const mayReach = addressPolicy(readNetworks(''));
type Request = Parameters<typeof range.withDefaults>[0];

function wrong(request: Omit<Request, 'type'>): [string, string][] {
  return [...range.check({ type: 'range', ...request }, mayReach)].map(({ detail, pointer }) => [pointer, detail]);
}

const open = (request: Omit<Request, 'type'>) => ({
  spec: range.withDefaults({ type: 'range', ...request }),
  list: urlFiles().of('job'),
});

/** Names and URLs of all members. */
async function members(request: Omit<Request, 'type'>): Promise<[string, string][]> {
  const walked = await walk(open(request));
  return walked.flatMap(({ page }) => (page.items as SourceFile[]).map((item) => [item.name, item.origin + item.path]));
}

sourceConformance('range', {
  source: (base) => ({ type: 'range', url: `${base}/get/{08..23..3}`, pageSize: 4 }),
  answer: (request, response) => response.end(request.url?.slice('/get/'.length)),
  pages: [
    ['08', '11', '14', '17'],
    ['20', '23'],
  ],
  asksNothing: true,
});

async function namesBy(path: string): Promise<string[]> {
  return (await members({ url: `http://h/${path}` })).map(([name]) => name);
}

test('numbers go from one to the other, both included, by their step', async () => {
  assert.deepEqual(await members({ url: 'HTTP://H/t/{3..5}' }), [
    ['3', 'http://h/t/3'],
    ['4', 'http://h/t/4'],
    ['5', 'http://h/t/5'],
  ]);
  assert.deepEqual(await namesBy('{5..5}'), ['5']);
  assert.deepEqual(await namesBy('{0..10..4}'), ['0', '4', '8']);
  assert.deepEqual(await namesBy('{9..10}'), ['9', '10']);
});

test('leading zeros of either number make all as long as the longer one', async () => {
  assert.deepEqual(await namesBy('{0009..0010}'), ['0009', '0010']);
  assert.deepEqual(await namesBy('{01..100..99}'), ['001', '100']);
  assert.deepEqual(await namesBy('{0..10..10}'), ['0', '10']);
});

test('a file is named by the last segment of the path, or by the template', async () => {
  assert.deepEqual((await members({ url: 'http://h/a%20b-{1..2}.json?x=/y#z' }))[0], [
    'a b-1.json',
    'http://h/a%20b-1.json?x=/y',
  ]);
  assert.deepEqual((await members({ url: 'http://h/a%2Fb%{10..11}' }))[0], ['a%2Fb%10', 'http://h/a%2Fb%10']);
  assert.deepEqual((await members({ url: 'http://h/get?id={07..8}', name: 'by/{}/{}.json' }))[0], [
    'by/07/07.json',
    'http://h/get?id=07',
  ]);
});

test('a million million numbers of any length are exact, known beforehand, and read from any page', async () => {
  const opened = open({ url: 'http://h/{9000000000000000000001..9000000001000000000000}' });
  const { spec } = opened;
  assert.equal(range.filesTotal(spec), 1e12);
  assert.equal(range.first(spec), '0');
  const last = await read(opened, '999999999000');
  assert.equal(last.items.length, 1000);
  assert.equal(last.items.at(-1)?.name, '9000000001000000000000');
  assert.equal(last.next, null);
  assert.equal((await read(opened, '0')).next, '1000');
});

test('a URL without one range that can be counted is refused', () => {
  const refused: [string, RegExp][] = [
    ['http://h/1', /one \{from\.\.to\}/],
    ['http://h/{a..z}', /one \{from\.\.to\}/],
    ['http://h/{1..2}/{1..2}', /one \{from\.\.to\}/],
    ['http://h/{2..1}', /upwards/],
    ['http://h/{1..9..0}', /step/],
    ['http://h/{0..1000000000000}', /at most 1000000000000 files/],
    [`http://h/{0..${'9'.repeat(31)}}`, /30 digits/],
    ['http://10.0.0.{1..9}/x', /path or its query/],
    ['http://h:80{0..9}/x', /http or https URL/],
    ['http://u{1..2}@h/x', /path or its query/],
    ['http://h/x#{1..2}', /path or its query/],
    ['http:/{1..2}', /path or its query/],
    ['/list/{1..2}', /http or https URL/],
    ['ftp://h/{1..2}', /http or https URL/],
    ['http://u:p@h/{1..2}', /credentials/],
    ['http://127.1/{1..2}', /not globally reachable/],
  ];
  for (const [url, why] of refused) {
    const [found, ...more] = wrong({ url, name: '{}' });
    assert.equal(found?.[0], '/url', url);
    assert.match(found[1], why, url);
    assert.deepEqual(more, [], url);
  }
  assert.deepEqual(wrong({ url: 'https://h:8443/a/{1..2}?b' }), []);
});

test('names that would be the same or could not be stored are refused', () => {
  const refused: [Omit<Request, 'type'>, RegExp][] = [
    [{ url: 'http://h/get?id={1..2}' }, /is missing/],
    [{ url: 'http://h/{1..2}/body.json' }, /is missing/],
    [{ url: 'http://h/{1..2}/' }, /is missing/],
    [{ url: 'http://h/{1..2}', name: 'x' }, /must hold \{\}/],
    [{ url: 'http://h/{1..2}', name: '../{}' }, /".." as a part/],
    [{ url: 'http://h/{1..2}', name: '/{}' }, /absolute/],
    [{ url: 'http://h/{1..10}', name: `${'x'.repeat(254)}{}` }, /longer than 255 bytes/],
    [{ url: 'http://h/{1..2}', name: '.gigafetch/{}' }, /leads into/],
  ];
  for (const [request, why] of refused) {
    const [found] = wrong(request);
    assert.equal(found?.[0], '/name', JSON.stringify(request));
    assert.match(found[1], why);
  }
});

test('the headers of a job go to the origin of the URL', () => {
  const spec = range.withDefaults({ type: 'range', url: 'http://H:80/{1..2}' });
  assert.equal(kindOf(spec).headersOrigin(spec), 'http://h');
});
