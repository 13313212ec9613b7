/** Numbered files: a URL with a range of numbers in it. A page's token is the index of its first number, from 0. */
import { randomUUID } from 'node:crypto';
import { Type, type Static } from 'typebox';
import { urlProblem } from '../check-url.ts';
import type { FieldError } from '../errors.ts';
import { checkName } from '../names.ts';
import { closed, filled, url, whole, type Filled } from '../schema-parts.ts';
import type { AddressPolicy } from '../ssrf.ts';
import type { Source, SourceFile } from './index.ts';

const membersMax = 1_000_000_000_000n;
const digitsMax = 30;

const RangeSchema = Type.Object(
  {
    type: Type.Literal('range'),
    url: url(
      'The URL of the files, with one `{from..to}` or `{from..to..step}` in its path or query. Leading zeros make all ' +
        'numbers as long as the longer of the two.',
      { examples: ['http://127.0.0.1:3900/get/{0001..9999}.bin'] },
    ),
    pageSize: whole('Files a page: what a worker takes at once.', 1000, 1, 100_000),
    name: Type.Optional(
      Type.String({
        minLength: 1,
        maxLength: 4096,
        description:
          "What a file is called, with `{}` for the number as it stands in the URL; default: the URL's last path segment.",
        examples: ['pages/{}.json'],
      }),
    ),
  },
  { ...closed, title: 'Range', description: 'Numbered files: there is nothing to list.' },
);

type RangeRequest = Static<typeof RangeSchema>;
export type RangeSpec = Filled<RangeRequest>;

/** The files as they are numbered. Numbers are exact, whatever their length. */
interface Numbered {
  readonly origin: string;
  /** The path and query, before and after the number. */
  readonly before: string;
  readonly after: string;
  readonly from: bigint;
  readonly step: bigint;
  readonly count: bigint;
  /** Digits that every number has at least. */
  readonly width: number;
}

export const range: Source<RangeRequest, RangeSpec> = {
  schema: RangeSchema,
  check: checkRange,

  withDefaults(request) {
    return { ...filled(RangeSchema, request), name: request.name ?? defaultName(request.url) };
  },

  asksForPages: false,
  headersOrigin: ({ url }) => numbered(url).origin,
  filesTotal: ({ url }) => Number(numbered(url).count),
  first: () => '0',

  async read({ url, pageSize, name }, token) {
    const files = numbered(url);
    const { origin, before, after, count } = files;
    const begin = BigInt(token);
    const end = begin + BigInt(pageSize);
    const items: SourceFile[] = [];
    for (let index = begin; index < end && index < count; index += 1n) {
      const number = numberAt(files, index);
      items.push({ name: named(name, number), origin, path: before + number + after, sizeBytes: null });
    }
    return { items, next: end < count ? String(end) : null };
  },
};

const pattern = /\{(\d+)\.\.(\d+)(?:\.\.(\d+))?\}/g;

/** Throws Error, whose message says what the URL must be, where it has not one range in it that can be counted. */
function numbered(text: string): Numbered {
  const [match, ...more] = text.matchAll(pattern);
  if (match === undefined || more.length > 0) throw new Error('must have one {from..to} or {from..to..step} in it');
  const [, first = '', last = '', each = '1'] = match;
  if (Math.max(first.length, last.length, each.length) > digitsMax) {
    throw new Error(`must have numbers of at most ${digitsMax} digits`);
  }
  const [from, to, step] = [BigInt(first), BigInt(last), BigInt(each)];
  if (from > to) throw new Error('must count upwards: from is larger than to');
  if (step === 0n) throw new Error('must have a step of 1 or more');
  const count = (to - from) / step + 1n;
  if (count > membersMax) throw new Error(`must stand for at most ${membersMax} files`);
  const padded = [first, last].some((digits) => digits.length > 1 && digits.startsWith('0'));
  const { origin, path } = around(text);
  const [before = '', after, again] = path;
  // A range decides what is asked for, not whom it is asked of.
  if (after === undefined || again !== undefined) throw new Error('must have the range in its path or its query');
  return { origin, before, after, from, step, count, width: padded ? Math.max(first.length, last.length) : 1 };
}

/** The URL's parts in their normal form: its path and query as split by the range. */
function around(text: string): { origin: string; path: string[]; lastSegment: string[] } {
  const mark = randomUUID();
  const url = URL.parse(text.replaceAll(pattern, mark));
  if (url === null) throw new Error('must be an http or https URL, such as http://host/{1..1000}');
  return {
    origin: url.origin,
    path: (url.pathname + url.search).split(mark),
    lastSegment: url.pathname.slice(url.pathname.lastIndexOf('/') + 1).split(mark),
  };
}

function numberAt({ from, step, width }: Numbered, index: bigint): string {
  return String(from + step * index).padStart(width, '0');
}

function named(template: string, number: string): string {
  return template.replaceAll('{}', number);
}

/** "" where the range is not in the last segment of the path: all files would have one name. */
function defaultName(text: string): string {
  try {
    const { lastSegment } = around(text);
    return lastSegment.length === 1 ? '' : lastSegment.map(decoded).join('{}');
  } catch {
    return '';
  }
}

/** Without percent-encoding, if that makes no folders and is text. */
function decoded(segment: string): string {
  try {
    const text = decodeURIComponent(segment);
    return text.includes('/') ? segment : text;
  } catch {
    return segment;
  }
}

function* checkRange(request: RangeRequest, mayReach: AddressPolicy): Generator<FieldError> {
  let files: Numbered;
  try {
    files = numbered(request.url);
  } catch (error) {
    yield { detail: error instanceof Error ? error.message : String(error), pointer: '/url' };
    return;
  }
  const problem = urlProblem(URL.parse(request.url), mayReach);
  if (problem !== null) yield { detail: problem, pointer: '/url' };
  const { name } = range.withDefaults(request);
  if (name === '') {
    const detail =
      "is missing: the range is not in the last segment of the URL's path, so all files would have one name";
    yield { detail, pointer: '/name' };
  } else if (!name.includes('{}')) {
    yield { detail: 'must hold {}, the place of the number', pointer: '/name' };
  } else {
    const unsafe =
      checkName(named(name, numberAt(files, 0n))) ?? checkName(named(name, numberAt(files, files.count - 1n)));
    if (unsafe !== null) yield { detail: `gives names that cannot be stored: ${unsafe}`, pointer: '/name' };
  }
}
