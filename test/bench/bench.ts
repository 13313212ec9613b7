/** `npm run bench`: this service, other tools and bare loops side by side on the same files. */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { demoFileBytes } from '../../src/demo/files.ts';
import { interruptSignal } from '../../src/demo/interrupt.ts';
import { DemoError } from '../../src/demo/service.ts';
import { memoryDir } from '../helpers/folders.ts';
import { startJanitor } from './janitor.ts';
import { describeMachine, ownVersions } from './machine.ts';
import { startNginx } from './nginx.ts';
import { startNodeServer } from './node-server.ts';
import { readOptions, usage, type Options } from './options.ts';
import { rate, type Results, type RowResult } from './results.ts';
import { defaultRows, rows, type CommonPlace, type Row } from './rows.ts';
import { runCommand } from './run-command.ts';
import { runMain } from './run-main.ts';
import { runService } from './run-service.ts';
import { writeSite, type FileServer } from './site.ts';
import { startDelayedServer } from './delayed-server.ts';
import { asText, mainTable, roleTable } from './tables.ts';
import { fileSystemOf, makeTarget } from './target.ts';
import { compile, findTools, installTools, remedy, toolEnvironment, type Need } from './tools.ts';

/** What a process gets first: the compiler is at work for the first hundred thousand. */
const warmFilesMax = 100_000;
const filesMin = 100;

/** What all runs have in common. */
interface Bench {
  options: Options;
  server: FileServer;
  target: string;
  place: Omit<CommonPlace, 'files'>;
  signal: AbortSignal;
}

interface Entry {
  row: Row;
  result: RowResult;
}

async function main(): Promise<number> {
  const options = readOptions(process.argv.slice(2));
  if (options === null) {
    console.log(usage);
    return 0;
  }
  if (process.platform !== 'linux') throw new DemoError('the bench reads /proc, so it runs on Linux alone');
  const began = performance.now();
  const signal = interruptSignal();
  const chosen = choose(options);
  const needed = new Set<Need>(chosen.flatMap((row) => row.needs));
  if (options.listDelayMs > 0) needed.add('cc');
  else if (options.server === 'nginx') needed.add('nginx');
  const tools = provide(needed, options.install);
  if (tools.get('nginx') === null) {
    throw new DemoError(
      `there is no nginx (--install, or ${remedy('nginx')}); --server node does without, more slowly`,
    );
  }
  await using cleanUp = new AsyncDisposableStack();
  const folder = mkdtempSync(join(memoryDir(), `gigafetch-bench-${process.pid}-`));
  cleanUp.defer(startJanitor(folder));
  const home = process.cwd();
  // All that is started below works there, which is how whoever cleans up knows it.
  process.chdir(folder);
  cleanUp.defer(() => process.chdir(home));
  const entries = chosen.map((row) => ({ row, result: emptyResult(row, options, tools) }));
  const present = entries.filter(({ result }) => result.missing === null);
  const warmFiles = Math.min(warmFilesMax, options.files);
  const target = makeTarget(options.target, folder, options.files, options.fileBytes);
  const server = await startServer(options, tools.get('nginx') ?? '', folder, present, warmFiles);
  cleanUp.defer(() => server.stop());
  const epoll = join(folder, 'epoll');
  if (present.some(({ row }) => row.needs.includes('cc'))) {
    compile(fileURLToPath(new URL('peers/epoll.c', import.meta.url)), epoll);
  }
  const fileSystem = fileSystemOf(target);
  const { fileBytes, workers, connections, delayMs } = options;
  const place = { url: server.url, warmFiles, fileBytes, workers, connections, delayMs, epoll };
  await runAll({ options, server, target, place, signal }, present);
  const results: Results = {
    at: new Date().toISOString(),
    seconds: (performance.now() - began) / 1000,
    settings: {
      files: options.files,
      fileBytes,
      pageSize: options.pageSize,
      connections: options.connections,
      delayMs: options.delayMs,
      listDelayMs: options.listDelayMs,
      rounds: options.rounds,
      workers: options.workers,
      target: options.target,
      fileSystem,
      server: server.version,
    },
    machine: describeMachine(),
    versions: {
      ...ownVersions(),
      ...Object.fromEntries([...tools].map(([need, version]) => [need, version ?? 'none'])),
    },
    rows: entries.map(({ result }) => result),
  };
  console.log(
    options.json
      ? JSON.stringify(results, null, 2)
      : [mainTable, roleTable].map((of) => asText(of(results))).join('\n\n'),
  );
  return results.rows.some(({ failed }) => failed !== null) ? 1 : 0;
}

/** The rows to run. Throws a DemoError where one is called that is none. */
function choose(options: Options): Row[] {
  const { only } = options;
  if (only === null) return defaultRows(options);
  const unknown = only.filter((id) => !rows.some((row) => row.id === id));
  if (unknown.length > 0) {
    throw new DemoError(`no row is called ${unknown.join(', ')}; there are ${rows.map(({ id }) => id).join(', ')}`);
  }
  return rows.filter(({ id }) => only.includes(id));
}

/** The versions of what is needed, null where it is missing. */
function provide(needed: ReadonlySet<Need>, install: boolean): Map<Need, string | null> {
  const found = findTools(needed);
  const missing = [...needed].filter((need) => found.get(need) === null);
  if (!install || missing.length === 0) return found;
  installTools(missing);
  return findTools(needed);
}

function emptyResult(
  row: Row,
  { files, delayMs, fileBytes }: Options,
  tools: ReadonlyMap<Need, string | null>,
): RowResult {
  const { id, title, group, settings } = row;
  // Where the server or the memory's speed is what all wait for, no row is slow.
  const share = delayMs > 0 || fileBytes > demoFileBytes ? 1 : row.share;
  const lacks = row.needs.find((need) => tools.get(need) === null);
  const missing = lacks === undefined ? null : `${lacks} (--install, or ${remedy(lacks)})`;
  return { id, title, group, settings, files: part(files, share), missing, failed: null, runs: [] };
}

async function startServer(
  options: Options,
  version: string,
  folder: string,
  entries: readonly Entry[],
  warmFiles: number,
): Promise<FileServer> {
  if (options.listDelayMs > 0) return startDelayedServer(folder, options);
  if (options.server === 'node') return startNodeServer(options.pageSize, options.fileBytes);
  const site = join(folder, 'site');
  mkdirSync(site);
  console.error(`writing ${options.files} files for nginx`);
  const listings = entries.flatMap(({ result }) => [result.files, part(result.files, 1 / 10)]);
  const documents = entries.some(({ row }) => row.group === 'service' && row.sink.type === 'ndjson');
  writeSite(site, options, [warmFiles, ...listings], documents);
  return startNginx('nginx', version, site, toolEnvironment());
}

/** All rows in turns. The first round, with a tenth of the files, warms the machine up and shows what does not work here. */
async function runAll(bench: Bench, entries: readonly Entry[]): Promise<void> {
  for (let round = 0; round <= bench.options.rounds; round += 1) {
    for (const { row, result } of entries) {
      if (result.failed !== null) continue;
      const files = round === 0 ? part(result.files, 1 / 10) : result.files;
      try {
        const run = await runOnce(bench, row, files);
        const perSecond = Math.round(rate({ ...result, files }, { ...run, round }));
        console.error(`${round === 0 ? 'warm-up' : `round ${round}`}: ${row.id}: ${perSecond} files/s`);
        if (round > 0) result.runs.push({ round, ...run });
      } catch (error) {
        bench.signal.throwIfAborted();
        result.failed = error instanceof DemoError ? error.message : String(error);
        console.error(`${row.id} FAILED: ${result.failed}`);
      }
    }
  }
}

async function runOnce({ place, server, target, signal }: Bench, row: Row, files: number) {
  signal.throwIfAborted();
  const folder = join(target, 'run');
  mkdirSync(folder);
  try {
    return row.group === 'service'
      ? await runService(row, { ...place, files }, server, folder, signal)
      : await runCommand(row, { ...place, files }, server, folder, toolEnvironment(), signal);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function part(files: number, share: number): number {
  return Math.max(Math.min(filesMin, files), Math.ceil(files * share));
}

await runMain(main);
