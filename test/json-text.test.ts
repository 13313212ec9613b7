import { test } from 'node:test';
import assert from 'node:assert/strict';
import * as fc from 'fast-check';
import { JsonText } from '../src/sinks/shards/json-text.ts';
import { failsWith } from './conformance/sink.ts';

const notJson = failsWith('not_json', /^the file is not JSON: /);

/** What becomes of the text, in one piece and, where pieces are given, in those too: the same. */
function line(text: string | Buffer, cuts: readonly number[] = []): string {
  const bytes = Buffer.from(text);
  let whole: Uint8Array;
  try {
    whole = new JsonText().whole(bytes);
  } catch (error) {
    assert.throws(() => pieces(bytes, cuts), notJson);
    throw error;
  }
  assert.doesNotThrow(() => assert.deepEqual(pieces(bytes, cuts), Buffer.from(whole)));
  return Buffer.from(whole).toString();
}

function pieces(bytes: Buffer, cuts: readonly number[]): Buffer {
  const stream = new JsonText();
  const edges = [0, ...cuts.map((cut) => cut % (bytes.length + 1)).toSorted((a, b) => a - b), bytes.length];
  const taken = edges.slice(1).map((edge, index) => Buffer.from(stream.take(bytes.subarray(edges[index], edge))));
  stream.end();
  return Buffer.concat(taken);
}

const texts = [
  'null|true|false|0|-0|1.0|100000000000000000000|-1.5e+10|1E9|0e-0|""|[]|{}| [ ] |{ }|[1,2,[3,{"a":[]}]]',
  '{"a":1,"b":{"c":null}}|"\\u00e9\\n\\"\\\\\\/"|"é🙂\u2028"|{"":0}|[[],[]]|\t1|[ 1 , 2 ]|"\x7f"|{"a":"b","c":"d"}|{"a" : "b"}',
].flatMap((row) => row.split('|'));
const others = [
  '| |nul|nulll|True|01|1.|.5|+1|-|1e|1e+|0x1|NaN|"|"\\x"|"\\u12g4"|[|]|[1,]|[,1]|[1 2]|{|{"a"}|{"a":}|{"a":1,}|{a:1}',
  '{\'a\':1}|{"a":1 "b":2}|[}|{]|[1}|{"a":1]|1 2|1,2|{"a":1,2}|"\t"|"a\nb"|\u00a01|"\u0000"|{,}|""""',
].flatMap((row) => row.split('|'));

function nested(depth: number): string {
  return '['.repeat(depth) + ']'.repeat(depth);
}

test('JSON texts are kept to the byte', () => {
  for (const text of texts) {
    JSON.parse(text);
    assert.equal(line(text), text);
  }
});

test('what is not JSON is refused', () => {
  for (const text of others) {
    assert.throws(() => JSON.parse(text), text);
    assert.throws(() => line(text), notJson, text);
  }
});

test('what a text breaks off in says nothing about the next', () => {
  const json = new JsonText();
  for (const broken of ['{"a', '[{"a', '"\\', '[1,\n']) {
    assert.throws(() => json.whole(Buffer.from(broken)), notJson);
    for (const text of ['"x"', '["x"]', '{"x":"y"}', ' 1']) {
      assert.equal(Buffer.from(json.whole(Buffer.from(text))).toString(), text);
    }
  }
});

test('line breaks and the indentation after them go, a byte order mark goes', () => {
  assert.equal(line('{\r\n  "a b": [\n\t1.0,\r 2 \n]\n}\n', [2, 3, 4, 14, 15]), '{"a b": [1.0,2 ]}');
  assert.equal(line('\ufeff{"a":1}', [1]), '{"a":1}');
  assert.equal(line('\ufeff \n1', [1, 2]), ' 1');
  for (const text of ['\ufeff\ufeff1', '1\ufeff', '\ufeff', Buffer.from([0xef, 0xbb, 0x31])]) {
    assert.throws(() => line(text), notJson);
  }
});

test('bytes that are not UTF-8 are refused', () => {
  for (const bytes of [[0xff], [0xc3], [0xed, 0xa0, 0x80], [0xc0, 0x80]]) {
    const text = Buffer.from([0x22, ...bytes, 0x22]);
    for (const cuts of [[], [2], [1, 2, 3]]) assert.throws(() => line(text, cuts), notJson);
  }
  assert.throws(() => line(Buffer.from('{"a":1}', 'utf16le')), notJson);
});

test('texts may be nested 10,000 deep, but no deeper', () => {
  assert.equal(line(nested(10_000)).length, 20_000);
  assert.throws(() => line(nested(10_001)), failsWith('not_json', /nested deeper/));
});

test('it takes what JSON.parse takes, in whatever pieces, and means the same by it', () => {
  const indents = fc.constantFrom(undefined, 1, '\t', 4);
  const valid = fc.tuple(fc.json(), indents).map(([text, indent]) => JSON.stringify(JSON.parse(text), null, indent));
  // Most of what is one step away from JSON is none.
  const nearly = fc
    .tuple(valid, fc.nat(), fc.constantFrom(...'{}[],:"\\0123.eE+-tfnu \n'.split(''), ''))
    .map(([text, at, put]) => text.slice(0, at % (text.length + 1)) + put + text.slice((at % (text.length + 1)) + 1));
  fc.assert(
    fc.property(fc.oneof(valid, nearly), fc.array(fc.nat(), { maxLength: 6 }), (text, cuts) => {
      let parsed: unknown;
      try {
        parsed = JSON.parse(text.toWellFormed());
      } catch {
        assert.throws(() => line(text, cuts), notJson);
        return;
      }
      const stored = line(text, cuts);
      assert.doesNotMatch(stored, /[\r\n]/);
      assert.deepEqual(JSON.parse(stored), parsed);
    }),
    { numRuns: 3000 },
  );
});
