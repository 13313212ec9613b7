import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test, type TestContext } from 'node:test';
import type { Job } from '../src/schemas.ts';
import { startFileServer } from './helpers/file-server.ts';
import { TestService } from './helpers/service.ts';

const megabytes = 1_000_000;

/**
 * A server whose every listing is one page of `count` times the same name, whose every file is "body". A page that does
 * not end stays open after those names.
 */
async function hugeServer(t: TestContext, name: string, count: number, { ends = true } = {}) {
  const atOnce = 1_000;
  const piece = Buffer.from(`"${name}",`.repeat(atOnce));
  let sentBytes = 0;
  const server = createServer((request, response) => {
    if (request.url !== '/list') {
      response.end('body');
      return;
    }
    let left = count;
    const more = (): void => {
      while (left > 0 && !response.destroyed) {
        left -= atOnce;
        sentBytes += piece.length;
        if (!response.write(piece)) return;
      }
      if (ends) response.end(`"${name}"]}`);
    };
    response.write('{"FileNames":[');
    response.on('drain', more);
    more();
  });
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/list`;
  return { url, sentBytes: () => sentBytes };
}

test("after huge pages the worker's memory comes down again", { timeout: 120_000 }, async (t) => {
  // On a busy machine such a page holds its worker up for long.
  const service = new TestService({ WORKERS: '1', PAGE_LOCK_MS: '60000' });
  t.after(() => service.dispose());
  await service.start();
  /** Asks for the worker's memory until `is` holds. */
  const memoryUntil = async (is: (bytes: number) => boolean): Promise<number> => {
    while (!t.signal.aborted) {
      const bytes = (await service.workers())[0]?.memoryBytes ?? 0;
      if (bytes > 0 && is(bytes)) return bytes;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error('the memory never was so');
  };
  const run = async (url: string, path: string): Promise<Job> => {
    const { id } = await service.post({ source: { type: 'listing', url }, sink: { type: 'directory', path } });
    return service.ended(id);
  };
  const beforeBytes = await memoryUntil(() => true);

  const many = await startFileServer({ files: 100_000, pageSize: 100_000, keepLog: false, fileBytes: 1 });
  t.after(() => many.stop());
  const first = await run(many.listUrl, 'many');
  assert.equal(first.state, 'completed');
  assert.deepEqual([first.progress.filesListed, first.progress.filesDownloaded], [100_000, 100_000]);
  assert.equal(many.count(), 100_001);

  const name = 'n'.repeat(97);
  const large = await hugeServer(t, name, 900_000);
  const [second] = await Promise.all([
    run(large.url, 'large'),
    memoryUntil((bytes) => bytes > beforeBytes + 200 * megabytes),
  ]);
  assert.equal(second.state, 'completed');
  assert.equal(second.progress.filesDownloaded, 900_001);
  assert.equal(large.sentBytes(), 90 * megabytes);

  // It is refused as soon as it is too large: the rest never comes.
  const tooLarge = await hugeServer(t, name, 1_100_000, { ends: false });
  const third = await run(tooLarge.url, 'too-large');
  assert.equal(third.state, 'failed');
  assert.equal(third.error?.reason, 'too_large');
  assert.equal(third.progress.requestsRetried, 0);

  await memoryUntil((bytes) => bytes < beforeBytes + 150 * megabytes);
  assert.equal(await service.stop(), 0);
});
