import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { AnswerHeaders } from '../src/answers.ts';
import { conditionOf, confirms, noteOf, subjectOf, type Condition } from '../src/validators.ts';

const date = 'Fri, 20 Nov 2026 10:00:00 GMT';
const before = (seconds: number): string => new Date(Date.parse(date) - seconds * 1000).toUTCString();

/** What is asked after an answer with these headers. */
function asked(headers: AnswerHeaders, statusCode = 200): Condition | null {
  return conditionOf('subject', noteOf('subject', { statusCode, headers }));
}

test('an ETag is asked for, strong or weak, and nothing beside it', () => {
  for (const etag of ['"a"', 'W/"a"', '""', '"a,\\b"']) {
    assert.deepEqual(asked({ etag, date, 'last-modified': before(100) }), ['if-none-match', etag]);
  }
});

test('an ETag that is none is not asked for; the date is', () => {
  const modified = before(100);
  for (const etag of ['a', '"a', '"a b"', 'w/"a"', '"ä"', '*', `"${'x'.repeat(2000)}"`, ['"a"', '"b"']]) {
    assert.deepEqual(asked({ etag, date, 'last-modified': modified }), ['if-modified-since', modified], String(etag));
    assert.equal(asked({ etag }), null);
  }
});

test('a date is asked for if it was well past by the clock of the server, exactly as it was written', () => {
  const cases: [string | undefined, boolean][] = [
    [before(60), true],
    [before(1e9), true],
    ['Sunday, 06-Nov-94 08:49:37 GMT', true],
    ['Sun Nov  6 08:49:37 1994', true],
    [before(59), false],
    [before(0), false],
    [before(-1000), false],
    ['yesterday', false],
    ['Sun, 06 Nov 1994 08:49:37 (é) GMT', false],
    [undefined, false],
  ];
  for (const [modified, is] of cases) {
    const headers = { date, 'last-modified': modified };
    assert.deepEqual(asked(headers), is ? ['if-modified-since', modified] : null, modified);
  }
  assert.equal(asked({ 'last-modified': before(100) }), null, 'no clock to compare with');
  assert.equal(asked({ 'last-modified': before(100), date: 'now' }), null);
});

test('only of a plain 200 anything is noted', () => {
  for (const statusCode of [203, 204]) assert.equal(asked({ etag: '"a"' }, statusCode), null);
});

test('a note says nothing of another subject, and what is no note says nothing', () => {
  const note = noteOf('one', { statusCode: 200, headers: { etag: '"a"' } });
  assert.deepEqual(conditionOf('one', note), ['if-none-match', '"a"']);
  for (const other of [null, '', 'one', 'one if-none-match ', 'one range "a"', 'one if-none-match "a"\n', '{}']) {
    assert.equal(conditionOf('one', other), null);
  }
  assert.equal(conditionOf('two', note), null);
});

test('a subject is a URL and what may choose among its variants; credentials are not part of it', () => {
  const subject = subjectOf('http://h/a', ['Accept', 'x', 'Authorization', 'Bearer 1']);
  assert.equal(subjectOf('http://h/a', ['authorization', 'Bearer 2', 'accept', 'x', 'cookie', 'c']), subject);
  assert.notEqual(subjectOf('http://h/b', ['accept', 'x']), subject);
  assert.notEqual(subjectOf('http://h/a', ['accept', 'y']), subject);
  assert.notEqual(subjectOf('http://h/a', []), subject);
  assert.match(subject, /^[\w-]{43}$/);
});

test('a 304 that shows another validator than was asked about is not believed', () => {
  assert.ok(confirms(['if-none-match', '"a"'], { 'last-modified': date }));
  assert.ok(confirms(['if-none-match', 'W/"a"'], { etag: '"a"' }));
  assert.ok(!confirms(['if-none-match', '"a"'], { etag: '"b"' }));
  assert.ok(confirms(['if-modified-since', date], { etag: '"b"', 'last-modified': date }));
  assert.ok(!confirms(['if-modified-since', date], { 'last-modified': before(1) }));
});
