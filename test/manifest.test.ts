import assert from 'node:assert/strict';
import { hash } from 'node:crypto';
import {
  appendFileSync,
  copyFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { Readable } from 'node:stream';
import { after, before, test, type TestContext } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { pino } from 'pino';
import { buildApp } from '../src/app.ts';
import type { FailpointName } from '../src/failpoint.ts';
import type { ManifestFile, VerifyLine } from '../src/manifest-schemas.ts';
import { signalProcess } from '../src/processes.ts';
import type { Job, JobRequest } from '../src/schemas.ts';
import { noLimiter, openConfig } from './helpers/app.ts';
import { fakeService, knownId } from './helpers/fake-service.ts';
import { fileServer, type FileServer } from './helpers/file-server.ts';
import { temporaryFolder } from './helpers/folders.ts';
import { openFiles } from './helpers/open-files.ts';
import { TestService } from './helpers/service.ts';

const failpoints = temporaryFolder();
const service = new TestService({ PAGE_LOCK_MS: '1000', GIGAFETCH_FAILPOINTS: failpoints });
before(() => service.start());
after(() => service.dispose());

type Sink = Exclude<JobRequest['sink'], undefined>;
type Summary = Extract<VerifyLine, { type: 'summary' }>;
type Finding = Extract<VerifyLine, { type: 'problem' }>;

const FILES = 600;
const documents = Object.fromEntries(
  Array.from({ length: FILES }, (_, index) => [
    `${index % 7}/ä ${index}.json`,
    JSON.stringify({ index, fill: 'x'.repeat(index === 5 ? 300_000 : index % 50) }),
  ]),
);
const names = Object.keys(documents);

const kinds: Readonly<Record<string, Sink>> = {
  directory: { type: 'directory', manifest: true },
  'directory, power': { type: 'directory', manifest: true, durability: 'power' },
  tar: { type: 'tar', shardBytes: 65_536 },
  'tar.zst': { type: 'tar', shardBytes: 65_536, compression: 'zstd' },
  'ndjson.gz': { type: 'ndjson', shardBytes: 65_536, compression: 'gzip' },
};
let paths = 0;

function pathOf(id: string): string {
  return join(service.dataDir, id);
}

/** Posts a job for all documents, in pages of 100, to a folder of its own; resolves at its end. */
async function download(server: FileServer, sink: Sink, more: Partial<JobRequest> = {}): Promise<Job> {
  const path = sink.path ?? `m${(paths += 1)}`;
  const source = { type: 'listing', url: server.listUrl } as const;
  const { id } = await service.post({ source, sink: { ...sink, path }, ...more });
  return service.ended(id);
}

/** A worker that has the job open still takes away, some time after its end, what is not of it. */
function endCleaning(): void {
  service.kill('worker');
}

function call(method: string, path: string): Promise<Response> {
  return fetch(service.url + path, { method });
}

async function linesOf<T>(answer: Response): Promise<T[]> {
  const text = await answer.text();
  assert.equal(answer.status, 200, text);
  assert.equal(answer.headers.get('content-type'), 'application/x-ndjson; charset=utf-8');
  return text
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as T);
}

async function manifestOf(id: string): Promise<ManifestFile[]> {
  return linesOf<ManifestFile>(await call('GET', `/jobs/${id}/manifest`));
}

/** What was found, without progress, and the summary. */
async function verify(id: string): Promise<{ findings: Finding[]; summary: Summary }> {
  const lines = await linesOf<VerifyLine>(await call('POST', `/jobs/${id}/verify`));
  const summary = lines.at(-1);
  assert.equal(summary?.type, 'summary');
  const findings = lines.filter((line) => line.type === 'problem');
  assert.equal(summary.problems, findings.length);
  assert.equal(summary.ok, findings.length === 0);
  return { findings, summary };
}

/** The problems as `problem path name`, and how many files were right. */
async function problemsOf({ id }: Job): Promise<string[]> {
  const { findings } = await verify(id);
  return findings.map(({ problem, path, name }) => `${problem} ${path} ${name ?? ''}`.trimEnd()).toSorted();
}

/** Each of these files once, with its true size and hash; no other. */
function expectFiles(server: FileServer, files: readonly ManifestFile[], expected: readonly string[]): void {
  assert.deepEqual(files.map(({ name }) => name).toSorted(), [...expected].toSorted());
  for (const { name, url, sizeBytes, sha256, at } of files) {
    const body = server.bodyOf(name);
    assert.deepEqual([sizeBytes, sha256], [body.length, hash('sha256', body)], name);
    assert.equal(url, server.origin + server.pathOf(name));
    assert.ok(Math.abs(Date.now() - Date.parse(at)) < 120_000);
  }
}

for (const [kind, sink] of Object.entries(kinds)) {
  test(`${kind}: the manifest has every file once, and it is as that says`, async (t) => {
    const failed = [3, 150, 599].map((index) => names[index] ?? '');
    // One twice on its page: it is one file, and counts as two.
    const listing = names.toSpliced(20, 0, names[10] ?? '');
    const server = await fileServer(t, { files: documents, listing, pageSize: 100 });
    for (const name of failed) server.fault(server.pathOf(name), { status: 404 });
    const { id, progress } = await download(server, sink);
    assert.deepEqual([progress.filesDownloaded, progress.filesFailed], [598, 3]);
    const files = await manifestOf(id);
    const stored = files.filter(({ outcome }) => outcome === 'downloaded');
    expectFiles(
      server,
      stored,
      names.filter((name) => !failed.includes(name)),
    );
    assert.deepEqual(
      stored.filter(({ listed }) => listed !== undefined).map(({ name, listed }) => [name, listed]),
      [[names[10], 2]],
    );
    for (const { shard } of stored) assert.equal(typeof shard, sink.type === 'directory' ? 'undefined' : 'string');
    const told = files.slice(-3);
    assert.deepEqual(told.map(({ name }) => name).toSorted(), failed.toSorted());
    for (const { outcome, sizeBytes, sha256, reason, statusCode } of told) {
      assert.deepEqual([outcome, sizeBytes, sha256, reason, statusCode], ['failed', null, null, 'http_status', 404]);
    }
    const { summary } = await verify(id);
    const { filesChecked, filesRight, filesInManifest, filesInJob, ok } = summary;
    assert.deepEqual([ok, filesChecked, filesRight, filesInManifest, filesInJob], [true, 597, 597, 598, 598]);
  });

  test(`${kind}: what a retry fetches comes into the manifest, and leaves the failed ones`, async (t) => {
    const server = await fileServer(t, { files: documents, pageSize: 100 });
    const restore = server.fault((path) => path.endsWith('7.json'), { status: 404 });
    const { id, progress } = await download(server, sink);
    assert.equal(progress.filesFailed, 60);
    restore();
    await call('POST', `/jobs/${id}/retry`);
    assert.equal((await service.ended(id)).state, 'completed');
    expectFiles(server, await manifestOf(id), names);
    assert.deepEqual((await verify(id)).findings, []);
  });
}

function arm(point: FailpointName, signal: NodeJS.Signals): void {
  writeFileSync(join(failpoints, point), signal);
}

/** The process that came by an armed point. */
async function taken(t: TestContext, point: FailpointName): Promise<number> {
  while (!t.signal.aborted) {
    const name = readdirSync(failpoints).find((name) => name.startsWith(`${point}.`));
    if (name !== undefined) {
      unlinkSync(join(failpoints, name));
      return Number(name.slice(point.length + 1));
    }
    await service.workers();
  }
  return 0;
}

for (const point of ['written', 'fetched', 'sealed', 'published'] as const) {
  test(`a worker killed when a step is "${point}" leaves a manifest with each file once`, async (t) => {
    const server = await fileServer(t, { files: documents, pageSize: 50, latencyMs: 1 });
    arm(point, 'SIGKILL');
    const job = await download(server, kinds['directory'] as Sink);
    await taken(t, point);
    assert.deepEqual([job.state, job.progress.filesDownloaded], ['completed', FILES]);
    expectFiles(server, await manifestOf(job.id), names);
    assert.deepEqual((await verify(job.id)).findings, []);
  });
}

for (const point of ['written', 'fetched', 'sealed'] as const) {
  test(`a worker that slept while others did its page changes nothing: ${point}`, async (t) => {
    const server = await fileServer(t, { files: documents, pageSize: 50, latencyMs: 1 });
    arm(point, 'SIGSTOP');
    const job = await download(server, kinds['directory'] as Sink);
    const sleeper = await taken(t, point);
    expectFiles(server, await manifestOf(job.id), names);
    signalProcess(sleeper, 'SIGCONT');
    const made = join(pathOf(job.sink.path ?? ''), '.gigafetch/manifests/made');
    await service.until(job.id, () => readdirSync(made).length === 0);
    while ((await service.workers()).length < 2 && !t.signal.aborted);
    assert.equal(job.progress.filesDownloaded, FILES);
    expectFiles(server, await manifestOf(job.id), names);
    assert.deepEqual((await verify(job.id)).findings, []);
  });
}

test('a file that was there before is told with its size, unread, and compared by that', async (t) => {
  const server = await fileServer(t, { files: documents });
  const sink = { ...kinds['directory'], path: 'before' } as Sink;
  const [old = '', gone = '', ...others] = names;
  for (const name of [old, gone]) {
    mkdirSync(dirname(join(pathOf('before'), name)), { recursive: true });
    writeFileSync(join(pathOf('before'), name), 'older');
  }
  const job = await download(server, sink);
  assert.equal(job.progress.filesSkipped, 2);
  const files = await manifestOf(job.id);
  expectFiles(
    server,
    files.filter(({ outcome }) => outcome === 'downloaded'),
    others,
  );
  const skipped = files.filter(({ outcome }) => outcome === 'skipped');
  assert.deepEqual(
    skipped.map(({ name, sizeBytes, sha256 }) => `${name} ${sizeBytes} ${sha256}`).toSorted(),
    [old, gone].map((name) => `${name} 5 null`).toSorted(),
  );
  writeFileSync(join(pathOf('before'), old), 'newer');
  unlinkSync(join(pathOf('before'), gone));
  assert.deepEqual(await problemsOf(job), [`missing ${gone} ${gone}`]);
});

function etagOf(name: string): Record<string, string> {
  return { etag: `"${hash('md5', name)}"` };
}

test('what the server says is not modified is told as skipped', async (t) => {
  const server = await fileServer(t, { files: documents, validators: etagOf });
  const order = { existing: 'update' } as const;
  const sink = { ...kinds['directory'], path: 'updated' } as Sink;
  const first = await download(server, sink, order);
  const second = await download(server, sink, order);
  assert.equal(second.progress.filesSkipped, FILES);
  const files = await manifestOf(second.id);
  assert.deepEqual(files.map(({ name }) => name).toSorted(), names.toSorted());
  for (const { name, outcome, sizeBytes, sha256 } of files) {
    assert.deepEqual([outcome, sizeBytes, sha256], ['skipped', server.bodyOf(name).length, null]);
  }
  for (const { id } of [first, second]) assert.deepEqual((await verify(id)).findings, []);
});

test('directory: whatever was changed is found, and nothing else', async (t) => {
  const server = await fileServer(t, { files: documents, pageSize: 100 });
  const job = await download(server, kinds['directory'] as Sink);
  const root = pathOf(job.sink.path ?? '');
  const [longer = '', other = '', gone = '', folder = '', out = ''] = names;
  // The clock of a file system goes in ticks of some milliseconds: what is changed now might seem older than the end.
  const tick = pathOf('tick');
  do writeFileSync(tick, '');
  while (statSync(tick).ctimeMs <= Date.parse(job.finishedAt ?? ''));
  appendFileSync(join(root, longer), 'x');
  writeFileSync(join(root, other), Buffer.from(documents[other]?.replace('index', 'xedni') ?? ''));
  for (const name of [gone, folder, out]) unlinkSync(join(root, name));
  mkdirSync(join(root, folder));
  const secret = join(temporaryFolder(), 'secret');
  writeFileSync(secret, documents[out] ?? '');
  symlinkSync(secret, join(root, out));
  const { findings, summary } = await verify(job.id);
  assert.deepEqual(
    findings.map(({ problem, name, files }) => `${problem} ${name} ${files}`).toSorted(),
    [
      `checksum ${other} 1`,
      `missing ${gone} 1`,
      `size ${longer} 1`,
      `unreadable ${folder} 1`,
      `unreadable ${out} 1`,
    ].toSorted(),
  );
  assert.equal(summary.filesRight, FILES - 5);
  for (const { message } of findings.filter(({ problem }) => problem === 'checksum' || problem === 'size')) {
    assert.match(message, /changed at .*, after the end of the job$/);
  }
});

test('directory: a manifest that was damaged itself is told of', async (t) => {
  const server = await fileServer(t, { files: documents, pageSize: 100 });
  const job = await download(server, kinds['directory'] as Sink);
  const folder = `.gigafetch/manifests/${job.id}/`;
  const file = (seq: number): string => join(pathOf(job.sink.path ?? ''), folder, `0000000${seq}.ndjson`);
  endCleaning();
  unlinkSync(file(2));
  copyFileSync(file(1), file(8));
  assert.deepEqual(await problemsOf(job), ['count null', `stray ${folder}00000008.ndjson`]);
  copyFileSync(file(1), file(2));
  const lines = readFileSync(file(1), 'utf8').replace('"sizeBytes"', '"sizebytes"');
  writeFileSync(file(1), lines);
  unlinkSync(file(8));
  assert.deepEqual(await problemsOf(job), [`index ${folder}00000001.ndjson`]);
  truncateSync(file(2), 1000);
  assert.deepEqual(await problemsOf(job), [`index ${folder}00000001.ndjson`, `index ${folder}00000002.ndjson`]);
  // What is there goes out as it is.
  assert.equal((await call('GET', `/jobs/${job.id}/manifest`)).status, 200);
});

test('files that a later job replaced are told of', async (t) => {
  const server = await fileServer(t, { files: documents });
  const first = await download(server, { ...kinds['directory'], path: 'replaced' } as Sink);
  const changed = Object.fromEntries(names.slice(0, 3).map((name) => [name, documents[name]?.replace('i', 'j') ?? '']));
  const later = await fileServer(t, { files: changed });
  const second = await download(later, { ...kinds['directory'], path: 'replaced' } as Sink, { existing: 'overwrite' });
  assert.deepEqual(await problemsOf(second), []);
  assert.deepEqual(
    await problemsOf(first),
    names
      .slice(0, 3)
      .map((name) => `checksum ${name} ${name}`)
      .toSorted(),
  );
});

function isIndex(name: string): boolean {
  return name.includes('.index');
}

function told(findings: readonly Finding[]): string[] {
  return findings.map(({ problem, path }) => `${problem} ${path}`);
}

async function refusal(method: string, path: string): Promise<string> {
  const answer = await call(method, path);
  assert.equal(answer.status, 409);
  assert.match(answer.headers.get('content-type') ?? '', /^application\/problem\+json/);
  return ((await answer.json()) as { detail: string }).detail;
}

function callsFor(id: string): [string, string][] {
  return [
    ['GET', `/jobs/${id}/manifest`],
    ['POST', `/jobs/${id}/verify`],
  ];
}

/** Changes one byte. */
function flip(path: string, at: number): void {
  const bytes = readFileSync(path);
  bytes[at] = (bytes[at] ?? 0) ^ 1;
  writeFileSync(path, bytes);
}

for (const [kind, sink] of Object.entries(kinds).filter(([, { type }]) => type !== 'directory')) {
  test(`${kind}: whatever was changed is found, and nothing else`, async (t) => {
    const server = await fileServer(t, { files: documents, pageSize: 100 });
    const job = await download(server, sink);
    const root = pathOf(job.sink.path ?? '');
    const all = readdirSync(root).filter((name) => name.startsWith(job.id));
    const [shard = '', second = ''] = all.filter((name) => !isIndex(name)).toSorted();
    const [index = ''] = all.filter(isIndex).toSorted();
    const kept = new Map(all.map((name) => [name, readFileSync(join(root, name))]));
    const inShard = new Set((await manifestOf(job.id)).filter((file) => file.shard === shard).map(({ name }) => name));
    const restore = (): void => kept.forEach((bytes, name) => writeFileSync(join(root, name), bytes));
    const after = async (change: () => void): Promise<Finding[]> => {
      change();
      const { findings } = await verify(job.id);
      restore();
      return findings;
    };

    assert.deepEqual(await after(() => {}), []);
    assert.deepEqual(told(await after(() => unlinkSync(join(root, index)))), [`missing ${index}`]);
    const [gone] = await after(() => unlinkSync(join(root, shard)));
    assert.deepEqual([gone?.problem, gone?.path, gone?.files], ['missing', shard, inShard.size]);
    const unlinkBoth = (): void => [shard, index].forEach((name) => unlinkSync(join(root, name)));
    const both = await after(unlinkBoth);
    assert.deepEqual(
      both.map(({ problem, files }) => [problem, files]),
      [['count', inShard.size]],
    );
    unlinkBoth();
    assert.equal((await manifestOf(job.id)).length, FILES - inShard.size);
    restore();
    endCleaning();
    const stray = shard.replace(`${job.id}-00000000`, `${job.id}-00000099`);
    const added = await after(() => copyFileSync(join(root, shard), join(root, stray)));
    unlinkSync(join(root, stray));
    assert.deepEqual(told(added), [`stray ${stray}`]);

    const size = kept.get(shard)?.length ?? 0;
    for (const at of [600, Math.floor(size / 2), size - 30]) {
      const findings = await after(() => flip(join(root, shard), at));
      assert.ok(findings.length > 0, `the byte at ${at} of ${size}`);
      for (const { path, problem, name } of findings) {
        assert.equal(path, shard);
        assert.match(problem, /^(checksum|damaged|unlisted)$/);
        assert.ok(name === null || inShard.has(name));
      }
    }
    const short = await after(() => truncateSync(join(root, shard), Math.floor(size / 2)));
    assert.deepEqual(told(short), [`damaged ${shard}`]);
    assert.ok((short[0]?.files ?? 0) > 0);
    for (const at of [30, 100]) {
      const findings = await after(() => flip(join(root, index), at));
      assert.ok(findings.length > 0, `the byte at ${at} of the index`);
    }
    const swapped = await after(() => copyFileSync(join(root, second), join(root, shard)));
    assert.ok(swapped.length > 0);
    for (const { path } of swapped) assert.ok(path === shard || path === index);
  });
}

test('a member that the index does not have is found', async (t) => {
  const server = await fileServer(t, { files: documents });
  const job = await download(server, kinds['tar'] as Sink);
  const root = pathOf(job.sink.path ?? '');
  const index = join(root, readdirSync(root).find((name) => name.endsWith('.index')) ?? '');
  const lines = readFileSync(index, 'utf8').trimEnd().split('\n');
  for (const at of [0, 7, lines.length - 1]) {
    writeFileSync(index, `${lines.toSpliced(at, 1).join('\n')}\n`);
    const { findings } = await verify(job.id);
    assert.deepEqual(
      findings.map(({ problem }) => problem),
      ['unlisted', 'count'],
    );
  }
});

test('a job without a manifest, one that runs, and one whose files are elsewhere are refused, with the remedy', async (t) => {
  const server = await fileServer(t, { files: documents });
  const plain = await download(server, { type: 'directory' });
  const dry = await download(server, { type: 'tar' }, { dryRun: true });
  for (const [method, path] of callsFor(plain.id)) assert.match(await refusal(method, path), /sink\.manifest/);
  for (const [method, path] of callsFor(dry.id)) assert.match(await refusal(method, path), /dry run/);

  const kept = await download(server, kinds['directory'] as Sink);
  const idFile = join(service.dataDir, '.gigafetch/folder/id');
  const dataId = readFileSync(idFile);
  writeFileSync(idFile, '5b0e4f8e-6f0c-4d36-9d0c-3f1c8e1f2a77');
  t.after(() => writeFileSync(idFile, dataId));
  for (const [method, path] of callsFor(kept.id)) assert.match(await refusal(method, path), /DATA_DIR/);
  writeFileSync(idFile, dataId);

  const slow = await fileServer(t, { files: documents, pageSize: 100 });
  const release = slow.hold(slow.pathOf(names[250] ?? ''));
  const { id } = await service.post({
    source: { type: 'listing', url: slow.listUrl },
    sink: { ...kinds['directory'], path: 'running' } as Sink,
  });
  await service.until(id, ({ progress }) => progress.pagesDone > 0);
  assert.match(await refusal('POST', `/jobs/${id}/verify`), /running/);
  // What is there so far, page by page.
  const soFar = await manifestOf(id);
  const pageOf = (name: string): number => Math.floor(names.indexOf(name) / 100);
  const pages = new Set(soFar.map(({ name }) => pageOf(name)));
  assert.ok(pages.size > 0 && !pages.has(2));
  expectFiles(
    slow,
    soFar,
    names.filter((name) => pages.has(pageOf(name))),
  );
  release();
  await service.ended(id);
  expectFiles(slow, await manifestOf(id), names);
  for (const method of ['GET', 'POST'] as const) {
    const path = `/jobs/019a9f3c-6c2e-7d4b-9f60-000000000000/${method === 'GET' ? 'manifest' : 'verify'}`;
    assert.equal((await call(method, path)).status, 404);
  }
});

test('two verifications at a time, no more; one ends when its caller goes away, and others are served meanwhile', async (t) => {
  const server = await fileServer(t, { files: { large: 'x', small: 'y' } });
  const job = await download(server, kinds['directory'] as Sink);
  const root = pathOf(job.sink.path ?? '');
  // Holes take no memory, and as long to read as anything.
  const bytes = 64 * 1024 ** 3;
  truncateSync(join(root, 'large'), bytes);
  const manifest = join(root, `.gigafetch/manifests/${job.id}/00000000.ndjson`);
  const lines = readFileSync(manifest, 'utf8');
  writeFileSync(manifest, lines.replace(/("name":"large".*?"sizeBytes":)1,/, `$1${bytes},`));
  const begin = async (): Promise<{ status: number; progress: () => Promise<string>; leave: () => void }> => {
    const leave = new AbortController();
    t.after(() => leave.abort());
    const answer = await fetch(`${service.url}/jobs/${job.id}/verify`, { method: 'POST', signal: leave.signal });
    const reader = answer.body?.pipeThrough(new TextDecoderStream()).getReader();
    return {
      status: answer.status,
      progress: async () => (await reader?.read())?.value ?? '',
      leave: () => leave.abort(),
    };
  };
  const running = [await begin(), await begin()];
  assert.match((await running[0]?.progress()) ?? '', /^\{"type":"progress","filesChecked":2,"bytesRead":\d+\}\n$/);
  const refused = await call('POST', `/jobs/${job.id}/verify`);
  assert.deepEqual([refused.status, refused.headers.get('retry-after')], [429, '10']);
  for (let calls = 0; calls < 50; calls += 1) assert.equal((await call('GET', `/jobs/${job.id}`)).status, 200);
  assert.match((await running[1]?.progress()) ?? '', /progress/);
  assert.equal(readersOf(join(root, 'large')), 2);
  running[0]?.leave();
  while (readersOf(join(root, 'large')) > 1 && !t.signal.aborted) await nextTurn();
  assert.equal(readersOf(join(root, 'large')), 1);
  let again = await begin();
  while (again.status === 429 && !t.signal.aborted) again = await begin();
  assert.equal(again.status, 200);
  assert.match(await again.progress(), /progress/);
  // With two that still run.
  assert.equal(await service.stop(), 0);
  rmSync(join(root, 'large'));
  await service.start();
});

/** How often the API has a file open. */
function readersOf(path: string): number {
  return openFiles(service.pids('api')[0] ?? 0).filter((open) => open === path).length;
}

test('a manifest is read no faster than its reader takes it, and not at all once that is gone', async (t) => {
  const piece = `${'x'.repeat(65_535)}\n`;
  let pieces = 0;
  const ended = Promise.withResolvers<void>();
  async function* all(): AsyncGenerator<string> {
    try {
      for (; pieces < 10_000; pieces += 1) yield piece;
    } finally {
      ended.resolve();
    }
  }
  const fake = fakeService({ manifest: async () => Readable.from(all(), { highWaterMark: 2 }) });
  const app = buildApp({ config: openConfig, service: fake, limiter: noLimiter, logger: pino({ level: 'silent' }) });
  t.after(async () => {
    // The client keeps one for its next call.
    app.server.closeAllConnections();
    await app.close();
  });
  const url = await app.listen({ port: 0 });
  const gone = new AbortController();
  const answer = await fetch(`${url}/jobs/${knownId}/manifest`, { signal: gone.signal });
  await answer.body?.getReader().read();
  for (let calls = 0; calls < 200; calls += 1) assert.equal((await fetch(`${url}/jobs/${knownId}`)).status, 200);
  assert.ok(pieces < 1000, `${pieces} pieces were made`);
  gone.abort();
  await ended.promise;
});
