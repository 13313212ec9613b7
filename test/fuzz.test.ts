import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { after, before, test, type TestContext } from 'node:test';
import * as fc from 'fast-check';
import type { Arbitrary } from 'fast-check';
import type { FastifyInstance, LightMyRequestResponse } from 'fastify';
import { pino } from 'pino';
import { createJobService, type JobService } from '../jobs/service.ts';
import { buildApp } from '../src/app.ts';
import { FailureSchema, JobRequestSchema, JobSchema, type Job } from '../src/schemas.ts';
import { noLimiter, openConfig } from './helpers/app.ts';
import { startTestRedis, type TestRedis } from './helpers/redis.ts';
import { urlFiles } from './helpers/url-files.ts';

/** GIGAFETCH_SEED repeats a run whose seed was printed. */
const seed = Number(process.env['GIGAFETCH_SEED'] ?? Date.now() % 2 ** 31);
const bodies = 10_000;
const requests = 2000;

let redis: TestRedis;
let service: JobService;
let app: FastifyInstance;
/** What the app logs: an error that nobody foresaw is here with its stack. */
const log: string[] = [];

before(async () => {
  redis = await startTestRedis();
  const logger = pino({ level: 'warn' }, { write: (line: string) => void log.push(line) });
  service = createJobService({ redisUrl: redis.url, activeJobsMax: 300, urlFiles: urlFiles(), logger });
  app = buildApp({ config: openConfig, service, limiter: noLimiter, logger });
  while ((await app.inject('/readyz')).statusCode !== 200) await new Promise(setImmediate);
});

after(async () => {
  await app.close();
  await service.close();
  await redis.stop();
});

async function run<T>(t: TestContext, values: Arbitrary<T>, numRuns: number, check: (value: T) => Promise<void>) {
  t.diagnostic(`GIGAFETCH_SEED=${seed}`);
  await fc.assert(fc.asyncProperty(values, check), { seed, numRuns });
}

/** Every answer there may be: a success, or a whole problem that is the caller's fault. */
function isProper(response: LightMyRequestResponse): void {
  const { statusCode, headers, body } = response;
  assert.ok(statusCode < 500, `${statusCode} ${body}\n${log.join('')}`);
  if (statusCode < 400) return;
  assert.match(String(headers['content-type']), /^application\/problem\+json/);
  if (response.raw.req.method === 'HEAD') return;
  const { type, title, status, detail, errors, ...rest } = response.json<Record<string, unknown>>();
  assert.deepEqual([type, status, rest], ['about:blank', statusCode, {}]);
  for (const text of [title, detail]) assert.ok(typeof text === 'string' && text !== '', body);
  if (errors === undefined) return;
  assert.ok(Array.isArray(errors) && errors.length >= 1 && errors.length <= 100);
  for (const error of errors as Record<string, unknown>[]) {
    assert.deepEqual(Object.keys(error).toSorted(), ['detail', 'pointer']);
    assert.match(String(error['pointer']), /^(\/|$)/);
  }
}

const wildText = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 20 }),
  fc.string({ unit: 'grapheme', maxLength: 300 }),
  fc.constantFrom(
    '',
    '\0',
    '\ud800',
    '..',
    '/',
    'a/../b',
    '.gigafetch',
    '{name}',
    'http://',
    'http://[',
    'http://u:p@h/',
  ),
  fc.constantFrom(
    'constructor',
    '__proto__',
    'toString',
    '~',
    '~2',
    '/~',
    '\r\nx: y',
    '%',
    '%00',
    '\u2028',
    'x'.repeat(9000),
  ),
);
const wildNumber = fc.oneof(fc.double(), fc.integer(), fc.constantFrom(0, -0, -1, 1.5, 2 ** 53, 1e308, 5e-324));
const wildValue = fc.oneof(
  fc.jsonValue({ maxDepth: 3 }),
  wildText,
  wildNumber,
  fc.constantFrom(null, true, [], {}, [[]]),
);

interface Schema {
  readonly type?: string;
  readonly const?: unknown;
  readonly enum?: readonly unknown[];
  readonly oneOf?: readonly Schema[];
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly items?: Schema;
  readonly required?: readonly string[];
  readonly minimum?: number;
  readonly maximum?: number;
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly format?: string;
}

const urls = fc.oneof(
  fc.webUrl({ withQueryParameters: true, withFragments: true }),
  fc.nat(65_535).map((port) => `http://127.0.0.1:${port}/list`),
  fc.nat(65_535).map((port) => `http://127.0.0.1:${port}/{1..9}.bin`),
);
const names = fc
  .string({ unit: 'grapheme', minLength: 1, maxLength: 12 })
  .map((text) => text.replaceAll(/[/\0]|^\.+/g, '-'));
/** What the schema does not say all of. */
const special: Record<string, Arbitrary<unknown>> = {
  url: urls,
  fileUrl: fc.oneof(
    fc.constantFrom('get/{name}', '?f={name}', '//h/{name}'),
    urls.map((url) => `${url}/{name}`),
  ),
  urls: fc.array(fc.oneof(urls, fc.record({ url: urls, name: names })), { minLength: 1, maxLength: 4 }),
  path: fc
    .array(fc.oneof(names, fc.constantFrom('a', 'b')), { minLength: 1, maxLength: 3 })
    .map((parts) => parts.join('/')),
  headers: fc.dictionary(
    fc.stringMatching(/^x-[a-z\d!#$%&'*+.^_`|~-]{1,9}$/),
    fc.stringMatching(/^[ -~\xa0-\xff]{0,20}$/),
  ),
  baseDelayMs: fc.integer({ min: 1, max: 1000 }),
  maxDelayMs: fc.integer({ min: 1000, max: 30_000 }),
};

/** Values that a schema of a body takes. */
function valid(schema: Schema): Arbitrary<unknown> {
  if (schema.oneOf !== undefined) return fc.oneof(...schema.oneOf.map(valid));
  if (schema.enum !== undefined) return fc.constantFrom(...schema.enum);
  if (schema.const !== undefined) return fc.constant(schema.const);
  if (schema.type === 'integer') return fc.integer({ min: schema.minimum ?? 0, max: schema.maximum ?? 2 ** 31 });
  if (schema.format === 'json-pointer') {
    const part = names.map((name) => `/${name.replaceAll('~', '~0')}`);
    return fc.array(part, { maxLength: 3 }).map((parts) => parts.join(''));
  }
  if (schema.type === 'string') {
    const minLength = schema.minLength ?? 0;
    const maxLength = Math.min(schema.maxLength ?? 50, 50);
    const fits = ({ length }: string): boolean => length >= minLength && length <= maxLength;
    return fc.oneof(fc.string({ unit: 'grapheme', minLength, maxLength }), wildText.filter(fits));
  }
  if (schema.type === 'array') return fc.array(valid(schema.items ?? {}), { maxLength: 3 });
  if (schema.type === 'boolean') return fc.boolean();
  assert.equal(schema.type, 'object', JSON.stringify(schema));
  const fields = Object.entries(schema.properties ?? {}).map(
    ([name, field]) => [name, special[name] ?? valid(field)] as const,
  );
  return fc.record(Object.fromEntries(fields), { requiredKeys: [...(schema.required ?? [])], noNullPrototype: true });
}

/** A copy of a body in which one place, whichever `where` says, is not as it was. */
function spoil(body: unknown, where: number, how: 'replace' | 'remove' | 'add', value: unknown, name: string): unknown {
  const copy = structuredClone(body) as Record<string, unknown>;
  const places: [Record<string, unknown>, string][] = [];
  const walk = (inner: Record<string, unknown>): void => {
    for (const key of Object.keys(inner)) {
      places.push([inner, key]);
      const next = inner[key];
      if (typeof next === 'object' && next !== null) walk(next as Record<string, unknown>);
    }
  };
  walk(copy);
  const [holder, key] = places[where % places.length] ?? [copy, 'name'];
  const field = how === 'add' ? name : key;
  if (how === 'remove') delete holder[key];
  // The length of an array cannot be defined anew.
  else if (!(Array.isArray(holder) && field === 'length')) {
    Object.defineProperty(holder, field, { value, enumerable: true, configurable: true });
  }
  return copy;
}

const validBody = valid(JobRequestSchema as unknown as Schema);
const nearlyValid = fc
  .tuple(validBody, fc.nat(1000), fc.constantFrom('replace', 'remove', 'add'), wildValue, wildText)
  .map((parts) => spoil(...parts));
const brokenText = fc.tuple(validBody, fc.nat(400), wildText).map(([body, at, text]) => {
  const whole = JSON.stringify(body);
  return whole.slice(0, at) + text + whole.slice(at);
});
const bodyText = fc.oneof(
  { weight: 3, arbitrary: validBody.map((body) => JSON.stringify(body)) },
  { weight: 5, arbitrary: nearlyValid.map((body) => JSON.stringify(body)) },
  { weight: 1, arbitrary: wildValue.map((body) => JSON.stringify(body)) },
  { weight: 1, arbitrary: brokenText },
  { weight: 1, arbitrary: wildText },
);

test(`of ${bodies} bodies none is a 500: a job that is shown as it was ordered, or a problem`, async (t) => {
  const seen: Record<number, number> = {};
  await run(t, bodyText, bodies, async (payload) => {
    const headers = { 'content-type': 'application/json' };
    const response = await app.inject({ method: 'POST', url: '/jobs', payload, headers });
    seen[response.statusCode] = (seen[response.statusCode] ?? 0) + 1;
    isProper(response);
    if (response.statusCode !== 202) return;
    const order = JSON.parse(payload.toWellFormed()) as Record<string, unknown>;
    const job = response.json<Job>();
    assert.deepEqual((await app.inject(job.links.self)).json(), job);
    assert.equal(job.name, order['name'] ?? null);
    assert.equal(job.source.type, (order['source'] as { type: string }).type);
  });
  t.diagnostic(JSON.stringify(seen));
  // Taken, wrong, a sink path in use, too many active jobs.
  for (const status of [202, 400, 409, 429]) assert.ok(Number(seen[status]) > 0, `none was a ${status}`);
});

const known = ['019a9f3c-6c2e-7d4b-9f60-2b8c1d7e5a43', '00000000-0000-0000-0000-000000000000'];
const pathPart = fc.oneof(
  fc.constantFrom(
    'jobs',
    'failures',
    'resume',
    'pause',
    'workers',
    'docs',
    'static',
    'openapi.json',
    '..',
    '',
    ...known,
  ),
  wildText.map((text) => encodeURIComponent(text.toWellFormed())),
  fc.string({ unit: fc.constantFrom(...Array.from('%abc012/.;:@&=+$,!~*\'()"<>[]{}|\\^`')), maxLength: 12 }),
);
const path = fc.oneof(
  fc.array(pathPart, { maxLength: 5 }).map((parts) => `/${parts.join('/')}`),
  fc.constantFrom(
    '/jobs',
    '/workers',
    ...known.flatMap((id) => ['', '/failures', '/events', '/resume'].map((part) => `/jobs/${id}${part}`)),
  ),
);
const states = (JobSchema.properties.state as Schema).enum as string[];
const reasons = (FailureSchema.properties.reason as Schema).enum as string[];
const queryValue = fc.oneof(
  wildText.map((text) => encodeURIComponent(text.toWellFormed())),
  fc.constantFrom(
    '1',
    '0',
    '-1',
    '1e3',
    '9999999999999999999-9999999999999999999',
    '0-0',
    ...known,
    ...states,
    ...reasons,
  ),
);
const query = fc
  .array(fc.tuple(fc.constantFrom('state', 'limit', 'cursor', 'reason', 'x', 'limit[]', '__proto__'), queryValue), {
    maxLength: 4,
  })
  .map((pairs) => (pairs.length === 0 ? '' : `?${pairs.map((pair) => pair.join('=')).join('&')}`));
const headerValue = fc.oneof(
  fc.stringMatching(/^[!-~\x80-\xff]{0,40}$/),
  fc.constantFrom(
    'text/csv',
    'application/x-ndjson',
    'application/json',
    '*/*;q=0',
    'null',
    'http://localhost',
    '9'.repeat(40),
  ),
);
const headers = fc.dictionary(
  fc.constantFrom(
    'accept',
    'authorization',
    'content-type',
    'idempotency-key',
    'origin',
    'last-event-id',
    'expect',
    'x',
  ),
  headerValue,
  { maxKeys: 4 },
);
const request = fc.record({
  method: fc.constantFrom('GET', 'GET', 'GET', 'HEAD', 'POST', 'PATCH', 'PUT', 'DELETE', 'OPTIONS'),
  // Others cannot be injected; those below are sent as bytes.
  url: fc
    .tuple(path, query)
    .map((parts) => parts.join(''))
    .filter((url) => URL.canParse(url, 'http://localhost')),
  headers,
  payload: fc.option(fc.oneof(bodyText, fc.constantFrom('', '{}', '[]')), { nil: '', freq: 3 }),
});

test(`of ${requests} requests with wild paths, queries and headers none is a 500`, async (t) => {
  await run(t, request, requests, async ({ method, url, headers, payload }) => {
    const body = payload === '' || method === 'GET' || method === 'HEAD' ? {} : { payload };
    isProper(await app.inject({ method: method as 'GET', url, headers, ...body }));
  });
});

test('bytes that are nearly HTTP are answered or hung up on, and the API lives on', async (t) => {
  const { port } = new URL(await app.listen({ port: 0, host: '127.0.0.1' }));
  const latin = fc.string({
    unit: fc.integer({ min: 0, max: 255 }).map((code) => String.fromCharCode(code)),
    maxLength: 30,
  });
  const parts = fc.tuple(
    fc.constantFrom('GET', 'POST', 'get', ''),
    latin,
    fc.array(fc.tuple(latin, latin), { maxLength: 3 }),
    latin,
  );
  await run(t, parts, 300, async ([method, target, lines, body]) => {
    const client = connect(Number(port), '127.0.0.1').setEncoding('latin1');
    // A reset is an answer too.
    client.on('error', () => {});
    const fields = [['host', 'localhost'], ['connection', 'close'], ...lines].map((field) => field.join(': '));
    client.end(Buffer.from([`${method} /${target} HTTP/1.1`, ...fields, '', body].join('\r\n'), 'latin1'));
    let answer = '';
    client.on('data', (chunk) => (answer += String(chunk)));
    await new Promise((resolve) => client.once('close', resolve));
    assert.match(answer, /^(HTTP\/1\.1 [234]\d\d |$)/);
  });
  assert.equal((await app.inject('/readyz')).statusCode, 200);
});
