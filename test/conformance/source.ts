/** What every source must do, as tests, against a real HTTP server. A kind opts in by a server and what it lists. */
import { createServer, type IncomingMessage, type RequestListener } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { test, type TestContext } from 'node:test';
import assert from 'node:assert/strict';
import { request } from 'undici';
import { FetchError } from '../../src/errors.ts';
import type { SourceSpec } from '../../src/schemas.ts';
import { sources, type GetListing, type SourceFile, type SourcePage } from '../../src/sources/index.ts';

export interface ListedServer {
  readonly spec: (base: string) => SourceSpec;
  /** Answers for pages and files; a file's body is its name. */
  readonly answer: RequestListener;
  /** The names of every page, in order. */
  readonly pages: readonly (readonly string[])[];
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
export const get: GetListing = async (url) => {
  const { statusCode, headers, body } = await request(url);
  const bytes = await body.bytes();
  if (statusCode !== 200) throw new FetchError('http_status', `status ${statusCode}`, { statusCode });
  return { url, headers, body: bytes };
};

export function read(spec: SourceSpec, token: string): Promise<SourcePage> {
  return sources[spec.type].read(spec, token, get);
}

/** Every page from the first on. */
export async function walk(spec: SourceSpec): Promise<{ token: string; page: SourcePage }[]> {
  const walked = [];
  for (let token: string | null = sources[spec.type].first(spec); token !== null;) {
    const page: SourcePage = await read(spec, token);
    walked.push({ token, page });
    assert.ok(walked.length < pagesMax, 'the listing does not end');
    token = page.next;
  }
  return walked;
}

/** Defines the tests for one kind of source. */
export function sourceConformance(kind: string, { spec: specOf, answer, pages }: ListedServer): void {
  test(`${kind}: every page is walked to the end, each with its items in order`, async (t) => {
    const walked = await walk(specOf(await serve(t, answer)));
    assert.deepEqual(
      walked.map(({ page }) => page.items.map((item) => item.name)),
      pages,
    );
  });

  test(`${kind}: a token gives the same page again, also to a worker that knows nothing else`, async (t) => {
    const base = await serve(t, answer);
    const walked = await walk(specOf(base));
    assert.equal(new Set(walked.map(({ token }) => token)).size, walked.length);
    for (const { token, page } of walked.toReversed()) {
      assert.ok(Buffer.byteLength(token) <= tokenBytesMax);
      const stored = JSON.parse(JSON.stringify(token)) as string;
      const both = await Promise.all([read(specOf(base), stored), read(specOf(base), stored)]);
      for (const again of both) assert.deepEqual(again, page);
    }
  });

  test(`${kind}: each URL leads to the file of that name`, async (t) => {
    const spec = specOf(await serve(t, answer));
    for (const { page } of await walk(spec)) {
      for (const item of page.items as SourceFile[]) {
        assert.match(item.path, /^\/[!-~]*$/);
        const { body } = await get(item.origin + item.path);
        assert.equal(Buffer.from(body).toString(), item.name);
      }
    }
  });

  test(`${kind}: what the request for a page fails with comes through`, async (t) => {
    const spec = specOf(await serve(t, answer));
    const failure = new FetchError('timeout', 'no answer', { retryable: true });
    const source = sources[spec.type];
    await assert.rejects(
      source.read(spec, source.first(spec), () => Promise.reject(failure)),
      failure,
    );
  });
}
