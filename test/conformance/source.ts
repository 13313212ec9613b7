/** What every source must do, as tests, against a real HTTP server. A kind opts in by a server and what it lists. */
import { createServer, type IncomingMessage, type RequestListener } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { test, type TestContext } from 'node:test';
import assert from 'node:assert/strict';
import { request } from 'undici';
import { FetchError } from '../../src/errors.ts';
import {
  kindOf,
  type GetListing,
  type SourceFile,
  type SourcePage,
  type SourceRequest,
  type SourceSpec,
} from '../../src/sources/index.ts';
import type { JobList } from '../../src/url-files.ts';
import { urlFiles } from '../helpers/url-files.ts';

export interface ListedServer {
  readonly source: (base: string) => SourceRequest;
  /** Answers for pages and files; a file's body is its name. */
  readonly answer: RequestListener;
  /** The names of every page, in order. */
  readonly pages: readonly (readonly string[])[];
  /** Pages are known without a request. */
  readonly asksNothing?: boolean;
}

const tokenBytesMax = 16_384;
const pagesMax = 100;

/** Serves on a free port of the loopback until the test ends; gives the base URL, without a "/" at its end. */
export async function serve(t: TestContext, answer: RequestListener): Promise<string> {
  const server = createServer(answer).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** The URL that a request asks for. */
export function urlOf(message: IncomingMessage): URL {
  return new URL(message.url ?? '', 'http://host');
}

/** One request, nothing tried again. */
export const get: GetListing = async (url, into) => {
  const { statusCode, headers, body } = await request(url);
  const bytes = await body.bytes();
  if (statusCode !== 200) throw new FetchError('http_status', `status ${statusCode}`, { statusCode });
  if (into === undefined) return { url, headers, body: bytes };
  const writer = into.open();
  writer.write(bytes);
  writer.finish();
  return { url, headers, body: new Uint8Array() };
};

/** A source as a job has it: stored, with the files that it may keep. */
export interface Opened {
  readonly spec: SourceSpec;
  readonly list: JobList;
}

export async function openSource(request: SourceRequest): Promise<Opened> {
  const files = urlFiles();
  const kind = kindOf(request);
  const spec = (await kind.prepare?.(request, 'job', files)) ?? kind.withDefaults(request);
  return { spec: JSON.parse(JSON.stringify(spec)) as SourceSpec, list: files.of('job') };
}

export function read({ spec, list }: Opened, token: string): Promise<SourcePage> {
  return kindOf(spec).read(spec, token, get, list);
}

/** Every page from the first on. */
export async function walk(opened: Opened): Promise<{ token: string; page: SourcePage }[]> {
  const walked = [];
  for (let token: string | null = kindOf(opened.spec).first(opened.spec); token !== null;) {
    const page: SourcePage = await read(opened, token);
    walked.push({ token, page });
    assert.ok(walked.length < pagesMax, 'the listing does not end');
    token = page.next;
  }
  return walked;
}

/** Defines the tests for one kind of source. */
export function sourceConformance(kind: string, { source, answer, pages, asksNothing = false }: ListedServer): void {
  const opened = async (t: TestContext): Promise<Opened> => openSource(source(await serve(t, answer)));

  test(`${kind}: what the conformance suite orders is right, and stays as it is when it is filled in again`, () => {
    const request = source('http://127.0.0.1:1');
    const kind = kindOf(request);
    assert.deepEqual([...kind.check(request, () => true)], []);
    const spec = kind.withDefaults(request);
    if (!('urls' in spec)) assert.deepEqual(kind.withDefaults(spec as SourceRequest), spec);
  });

  test(`${kind}: every page is walked to the end, each with its items in order`, async (t) => {
    const walked = await walk(await opened(t));
    assert.deepEqual(
      walked.map(({ page }) => page.items.map((item) => item.name)),
      pages,
    );
  });

  test(`${kind}: how many files there are is told before, or nothing is told`, async (t) => {
    const { spec, list } = await opened(t);
    const [first] = await walk({ spec, list });
    const told = kindOf(spec).filesTotal(spec) ?? first?.page.filesTotal;
    if (told !== undefined) assert.equal(told, pages.flat().length);
  });

  test(`${kind}: a token gives the same page again, also to a worker that knows nothing else`, async (t) => {
    const { spec, list } = await opened(t);
    const walked = await walk({ spec, list });
    assert.equal(new Set(walked.map(({ token }) => token)).size, walked.length);
    for (const { token, page } of walked.toReversed()) {
      assert.ok(Buffer.byteLength(token) <= tokenBytesMax);
      const stored = JSON.parse(JSON.stringify(token)) as string;
      const other = { spec: structuredClone(spec), list };
      const both = await Promise.all([read(other, stored), read(other, stored)]);
      for (const again of both) assert.deepEqual(again, page);
    }
  });

  test(`${kind}: each URL leads to the file of that name`, async (t) => {
    for (const { page } of await walk(await opened(t))) {
      for (const item of page.items as SourceFile[]) {
        assert.match(item.path, /^\/[!-~]*$/);
        const { body } = await get(item.origin + item.path);
        assert.equal(Buffer.from(body).toString(), item.name);
      }
    }
  });

  test(`${kind}: the job's headers go to no other origin than its own`, async (t) => {
    const base = await serve(t, answer);
    const { spec } = await openSource(source(base));
    assert.ok([base, null].includes(kindOf(spec).headersOrigin(spec)));
  });

  if (asksNothing) return;
  test(`${kind}: what the request for a page fails with comes through`, async (t) => {
    const { spec, list } = await opened(t);
    const failure = new FetchError('timeout', 'no answer', { retryable: true });
    const source = kindOf(spec);
    await assert.rejects(
      source.read(spec, source.first(spec), () => Promise.reject(failure), list),
      failure,
    );
    assert.equal(await list.isThere(), false);
  });
}
