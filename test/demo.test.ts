import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { test, type TestContext } from 'node:test';
import { checkFiles } from '../src/demo/check.ts';
import { demoBytes, demoFileBytes, demoIndex, demoName } from '../src/demo/files.ts';
import { startDemoServer, type ListPage } from '../src/demo/server.ts';
import { temporaryFolder } from './helpers/folders.ts';

const main = new URL('../src/demo/main.ts', import.meta.url).pathname;
const timeout = 120_000;
const never = new AbortController().signal;

test('a demo file has 100 bytes that depend on its name alone', () => {
  assert.equal(demoName(42), 'file-0000042.bin');
  assert.equal(demoBytes(demoName(42)).length, demoFileBytes);
  assert.deepEqual(demoBytes(demoName(42)), demoBytes(demoName(42)));
  assert.notDeepEqual(demoBytes(demoName(42)), demoBytes(demoName(43)));
});

test('a demo name leads back to its number, and no other name to any', () => {
  for (const index of [0, 42, 9_999_999, 10_000_000, 999_999_999]) assert.equal(demoIndex(demoName(index)), index);
  for (const name of ['', 'file-1.bin', 'file-00000042.bin', 'file-0000042.bin/', 'file-000004x.bin']) {
    assert.equal(demoIndex(name), null, name);
  }
});

test('the demo server lists every file once, page by page, and serves it', async (t) => {
  const server = await startDemoServer({ files: 25, pageSize: 10 });
  t.after(() => server.close());
  const names: string[] = [];
  const sizes: number[] = [];
  let url = `${server.url}/list`;
  while (url !== '') {
    const page = (await (await fetch(url)).json()) as ListPage;
    names.push(...page.FileNames);
    sizes.push(page.FileNames.length);
    url = page.NextMarker === undefined ? '' : `${server.url}/list?next-marker=${page.NextMarker}`;
  }
  assert.deepEqual(sizes, [10, 10, 5]);
  assert.deepEqual(
    names,
    Array.from({ length: 25 }, (_, index) => demoName(index)),
  );
  for (const name of names) {
    const answer = await fetch(`${server.url}/get/${name}`);
    assert.equal(answer.headers.get('content-length'), '100');
    assert.deepEqual(Buffer.from(await answer.arrayBuffer()), demoBytes(name));
  }
});

test('a listing that fills its last page names no further one', async (t) => {
  const server = await startDemoServer({ files: 10, pageSize: 10 });
  t.after(() => server.close());
  const page = (await (await fetch(`${server.url}/list`)).json()) as ListPage;
  assert.equal(page.FileNames.length, 10);
  assert.ok(!('NextMarker' in page));
});

test('the demo server answers 404 to all that it does not have', async (t) => {
  const server = await startDemoServer({ files: 10 });
  t.after(() => server.close());
  for (const path of [
    '/',
    '/get/',
    '/get/file-0000010.bin',
    '/get/x/file-0000001.bin',
    '/list?next-marker=x',
    '/list?page=2',
  ]) {
    assert.equal((await fetch(server.url + path)).status, 404, path);
  }
  assert.equal((await fetch(`${server.url}/list`, { method: 'POST' })).status, 404);
});

test('the check finds missing, wrong, short, long and foreign files', async () => {
  const folder = temporaryFolder();
  const none = await checkFiles(join(folder, 'not-there'), 2, never);
  assert.deepEqual(none, { right: 0, missing: 2, wrong: 0, extra: 0 });
  const path = (index: number): string => join(folder, demoName(index));
  for (let index = 0; index < 10; index += 1) writeFileSync(path(index), demoBytes(demoName(index)));
  assert.deepEqual(await checkFiles(folder, 10, never), { right: 10, missing: 0, wrong: 0, extra: 0 });
  rmSync(path(1));
  writeFileSync(path(2), demoBytes(demoName(3)));
  truncateSync(path(4), 99);
  writeFileSync(path(5), Buffer.concat([demoBytes(demoName(5)), Buffer.from('x')]));
  writeFileSync(join(folder, '.left-over'), '');
  assert.deepEqual(await checkFiles(folder, 10, never), { right: 6, missing: 1, wrong: 3, extra: 1 });
});

test('the demo downloads and checks its files, ends by itself, and leaves nothing behind', { timeout }, async (t) => {
  const demo = runDemo(t, ['--files', '2000', '--once', '--workers', '2']);
  const folder = await demo.folder;
  assert.equal(await demo.exitCode, 0, demo.output());
  assert.match(demo.output(), /2,000 right/);
  assert.match(demo.output(), /http:\/\/127\.0\.0\.1:\d+\/docs/);
  assertNothingLeft(folder);
});

test('Ctrl-C ends a demo that goes on serving, and leaves nothing behind', { timeout }, async (t) => {
  const demo = runDemo(t, ['--files', '1000', '--workers', '1']);
  const folder = await demo.folder;
  await demo.printed(/Serving until Ctrl-C/);
  const docs = /http:\S+\/docs/.exec(demo.output())?.[0] ?? '';
  assert.equal((await fetch(docs)).status, 200);
  // npm passes on what the terminal has sent already.
  demo.child.kill('SIGINT');
  demo.child.kill('SIGINT');
  assert.equal(await demo.exitCode, 0, demo.output());
  assertNothingLeft(folder);
});

test('Ctrl-C ends a demo that has only just begun, and leaves nothing behind', { timeout }, async (t) => {
  const demo = runDemo(t, ['--workers', '1']);
  const folder = await demo.folder;
  demo.child.kill('SIGINT');
  assert.equal(await demo.exitCode, 130, demo.output());
  assertNothingLeft(folder);
});

test('a demo whose output is read no further ends, and leaves nothing behind', { timeout }, async (t) => {
  const demo = runDemo(t, ['--workers', '1']);
  const folder = await demo.folder;
  demo.child.stdout?.destroy();
  assert.equal(await demo.exitCode, 130, demo.output());
  assertNothingLeft(folder);
});

test('the demo refuses bad options with one line', async (t) => {
  for (const options of [
    ['--files', '0'],
    ['--files', '1.5'],
    ['--workers', 'x'],
    ['--port', '70000'],
    ['--what'],
    ['x'],
  ]) {
    const demo = runDemo(t, options);
    assert.equal(await demo.exitCode, 1);
    assert.equal(demo.output().trim().split('\n').length, 1, demo.output());
  }
});

test('the demo shows its options', async (t) => {
  const demo = runDemo(t, ['--help']);
  assert.equal(await demo.exitCode, 0);
  for (const option of ['--files', '--workers', '--port', '--once']) assert.ok(demo.output().includes(option));
});

interface Demo {
  child: ChildProcess;
  exitCode: Promise<number | null>;
  /** All that it printed so far. */
  output(): string;
  /** Resolves once a line matches, or all is printed. */
  printed(pattern: RegExp): Promise<void>;
  /** The demo's folder, once it is there. */
  folder: Promise<string>;
}

function runDemo(t: TestContext, options: string[]): Demo {
  const child = spawn(process.execPath, [main, ...options], { stdio: ['ignore', 'pipe', 'pipe'] });
  t.after(() => child.kill('SIGTERM'));
  let output = '';
  const lines = createInterface({ input: child.stdout });
  lines.on('line', (line) => (output += `${line}\n`));
  child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()));
  const closed = once(lines, 'close');
  const exit = once(child, 'close');
  const printed = async (pattern: RegExp): Promise<void> => {
    const found = new AbortController();
    const look = (): void => void (pattern.test(output) && found.abort());
    lines.on('line', look);
    look();
    const matched = found.signal.aborted ? null : once(found.signal, 'abort');
    await Promise.race([matched, closed]);
    lines.off('line', look);
    assert.match(output, pattern);
  };
  const folder = async (): Promise<string> => {
    await printed(/log: \S+\/service\.log/);
    return /log: (\S+)\/service\.log/.exec(output)?.[1] ?? '';
  };
  return {
    child,
    exitCode: exit.then(([code]) => code as number | null),
    output: () => output,
    printed,
    get folder() {
      return folder();
    },
  };
}

/** The folder is gone, and no process has it among its settings. */
function assertNothingLeft(folder: string): void {
  assert.ok(!existsSync(folder), `${folder} is still there`);
  for (const pid of readdirSync('/proc').filter((entry) => /^\d+$/.test(entry))) {
    assert.ok(!settingsOf(pid).includes(folder), `process ${pid} is still there`);
  }
}

function settingsOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'utf8') + readFileSync(`/proc/${pid}/cmdline`, 'utf8');
  } catch {
    return '';
  }
}
