import assert from 'node:assert/strict';
import { linkSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test, type TestContext } from 'node:test';
import type { Job, JobRequest } from '../src/schemas.ts';
import { fileServer, type FileServer, type FileServerOptions } from './helpers/file-server.ts';
import { temporaryFolder } from './helpers/folders.ts';
import { TestService } from './helpers/service.ts';

const failpoints = temporaryFolder();
const service = new TestService({ GIGAFETCH_FAILPOINTS: failpoints, PAGE_LOCK_MS: '500' });
before(() => service.start());
after(() => service.stop());

const hour = 3_600_000;
const names = Array.from({ length: 20 }, (_, index) => `${index % 3}/file ${index}`);
let paths = 0;

/** A server whose files may change, and a folder to fetch them into. */
async function place(t: TestContext, options: Partial<FileServerOptions> = {}) {
  const files = Object.fromEntries(names.map((name) => [name, `${name} of before`]));
  const server = await fileServer(t, { files, pageSize: 7, ...options });
  const path = `update-${(paths += 1)}`;
  const stored = (name: string): string => readFileSync(join(service.dataDir, path, name), 'utf8');
  return { files, server, path, stored };
}

/** One job to its end, and what it asked for each file: the condition, or "" for none. */
async function run(server: FileServer, path: string, more: Partial<JobRequest> = {}) {
  const from = server.requests.length;
  const source = { type: 'listing', url: server.listUrl } as const;
  const order: JobRequest = { source, sink: { type: 'directory', path }, existing: 'update', ...more };
  const job = await service.ended((await service.post(order)).id);
  assert.equal(job.state, 'completed', JSON.stringify(job.failures));
  const asked: Record<string, string> = {};
  for (const { path, headers } of server.requests.slice(from)) {
    if (path.startsWith('/list')) continue;
    asked[decodeURIComponent(path.slice('/get/'.length))] =
      headers['if-none-match'] ?? headers['if-modified-since'] ?? '';
  }
  return { job, asked };
}

const withSizes = ({ listUrl }: FileServer): JobRequest['source'] => {
  return { type: 'listing', url: listUrl, nameField: '/name', sizeField: '/size' };
};
const counted = ({ progress: { filesDownloaded, filesSkipped, bytesDownloaded } }: Job) => ({
  filesDownloaded,
  filesSkipped,
  bytesDownloaded,
});
const allSkipped = { filesDownloaded: 0, filesSkipped: names.length, bytesDownloaded: 0 };
const tagged = () => ({ etag: '"1"' });
const each = (value: string) => Object.fromEntries(names.map((name) => [name, value]));

test('what changed is fetched, by ETag, also where its size is the same; nothing else is', async (t) => {
  const tags = each('"1"');
  const { files, server, path, stored } = await place(t, { validators: (name) => ({ etag: tags[name] ?? '' }) });
  assert.deepEqual((await run(server, path)).asked, each(''));
  const unchanged = await run(server, path);
  assert.deepEqual(unchanged.asked, each('"1"'));
  assert.deepEqual(counted(unchanged.job), allSkipped);

  const [name = ''] = names;
  files[name] = `${name} of behind`;
  tags[name] = 'W/"2"';
  const changed = await run(server, path);
  assert.deepEqual(counted(changed.job), {
    filesDownloaded: 1,
    filesSkipped: names.length - 1,
    bytesDownloaded: files[name].length,
  });
  assert.equal(stored(name), files[name]);
  assert.deepEqual((await run(server, path)).asked, { ...each('"1"'), [name]: 'W/"2"' });
});

for (const [clock, aheadMs] of [
  ['right', 0],
  ['a day behind', -24 * hour],
  ['a day ahead', 24 * hour],
] as const) {
  const now = (): number => Date.now() + aheadMs;
  test(`by its date, where the clock of the server is ${clock}`, async (t) => {
    let modified = new Date(now() - hour).toUTCString();
    const validators = () => ({ date: new Date(now()).toUTCString(), 'last-modified': modified });
    const { files, server, path, stored } = await place(t, { validators });
    await run(server, path);
    const unchanged = await run(server, path);
    assert.deepEqual(unchanged.asked, each(modified));
    assert.deepEqual(counted(unchanged.job), allSkipped);

    // Replaced by something older, which the server itself takes for unmodified; then just now. All of one size.
    for (const at of [now() - 2 * hour, now()]) {
      modified = new Date(at).toUTCString();
      for (const name of names) files[name] = `${name} ${at}`.padEnd(30);
      await run(server, path);
      for (const name of names) assert.equal(stored(name), files[name]);
    }
  });
}

test('a date that is too new, or none at all, is not asked by: such a file is fetched each time', async (t) => {
  const now = new Date().toUTCString();
  for (const validators of [
    () => ({ date: now, 'last-modified': now }),
    () => ({ 'last-modified': now }),
    () => ({}),
  ]) {
    const { server, path } = await place(t, { validators });
    await run(server, path);
    const { job, asked } = await run(server, path);
    assert.deepEqual(asked, each(''));
    assert.equal(job.progress.filesDownloaded, names.length);
  }
});

test('a server that knows no conditions sends everything again', async (t) => {
  const { server, path } = await place(t, { validators: tagged, conditions: false });
  await run(server, path);
  const { job, asked } = await run(server, path);
  assert.deepEqual(asked, each('"1"'));
  assert.equal(job.progress.filesDownloaded, names.length);
});

test('what another kind of job stored, or came from elsewhere, is fetched once, without a condition', async (t) => {
  const { server, path } = await place(t, { validators: tagged });
  await run(server, path, { existing: 'skip' });
  assert.deepEqual((await run(server, path)).asked, each(''));
  assert.deepEqual(counted((await run(server, path)).job), allSkipped);
  await run(server, path, { existing: 'overwrite' });
  assert.deepEqual((await run(server, path)).asked, each(''));

  const other = await place(t, { validators: tagged });
  const moved = await run(other.server, path);
  assert.deepEqual(moved.asked, each(''));
  assert.equal(moved.job.progress.filesDownloaded, names.length);
});

test('redirects take the condition along, to other origins too', async (t) => {
  const { server, path } = await place(t, { validators: tagged });
  const front = await fileServer(t, { files: names });
  for (const name of names) {
    front.fault(front.pathOf(name), { status: 302, headers: { location: server.origin + server.pathOf(name) } });
  }
  await run(front, path);
  assert.deepEqual(counted((await run(front, path)).job), allSkipped);
  assert.equal(server.count(server.pathOf(names[0] ?? '')), 2);
});

test('where the listing tells sizes, they alone decide', async (t) => {
  const { files, server, path, stored } = await place(t, { items: 'objects', validators: tagged });
  const source = withSizes(server);
  await run(server, path, { source });
  const [same = '', other = ''] = names;
  files[same] = `${same} of behind`;
  files[other] = 'of another size';
  const { job, asked } = await run(server, path, { source });
  assert.deepEqual(asked, { [other]: '' });
  assert.deepEqual(counted(job), { filesDownloaded: 1, filesSkipped: names.length - 1, bytesDownloaded: 15 });
  assert.equal(stored(other), files[other]);
});

test('a kill between storing a file and noting its ETag never leads to an old file that is taken for new', async (t) => {
  let tag = '"1"';
  const { files, server, path, stored } = await place(t, { validators: () => ({ etag: tag }) });
  await run(server, path);
  tag = '"2"';
  for (const name of names) files[name] = `${name} of behind`;
  writeFileSync(join(failpoints, 'stored'), 'SIGKILL');
  const killed = await run(server, path);
  assert.equal(
    killed.job.progress.filesDownloaded,
    names.length,
    'one that was stored before the kill is this job’s too',
  );
  for (const name of names) assert.equal(stored(name), files[name]);

  // The server goes back to what it had when the notes that are there now were written.
  tag = '"1"';
  for (const name of names) files[name] = `${name} of before`;
  const { asked } = await run(server, path);
  assert.deepEqual(Object.values(asked).filter((condition) => condition === '').length, 1, 'the file without a note');
  assert.ok(!Object.values(asked).includes('"1"'));
  for (const name of names) assert.equal(stored(name), files[name]);
});

test('a second run over 100,000 files whose sizes are listed asks for none of them', async (t) => {
  const count = 100_000;
  const { server, path } = await place(t, {
    files: count,
    fileBytes: 8,
    pageSize: 1000,
    items: 'objects',
    keepLog: false,
  });
  const folder = join(service.dataDir, path);
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, '0.bin'), '8 bytes.');
  for (let index = 1; index < count; index += 1) linkSync(join(folder, '0.bin'), join(folder, `${index}.bin`));
  const source = withSizes(server);
  const { job } = await run(server, path, { source });
  assert.equal(job.progress.filesSkipped, count);
  assert.equal(server.count(), count / 1000, 'only its pages');
});
