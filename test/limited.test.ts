import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { fileServer } from './helpers/file-server.ts';
import { TestService } from './helpers/service.ts';

const service = new TestService();
before(() => service.start());
after(() => service.stop());

test('a job whose pages come more slowly than it fetches says so, one that has enough to fetch does not', async (t) => {
  const slow = await fileServer(t, { files: 100_000, pageSize: 10 });
  slow.fault(/^\/list/, { slow: { bytes: 100_000, everyMs: 100 } });
  const quick = await fileServer(t, { files: 100_000, pageSize: 1_000 });
  const [first, second] = await Promise.all(
    [slow, quick].map(({ listUrl }) =>
      service.post({
        source: { type: 'listing', url: listUrl },
        limits: { concurrency: 4, requestsPerSecond: listUrl === quick.listUrl ? 100 : 0 },
      }),
    ),
  );
  await service.until(first!.id, ({ limitedBy }) => limitedBy === 'listing');
  // At its begin, all wait for the first page.
  await service.until(second!.id, ({ progress, limitedBy }) => progress.filesDownloaded > 600 && limitedBy === null);
  for (const job of [first, second]) await fetch(`${service.url}/jobs/${job!.id}/cancel`, { method: 'POST' });
  assert.equal((await service.ended(first!.id)).limitedBy, null);
});
