import { test } from 'node:test';
import assert from 'node:assert/strict';
import { checkName } from '../src/names.ts';

const long = 'x'.repeat(255);
const longPath = `${'a/'.repeat(2047)}bb`;

const safe = [
  'a',
  'a.json',
  '0001/0002.bin',
  'with space',
  ' leading and trailing ',
  '.hidden',
  '..hidden',
  '...',
  'a..b',
  'a/.b/..c/d.',
  'back\\slash',
  '..\\..\\up',
  '%2e%2e/%2F',
  'new\nline',
  'tab\tand\x7f',
  'quote"\'`$(x);*?|<>',
  'ä/日本語/🙂',
  'e\u0301 and \u00e9',
  '\u202eright to left',
  'C:\\con',
  '~',
  '-rf',
  '.gigafetch2/a',
  'x.gigafetch/a',
  long,
  `${long}/${long}`,
  `.${'x'.repeat(254)}`,
  `${'é'.repeat(127)}x`,
  longPath,
];

const unsafe: [string, RegExp][] = [
  ['', /empty/],
  ['.', /"\."/],
  ['..', /"\.\."/],
  ['../a', /"\.\."/],
  ['a/..', /"\.\."/],
  ['a/../b', /"\.\."/],
  ['a/./b', /"\."/],
  ['./a', /"\."/],
  ['a//b', /part of the name is empty/],
  ['a/', /part of the name is empty/],
  ['/', /absolute/],
  ['/etc/passwd', /absolute/],
  ['//a', /absolute/],
  ['a\0b', /NUL/],
  ['\0', /NUL/],
  [`${long}x`, /longer than 255 bytes/],
  [`a/${long}x/b`, /longer than 255 bytes/],
  [`.${long}`, /longer than 255 bytes/],
  ['é'.repeat(128), /longer than 255 bytes/],
  [`${longPath}b`, /longer than 4096 bytes/],
  ['é/'.repeat(1366), /longer than 4096 bytes/],
  ['.gigafetch', /leads into/],
  ['.gigafetch/x.start', /leads into/],
  ['a/.GigaFetch/x', /leads into/],
  ['.GigaFetch/tmp/a', /leads into/],
  ['\ud800', /surrogate/],
  ['a/\udc00b', /surrogate/],
];

test('names that are only characters are safe', () => {
  for (const name of safe) assert.equal(checkName(name), null, JSON.stringify(name));
});

test('names that lead elsewhere or cannot be stored faithfully are unsafe, and the message says why', () => {
  for (const [name, why] of unsafe) assert.match(checkName(name) ?? 'taken as safe', why, JSON.stringify(name));
});
