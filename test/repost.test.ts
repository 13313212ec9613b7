import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { JobRequest } from '../src/schemas.ts';
import { fileServer, type FileServer } from './helpers/file-server.ts';
import { TestService } from './helpers/service.ts';

const service = new TestService();
before(() => service.start());
after(() => service.stop());

const names = Array.from({ length: 20 }, (_, index) => `${index}.bin`);

function order(server: FileServer, path: string): JobRequest {
  return { source: { type: 'listing', url: server.listUrl }, sink: { type: 'directory', path } };
}

function bodies(of: string): Record<string, string> {
  return Object.fromEntries(names.map((name) => [name, `${name} of ${of}`]));
}

for (const path of ['same', 'deleted', 'above/below']) {
  test(`what a cancelled job has in flight never gets into the next one's folder: ${path}`, async (t) => {
    const first = await fileServer(t, { files: bodies('the first') });
    const second = await fileServer(t, { files: bodies('the second') });
    const release = first.hold(/^\/get/);
    const holdSecond = second.hold(/^\/list/);
    const { id } = await service.post(order(first, path));
    await Promise.all(names.map((name) => first.requested(first.pathOf(name))));
    const cancelled = await fetch(`${service.url}/jobs/${id}/cancel`, { method: 'POST' });
    assert.equal(cancelled.status, 202);
    if (path === 'deleted') {
      assert.equal((await fetch(`${service.url}/jobs/${id}`, { method: 'DELETE' })).status, 204);
    }
    const next = await service.post(order(second, path.split('/')[0] ?? ''));
    await second.requested('/list');
    release();
    // Whatever the first one still stores is there, and told from the second's own, before that looks.
    await service.workers();
    holdSecond();
    const job = await service.ended(next.id);
    assert.equal(job.progress.filesDownloaded, names.length);
    const folder = join(service.dataDir, path.split('/')[0] ?? '');
    const stored = readdirSync(folder).filter((name) => name.endsWith('.bin'));
    for (const name of stored) assert.equal(readFileSync(join(folder, name), 'latin1'), `${name} of the second`);
    if (path.includes('/')) assert.throws(() => readFileSync(join(service.dataDir, path, '0.bin')), { code: 'ENOENT' });
  });
}
