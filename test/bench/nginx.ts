/**
 * `npm run bench:nginx`: the service, as `npm start` runs it, on real files from nginx: once undisturbed, once with a
 * worker killed every few seconds. Both times everything must arrive, right, and be counted exactly.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { checkFiles } from '../../src/demo/check.ts';
import { interruptSignal } from '../../src/demo/interrupt.ts';
import { followJob, jobFaults, jobSeconds, postJob } from '../../src/demo/job.ts';
import { wholeNumber } from '../../src/demo/options.ts';
import { readable } from '../../src/demo/progress.ts';
import { DemoError, freePort, pause, serviceReady, startService } from '../../src/demo/service.ts';
import type { Job } from '../../src/schemas.ts';
import { memoryDir } from '../helpers/folders.ts';
import { countRequests, findNginx, startNginx, writeSite, type RequestCounts } from './nginx-server.ts';
import { ProcessWatch, type RoleFigures } from './process-figures.ts';

const workers = 2;
const stallMs = 120_000;

interface Plan {
  title: string;
  files: number;
  /** null: no worker is killed. */
  killEveryMs: number | null;
}

interface Result extends Plan {
  seconds: number;
  kills: number;
  requests: RequestCounts;
  requestsRetried: number;
  roles: Record<string, RoleFigures>;
  /** What is not as it must be. */
  faults: string[];
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      files: { type: 'string', default: '100000' },
      'kill-every': { type: 'string', default: '3' },
      json: { type: 'boolean', default: false },
    },
  });
  const files = wholeNumber('--files', values.files, 1, 10_000_000);
  const killEveryMs = wholeNumber('--kill-every', values['kill-every'], 1, 3600) * 1000;
  const interrupted = interruptSignal();
  await using cleanUp = new AsyncDisposableStack();
  const folder = mkdtempSync(join(memoryDir(), 'gigafetch-bench-'));
  cleanUp.defer(() => rmSync(folder, { recursive: true, force: true }));
  const nginx = findNginx(folder);
  const results: Result[] = [];
  try {
    for (const plan of [
      { title: 'undisturbed', files, killEveryMs: null },
      // Three times the files, so that several workers get killed.
      { title: `a worker killed every ${values['kill-every']} s`, files: 3 * files, killEveryMs },
    ]) {
      results.push(await run(plan, nginx, join(folder, 'run'), interrupted));
    }
  } finally {
    console.log(values.json ? JSON.stringify(results, null, 2) : table(results));
  }
  const faults = results.flatMap((result) => result.faults.map((fault) => `${result.title}: ${fault}`));
  for (const fault of faults) console.error(`WRONG: ${fault}`);
  return faults.length === 0 ? 0 : 1;
}

/** Downloads all files with an nginx and a service of its own, all in `folder`; nothing of them is left afterwards. */
async function run(plan: Plan, nginxBinary: string, folder: string, interrupted: AbortSignal): Promise<Result> {
  await using cleanUp = new AsyncDisposableStack();
  cleanUp.defer(() => rmSync(folder, { recursive: true, force: true }));
  const site = join(folder, 'site');
  const dataDir = join(folder, 'data');
  const logFile = join(folder, 'service.log');
  console.error(`${plan.title}: writing ${readable(plan.files)} files for nginx`);
  writeSite(site, plan.files);
  const nginx = await startNginx(nginxBinary, site);
  cleanUp.defer(() => nginx.stop());
  const service = startService({
    port: await freePort(0),
    dataDir,
    stateDir: join(folder, 'state'),
    logFile,
    settings: { WORKERS: String(workers), REDIS_URL: '', ALLOWED_NETWORKS: '127.0.0.0/8' },
  });
  cleanUp.defer(() => service.stop());
  const signal = AbortSignal.any([interrupted, service.gone]);
  await serviceReady(service, logFile, signal);
  await workersReady(service.url, signal);

  const watch = new ProcessWatch([service.pid, nginx.pid], roleOf);
  cleanUp.defer(() => void watch.stop());
  const killer = plan.killEveryMs === null ? null : killWorkers(service.url, watch, plan.killEveryMs);
  cleanUp.defer(() => killer?.stop());
  const job = await download(service.url, nginx.url, plan.files, signal);
  killer?.stop();
  const roles = watch.stop();
  const kills = killer?.kills() ?? 0;

  const check = await checkFiles(join(dataDir, 'mirror'), plan.files, signal);
  await nginx.stop();
  const requests = await countRequests(site, plan.files);
  const faults = jobFaults(job, plan.files);
  if (check.right !== plan.files || check.extra !== 0) faults.push(`the files on disk: ${JSON.stringify(check)}`);
  if (requests.neverAsked > 0) faults.push(`${requests.neverAsked} files were never asked for`);
  if (plan.killEveryMs === null && requests.getsAgain > 0)
    faults.push(`${requests.getsAgain} files were asked for again`);
  if (plan.killEveryMs !== null && kills === 0) faults.push('it was over before a worker was killed: use more --files');
  const { requestsRetried } = job.progress;
  return { ...plan, seconds: jobSeconds(job), kills, requests, requestsRetried, roles, faults };
}

async function download(api: string, files: string, count: number, signal: AbortSignal): Promise<Job> {
  const source = { type: 'listing', url: `${files}/list` } as const;
  const { id } = await postJob(api, { source, sink: { type: 'directory', path: 'mirror' } }, signal);
  let shownAt = Date.now();
  const seen = ({ progress }: Job): void => {
    if (Date.now() - shownAt < 2000) return;
    shownAt = Date.now();
    console.error(`${readable(progress.filesDownloaded)} of ${readable(count)} files`);
  };
  return followJob(api, id, { signal, stallMs, seen });
}

/** Kills (SIGKILL) one worker after the other, one every `everyMs`, till it is stopped. */
function killWorkers(api: string, watch: ProcessWatch, everyMs: number): { stop(): void; kills(): number } {
  let kills = 0;
  const killOne = async (): Promise<void> => {
    const listed = await workerPids(api);
    watch.sample();
    // A pid that is listed may be dead and given to a stranger.
    const own = listed.filter((pid) => watch.alive('worker').includes(pid));
    const victim = own[kills % own.length];
    if (victim === undefined) return;
    process.kill(victim, 'SIGKILL');
    kills += 1;
    console.error(`killed worker ${victim}`);
  };
  const timer = setInterval(() => void killOne().catch((error: unknown) => console.error(error)), everyMs);
  return { stop: () => clearInterval(timer), kills: () => kills };
}

async function workersReady(api: string, signal: AbortSignal): Promise<void> {
  const deadline = Date.now() + 30_000;
  while ((await workerPids(api)).length < workers) {
    if (Date.now() > deadline) throw new DemoError('the workers are not there after 30 s');
    await pause(100, signal);
  }
}

async function workerPids(api: string): Promise<number[]> {
  const answer = await fetch(`${api}/workers`, { signal: AbortSignal.timeout(5000) });
  const { workers } = (await answer.json()) as { workers: { pid: number }[] };
  return workers.map((worker) => worker.pid);
}

function roleOf(commandLine: string): string {
  if (commandLine.includes('src/worker.ts')) return 'worker';
  if (commandLine.includes('src/api.ts')) return 'api';
  if (commandLine.includes('src/main.ts')) return 'supervisor';
  return /nginx|redis|valkey/.exec(commandLine)?.[0].replace('valkey', 'redis') ?? '';
}

function table(results: Result[]): string {
  const rows: [string, (result: Result) => string | number][] = [
    ['files', (r) => readable(r.files)],
    ['seconds', (r) => r.seconds.toFixed(1)],
    ['files a second', (r) => readable(r.files / r.seconds)],
    ['workers killed', (r) => r.kills],
    ['files asked for again', (r) => readable(r.requests.getsAgain)],
    ['pages asked for', (r) => readable(r.requests.lists)],
    ...['worker', 'api', 'redis', 'supervisor', 'nginx'].flatMap((role): typeof rows => [
      [`${role}: processor µs a file`, (r) => (((r.roles[role]?.cpuMs ?? 0) * 1000) / r.files).toFixed(1)],
      [`${role}: peak memory MB`, (r) => readable((r.roles[role]?.peakBytes ?? 0) / 1e6)],
    ]),
    ['all right', (r) => (r.faults.length === 0 ? 'yes' : 'NO')],
  ];
  const columns = [
    ['', ...rows.map(([title]) => title)],
    ...results.map((result) => [result.title, ...rows.map(([, cell]) => String(cell(result)))]),
  ];
  const widths = columns.map((cells) => Math.max(...cells.map((cell) => cell.length)));
  return ['', ...rows]
    .map((_, row) =>
      columns
        .map((cells, c) =>
          c === 0 ? (cells[row] ?? '').padEnd(widths[c] ?? 0) : (cells[row] ?? '').padStart(widths[c] ?? 0),
        )
        .join('   '),
    )
    .join('\n');
}

try {
  process.exitCode = await main();
} catch (error) {
  console.error(error instanceof DemoError ? error.message : error);
  process.exitCode = 1;
}
