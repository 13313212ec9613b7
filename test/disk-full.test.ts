import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileServer } from './helpers/file-server.ts';
import { TestService } from './helpers/service.ts';

test('a job that begins on a full disk stores what it fetches once there is room', async (t) => {
  const service = new TestService({ WORKERS: '1' });
  mkdirSync(service.dataDir, { recursive: true });
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', service.dataDir], { stdio: 'pipe' });
  } catch {
    t.skip('mounting a small file system is not allowed here');
    return;
  }
  t.after(() => {
    service.killAll();
    execFileSync('umount', ['--lazy', service.dataDir]);
  });
  await service.start();
  while ((await service.workers()).length === 0);
  const filler = join(service.dataDir, 'filler');
  assert.throws(() => writeFileSync(filler, Buffer.alloc(9_000_000)), { code: 'ENOSPC' });
  const server = await fileServer(t, { files: 1_000, pageSize: 100 });
  const release = server.hold('/list?next-marker=100');
  const { id } = await service.post({
    source: { type: 'listing', url: server.listUrl },
    sink: { type: 'directory', path: 'mirror' },
  });
  await service.until(id, ({ progress }) => progress.filesFailed === 100);
  rmSync(filler);
  release();
  const job = await service.ended(id);
  assert.deepEqual(job.failures, { sink: 100 });
  assert.equal(job.progress.filesDownloaded, 900);
});
