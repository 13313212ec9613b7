/** Checks JSON texts (RFC 8259) while they stream, whatever their size, and puts each on one line. */
import { isUtf8 } from 'node:buffer';
import { TextDecoder } from 'node:util';
import { FetchError } from '../../errors.ts';

// Deeper ones are of no use to those who read the lines: many parsers give up far earlier.
const depthMax = 10_000;

const states = words(
  'start bom bomEnd value arrayBegin objectBegin key colon after string escape u1 u2 u3 u4 minus zero int dot fraction ' +
    'exponent sign power t tr tru f fa fal fals n nu nul',
);
const actions = words('openArray closeArray openObject closeObject comma beginKey endString');

// Each row: in these states, these bytes (a class of a regular expression, over Latin-1) lead to this state or action.
const grammar: readonly (readonly [from: string, bytes: string, to: string])[] = [
  ['start', '\\xef', 'bom'],
  ['bom', '\\xbb', 'bomEnd'],
  ['bomEnd', '\\xbf', 'value'],
  ['start value arrayBegin', '"', 'string'],
  ['start value arrayBegin', '-', 'minus'],
  ['start value arrayBegin', '0', 'zero'],
  ['start value arrayBegin', '1-9', 'int'],
  ['start value arrayBegin', 't', 't'],
  ['start value arrayBegin', 'f', 'f'],
  ['start value arrayBegin', 'n', 'n'],
  ['start value arrayBegin', '\\[', 'openArray'],
  ['start value arrayBegin', '{', 'openObject'],
  ['objectBegin key', '"', 'beginKey'],
  ['colon', ':', 'value'],
  ['arrayBegin after zero int fraction power', '\\]', 'closeArray'],
  ['objectBegin after zero int fraction power', '}', 'closeObject'],
  ['after zero int fraction power', ',', 'comma'],
  ['after zero int fraction power', ' \\t\\r\\n', 'after'],
  ['start value', ' \\t\\r\\n', 'value'],
  ['arrayBegin', ' \\t\\r\\n', 'arrayBegin'],
  ['objectBegin', ' \\t\\r\\n', 'objectBegin'],
  ['key', ' \\t\\r\\n', 'key'],
  ['colon', ' \\t\\r\\n', 'colon'],
  ['string', '\\x20\\x21\\x23-\\x5b\\x5d-\\xff', 'string'],
  ['string', '\\\\', 'escape'],
  ['string', '"', 'endString'],
  ['escape', '"\\\\/bfnrt', 'string'],
  ['escape', 'u', 'u1'],
  ...['u1 u2', 'u2 u3', 'u3 u4', 'u4 string'].map(hexDigit),
  ['minus', '0', 'zero'],
  ['minus', '1-9', 'int'],
  ['int', '0-9', 'int'],
  ['zero int', '.', 'dot'],
  ['dot fraction', '0-9', 'fraction'],
  ['zero int fraction', 'eE', 'exponent'],
  ['exponent', '+\\-', 'sign'],
  ['exponent sign power', '0-9', 'power'],
  ...['t r tr', 'tr u tru', 'tru e after', 'f a fa', 'fa l fal', 'fal s fals', 'fals e after'].map(letter),
  ...['n u nu', 'nu l nul', 'nul l after'].map(letter),
];

function words(text: string): string[] {
  return text.split(' ');
}

function hexDigit(row: string): [string, string, string] {
  const [from = '', to = ''] = words(row);
  return [from, '0-9a-fA-F', to];
}

function letter(row: string): [string, string, string] {
  const [from = '', byte = '', to = ''] = words(row);
  return [from, byte, to];
}

/** state × 256 + byte → state, or the number of states + action; 255: wrong. */
const table = new Uint8Array(states.length * 256).fill(255);
for (const [from, bytes, to] of grammar) {
  const accepts = new RegExp(`[${bytes}]`);
  const target = states.includes(to) ? states.indexOf(to) : states.length + actions.indexOf(to);
  for (const state of words(from)) {
    for (let byte = 0; byte < 256; byte += 1) {
      if (accepts.test(String.fromCharCode(byte))) table[states.indexOf(state) * 256 + byte] = target;
    }
  }
}

const stateOf = (name: string): number => states.indexOf(name);
const [start, bom, bomEnd] = [stateOf('start'), stateOf('bom'), stateOf('bomEnd')];
const [value, arrayBegin, objectBegin] = [stateOf('value'), stateOf('arrayBegin'), stateOf('objectBegin')];
const [key, colon, after, string] = [stateOf('key'), stateOf('colon'), stateOf('after'), stateOf('string')];
const ends: ReadonlySet<number> = new Set(['after', 'zero', 'int', 'fraction', 'power'].map(stateOf));
const [LF, CR, SPACE, TAB] = [0x0a, 0x0d, 0x20, 0x09];

/** One JSON text at a time: either `whole`, or `take` for each piece and then `end`. */
export class JsonText {
  #state = start;
  /** In which containers it is: 1 an object, 0 an array. */
  readonly #inObject = new Uint8Array(depthMax);
  #depth = 0;
  #isKey = false;
  /** The last that was not dropped was followed by a line break. */
  #dropping = false;
  #decoder: TextDecoder | null = null;

  /**
   * The text without a byte order mark, and without line breaks and what whitespace follows them: all else stays as it
   * came, numbers too. Throws FetchError (`not_json`).
   */
  whole(text: Uint8Array): Uint8Array {
    this.#state = start;
    this.#depth = 0;
    this.#isKey = false;
    this.#dropping = false;
    if (!isUtf8(text)) throw notJson('it is not UTF-8');
    const line = this.#line(text);
    this.#end();
    return line;
  }

  /** The next piece, as `whole`. Throws FetchError (`not_json`). */
  take(piece: Uint8Array): Uint8Array {
    try {
      this.#decoder ??= new TextDecoder('utf-8', { fatal: true });
      this.#decoder.decode(piece, { stream: true });
    } catch {
      throw notJson('it is not UTF-8');
    }
    return this.#line(piece);
  }

  /** Throws FetchError (`not_json`): the text is not complete. */
  end(): void {
    // A sequence of UTF-8 that is cut off lies in a string that is.
    this.#end();
  }

  #end(): void {
    if (this.#depth > 0 || !ends.has(this.#state)) throw notJson('it ends too early');
  }

  /** Checks the bytes and takes away what does not belong on a line. */
  #line(bytes: Uint8Array): Uint8Array {
    const markBytes = this.#markBytes(bytes);
    this.#check(bytes);
    const rest = markBytes === 0 ? bytes : bytes.subarray(markBytes);
    // No string of a valid text holds a raw line break (section 7): these stand between tokens, where space means nothing.
    return this.#dropping || rest.includes(LF) || rest.includes(CR) ? this.#dropBreaks(rest) : rest;
  }

  /** How many of the bytes belong to a byte order mark at the text's begin. */
  #markBytes(bytes: Uint8Array): number {
    switch (this.#state) {
      case start:
        return bytes[0] === 0xef ? 3 : 0;
      case bom:
        return 2;
      case bomEnd:
        return 1;
      default:
        return 0;
    }
  }

  #check(bytes: Uint8Array): void {
    let state = this.#state;
    for (let index = 0; index < bytes.length; index += 1) {
      state = table[state * 256 + bytes[index]!]!;
      if (state >= states.length) state = this.#act(state);
    }
    this.#state = state;
  }

  /** What follows where a table of states is not enough. */
  #act(code: number): number {
    switch (actions[code - states.length]) {
      case 'openArray':
        return this.#open(0, arrayBegin);
      case 'openObject':
        return this.#open(1, objectBegin);
      case 'closeArray':
        return this.#close(0);
      case 'closeObject':
        return this.#close(1);
      case 'comma':
        if (this.#depth === 0) break;
        return this.#inObject[this.#depth - 1] === 1 ? key : value;
      case 'beginKey':
        this.#isKey = true;
        return string;
      case 'endString': {
        const next = this.#isKey ? colon : after;
        this.#isKey = false;
        return next;
      }
      default:
    }
    throw notJson('a byte of it is out of place');
  }

  #open(inObject: 0 | 1, next: number): number {
    if (this.#depth === depthMax) throw notJson(`it is nested deeper than ${depthMax}`);
    this.#inObject[this.#depth] = inObject;
    this.#depth += 1;
    return next;
  }

  #close(inObject: 0 | 1): number {
    if (this.#depth === 0 || this.#inObject[this.#depth - 1] !== inObject) throw notJson('its brackets do not match');
    this.#depth -= 1;
    return after;
  }

  #dropBreaks(bytes: Uint8Array): Uint8Array {
    const kept = new Uint8Array(bytes.length);
    let length = 0;
    for (const byte of bytes) {
      if (byte === LF || byte === CR) this.#dropping = true;
      else if (!this.#dropping || (byte !== SPACE && byte !== TAB)) {
        this.#dropping = false;
        kept[length] = byte;
        length += 1;
      }
    }
    return kept.subarray(0, length);
  }
}

function notJson(why: string): FetchError {
  return new FetchError('not_json', `the file is not JSON: ${why}`);
}
