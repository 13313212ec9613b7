import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { JobRequest } from '../src/schemas.ts';
import { signalProcess } from '../src/processes.ts';
import { startProcess } from './helpers/service-process.ts';
import { fileServer, type FileServer } from './helpers/file-server.ts';
import { TestService } from './helpers/service.ts';

const SMALL = 'small.bin';
const LARGE = 'large.bin';

function files(of: string): Record<string, Uint8Array> {
  return { [SMALL]: Buffer.from(of), [LARGE]: Buffer.alloc(200_000, of) };
}

function order(server: FileServer): JobRequest {
  return {
    source: { type: 'listing', url: server.listUrl },
    sink: { type: 'directory', path: 'x' },
    existing: 'overwrite',
  };
}

test('a worker that slept through its lease stores nothing of what arrived meanwhile', async (t) => {
  const service = await new TestService({ PAGE_LOCK_MS: '500', WORKERS: '1' }).start();
  t.after(() => service.killAll());
  const first = await fileServer(t, { files: files('first') });
  const second = await fileServer(t, { files: files('second') });
  const release = first.hold(/^\/get/);
  const { id } = await service.post(order(first));
  await Promise.all([SMALL, LARGE].map((name) => first.requested(first.pathOf(name))));
  const [sleeper = 0] = service.pids('worker');
  signalProcess(sleeper, 'SIGSTOP');
  t.after(() => signalProcess(sleeper, 'SIGCONT'));
  release();
  assert.equal((await fetch(`${service.url}/jobs/${id}/cancel`, { method: 'POST' })).status, 202);
  const other = startProcess(fileURLToPath(new URL('../src/worker.ts', import.meta.url)), {
    REDIS_URL: join(service.stateDir, 'redis/redis.sock'),
    DATA_DIR: service.dataDir,
    STATE_DIR: service.stateDir,
    ALLOWED_NETWORKS: '127.0.0.0/8',
  });
  t.after(() => other.process.kill('SIGKILL'));
  // Accepted once the sleeper's lease is over.
  const next = await service.post(order(second));
  assert.equal((await service.ended(next.id)).progress.filesDownloaded, 2);
  while ((await service.workers()).length > 1 && !t.signal.aborted);
  signalProcess(sleeper, 'SIGCONT');
  while ((await service.workers()).length < 2 && !t.signal.aborted);
  for (const [name, body] of Object.entries(files('second'))) {
    assert.deepEqual(
      readFileSync(join(service.dataDir, 'x', name))
        .subarray(0, 6)
        .toString(),
      body.subarray(0, 6).toString(),
    );
  }
});
