import assert from 'node:assert/strict';
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { processesIn } from './bench/janitor.ts';
import type { Results } from './bench/results.ts';
import { asMarkdown, mainTable, roleTable } from './bench/tables.ts';
import { compile } from './bench/tools.ts';
import { filesBelow, memoryDir, temporaryFolder } from './helpers/folders.ts';

const linux = process.platform === 'linux' ? false : 'it reads /proc';

/** Starts the bench at its smallest, with what needs nothing installed. */
function startBench(t: TestContext, ...more: string[]): ChildProcess & { stdout: NodeJS.ReadableStream } {
  const script = fileURLToPath(new URL('bench/bench.ts', import.meta.url));
  const args = [script, '--files', '300', '--rounds', '1', '--workers', '1', '--server', 'node', ...more];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => child.kill('SIGTERM'));
  return child;
}

/** The folder of a bench while there is one. */
function folderOf({ pid }: ChildProcess): string | undefined {
  const name = readdirSync(memoryDir()).find((name) => name.startsWith(`gigafetch-bench-${pid}-`));
  return name === undefined ? undefined : join(memoryDir(), name);
}

test('the bench runs its rows, checks them, and tells all that the report needs', { skip: linux }, async (t) => {
  const bench = startBench(t, '--only', 'directory,tar,dispatch-rename-2,fetch', '--json');
  const [out, [code]] = await Promise.all([text(bench.stdout), once(bench, 'exit')]);
  assert.equal(code, 0);
  const results = JSON.parse(out) as Results;
  assert.ok(results.machine.cores > 0 && results.settings.fileSystem !== '' && results.versions.node);
  const shape = results.rows.map(({ id, missing, failed, runs }) => [id, missing, failed, runs.length]);
  assert.deepEqual(
    shape,
    ['directory', 'tar', 'dispatch-rename-2', 'fetch'].map((id) => [id, null, null, 1]),
  );
  for (const { id, files, runs } of results.rows) {
    for (const run of runs) {
      const listed = id === 'directory' || id === 'tar' ? 1 : 0;
      assert.equal(run.requests, files + listed, id);
      assert.ok(run.seconds > 0, id);
    }
  }
  const main = mainTable(results);
  assert.equal(main.length, 5);
  assert.ok(main.every((line) => line.length === main[0]?.length));
  assert.equal(roleTable(results).length, 3);
  assert.match(asMarkdown(main), /^\| row +\|.*files\/s \|/);
});

const compiler = spawnSync('cc', ['--version']).status === 0;
const slow = linux === false && !compiler ? 'it needs a C compiler' : linux;

test('a server that takes its time is compiled, and the rows wait together', { skip: slow }, async (t) => {
  const files = 300;
  const bench = startBench(t, '--only', 'tar,dispatch,epoll-fetch', '--delay', '100', '--connections', '50', '--json');
  const { rows } = JSON.parse(await text(bench.stdout)) as Results;
  const shape = rows.map(({ id, failed, runs }) => [id, failed, runs.map(({ requests }) => requests)]);
  assert.deepEqual(
    shape,
    ['tar', 'dispatch', 'epoll-fetch'].map((id) => [id, null, [files]]),
  );
  const limitSeconds = (files / 50) * 0.1;
  for (const { id, runs } of rows)
    assert.ok(
      runs.every(({ seconds }) => seconds >= limitSeconds),
      id,
    );
  assert.ok((rows[0]?.runs[0]?.loopP99Ms ?? 0) > 0);
});

test('what a file system takes from several processes is measured by a program of its own', { skip: slow }, () => {
  const folder = temporaryFolder();
  const program = join(folder, 'renames');
  compile(fileURLToPath(new URL('bench/peers/renames.c', import.meta.url)), program);
  const target = join(folder, 'target');
  const { status, stdout } = spawnSync(program, [target, '2', '100', '3'], { encoding: 'utf8' });
  assert.equal(status, 0);
  assert.match(stdout, /^[1-9]\d* files\/s, \d+\.\d us of processor time a file\n$/);
  assert.equal(filesBelow(target).filter((path) => path.startsWith('all/')).length, 200);
});

test('a listing that takes its time is walked page by page', { skip: slow }, async (t) => {
  const bench = startBench(t, '--only', 'tar', '--list-delay', '100', '--page-size', '100', '--json');
  const { rows } = JSON.parse(await text(bench.stdout)) as Results;
  const run = rows[0]?.runs[0];
  assert.equal(run?.requests, 300 + 3);
  assert.ok(run.seconds >= 0.3);
});

test('the bench takes large files, in fewer rows', { skip: linux }, async (t) => {
  const bench = startBench(t, '--files', '3', '--file-bytes', '1000000', '--only', 'directory,tar', '--json');
  const results = JSON.parse(await text(bench.stdout)) as Results;
  assert.deepEqual(
    results.rows.map(({ id, failed, runs }) => [id, failed, runs.map(({ requests }) => requests)]),
    ['directory', 'tar'].map((id) => [id, null, [3 + 1]]),
  );
  assert.ok(mainTable(results)[0]?.includes('MB/s'));
});

test('a bench that is killed leaves no process and no folder behind', { skip: linux, timeout: 60_000 }, async (t) => {
  const bench = startBench(t, '--only', 'directory');
  const redis = (): boolean => existsSync(join(folderOf(bench) ?? '', 'target/run/state/redis/redis.sock'));
  while (!redis()) await sleep(20, undefined, { signal: t.signal });
  const folder = folderOf(bench) ?? '';
  assert.ok(processesIn(folder).length > 2);
  bench.kill('SIGKILL');
  while (existsSync(folder)) await sleep(20, undefined, { signal: t.signal });
  assert.deepEqual(processesIn(folder), []);
});

test('a row that is none is told', async (t) => {
  const bench = startBench(t, '--only', 'directory,nothing');
  assert.deepEqual((await once(bench, 'exit'))[0], 1);
});
