import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { test, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { waitingReason } from '../jobs/waiting.ts';
import { dataIdOf } from '../src/data-id.ts';
import { StartError } from '../src/errors.ts';
import { fileServer, type FileServer } from './helpers/file-server.ts';
import { temporaryFolder } from './helpers/folders.ts';
import { startTestRedis } from './helpers/redis.ts';
import { startProcess, type ServiceProcess } from './helpers/service-process.ts';
import { TestService } from './helpers/service.ts';

const script = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
const FILES = 256;

test('of many processes that come to a new folder at once all get the same id, and it stays', async () => {
  const dataDir = temporaryFolder();
  const program = `
    import { dataIdOf } from ${JSON.stringify(script('../src/data-id.ts'))};
    process.stdout.write('ready ');
    await new Promise((resolve) => process.stdin.once('data', resolve));
    process.stdout.write(dataIdOf(process.argv[1]));
    process.exit();`;
  const processes = Array.from({ length: 6 }, () =>
    spawn(process.execPath, ['--input-type=module', '-e', program, dataDir], { stdio: ['pipe', 'pipe', 'inherit'] }),
  );
  const said = processes.map((each) => text(each.stdout));
  await Promise.all(processes.map((each) => once(each.stdout, 'readable')));
  for (const each of processes) each.stdin.write('go');
  const ids = (await Promise.all(said)).map((line) => line.slice('ready '.length));
  assert.equal(new Set(ids).size, 1);
  assert.match(ids[0] ?? '', /^[\da-f]{8}-/);
  assert.equal(dataIdOf(dataDir), ids[0]);
  assert.deepEqual(readdirSync(join(dataDir, '.gigafetch')), ['folder']);
  assert.deepEqual(readdirSync(join(dataDir, '.gigafetch', 'folder')), ['id']);
});

test('a folder that cannot have an id, or holds none where it should, ends the start with one line', () => {
  const dataDir = temporaryFolder();
  mkdirSync(join(dataDir, '.gigafetch', 'folder'), { recursive: true });
  writeFileSync(join(dataDir, '.gigafetch', 'folder', 'id'), '');
  assert.throws(
    () => dataIdOf(dataDir),
    (error) => error instanceof StartError && /folder\/id holds no id: write/.test(error.message),
  );
  const file = join(dataDir, 'file');
  writeFileSync(file, '');
  assert.throws(
    () => dataIdOf(file),
    (error) => error instanceof StartError && /cannot be used \(ENOTDIR\)/.test(error.message),
  );
});

test('a job waits for a worker, or for one that has its folder, only while it runs', () => {
  const folders = ['a', '10000', 'b', '4000'];
  const reason = (state: string, dataId?: string): string | null =>
    waitingReason({ state, ...(dataId === undefined ? {} : { dataId }) }, folders, 10_000);
  assert.equal(reason('running', 'a'), null);
  assert.equal(reason('queued'), null);
  assert.equal(reason('running', 'b'), 'data_dir');
  assert.equal(reason('paused', 'b'), null);
  assert.equal(waitingReason({ state: 'queued' }, folders, 20_000), 'no_worker');
  assert.equal(waitingReason({ state: 'completed' }, folders, 20_000), null);
});

/** An API, a Redis and a file server; and workers on folders of their own. */
async function begin(t: TestContext): Promise<{
  service: TestService;
  server: FileServer;
  worker: (dataDir: string) => ServiceProcess;
  post: (path: string) => Promise<string>;
}> {
  const redis = await startTestRedis();
  t.after(() => redis.stop());
  const service = new TestService({ WORKERS: '0', REDIS_URL: redis.url });
  t.after(() => service.dispose());
  await service.start();
  const server = await fileServer(t, { files: FILES, pageSize: 128 });
  return {
    service,
    server,
    worker: (dataDir) => {
      const environment = { REDIS_URL: redis.url, DATA_DIR: dataDir, STATE_DIR: service.stateDir };
      const started = startProcess(script('../src/worker.ts'), { ...environment, ALLOWED_NETWORKS: '127.0.0.0/8' });
      t.after(() => started.process.kill('SIGKILL'));
      return started;
    },
    post: async (path) => {
      const source = { type: 'listing', url: server.listUrl } as const;
      return (await service.post({ source, sink: { type: 'directory', path } })).id;
    },
  };
}

/** The names of what a job stored in a folder; null where it never opened its sink there. */
function stored(dataDir: string, path: string): string[] | null {
  if (!existsSync(join(dataDir, path))) return null;
  return readdirSync(join(dataDir, path)).filter((name) => name !== '.gigafetch');
}

test('workers with another folder leave a job to those with its own, and the job says when none of them is left', async (t) => {
  const { service, server, worker, post } = await begin(t);
  const [right, wrong] = [temporaryFolder(), temporaryFolder()];
  const id = await post('mirror');
  assert.equal((await service.until(id, ({ waitingReason }) => waitingReason !== null)).waitingReason, 'no_worker');

  const release = server.hold('/get/100.bin');
  const first = worker(right);
  await server.requested('/get/100.bin');
  first.process.kill('SIGTERM');
  await first.ended;
  release();
  const dataId = readFileSync(join(right, '.gigafetch', 'folder', 'id'), 'utf8').trim();

  const other = worker(wrong);
  const line = await other.line((line) => (line['jobDataId'] === undefined ? undefined : line));
  assert.equal(line['job'], id);
  assert.equal(line['jobDataId'], dataId);
  for (const said of [right, wrong, 'end this worker']) assert.ok(String(line['msg']).includes(said), said);
  const waiting = await service.until(id, ({ waitingReason }) => waitingReason === 'data_dir');
  assert.equal(waiting.state, 'running');
  assert.equal(waiting.dataId, dataId);
  assert.deepEqual(
    (await service.workers()).map((each) => each.dataId),
    [line['dataId']],
  );
  assert.equal(stored(wrong, 'mirror'), null);

  worker(right);
  const job = await service.ended(id);
  assert.equal(job.state, 'completed');
  assert.equal(job.waitingReason, null);
  assert.equal(job.progress.filesDownloaded, FILES);
  assert.equal(stored(right, 'mirror')?.length, FILES);
  assert.equal(stored(wrong, 'mirror'), null);
});

test('with workers on two folders each job goes whole to one of them', async (t) => {
  const { service, worker, post } = await begin(t);
  const folders = [temporaryFolder(), temporaryFolder()];
  for (const folder of folders) worker(folder);
  while ((await service.workers()).length < 2 && !t.signal.aborted) await sleep(25);
  const paths = ['a', 'b', 'c'];
  const ids = await Promise.all(paths.map(post));
  for (const [index, path] of paths.entries()) {
    const job = await service.ended(ids[index] ?? '');
    assert.equal(job.state, 'completed');
    assert.equal(job.progress.filesDownloaded, FILES);
    const [one, two] = folders.map((folder) => stored(folder, path));
    assert.ok((one === null) !== (two === null), path);
    assert.equal((one ?? two)?.length, FILES);
    assert.ok(folders.some((folder) => dataIdOf(folder) === job.dataId && stored(folder, path) !== null));
  }
});
