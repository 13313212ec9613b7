/** `npm run demo`: the service and a file server of its own, to look at. */
import { mkdtempSync, rmSync, statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemCode } from '../errors.ts';
import type { Job } from '../schemas.ts';
import { checkFiles } from './check.ts';
import { demoFileBytes } from './files.ts';
import { Interrupted, interruptSignal } from './interrupt.ts';
import { followJob, jobFaults, jobSeconds, postJob } from './job.ts';
import { readOptions, usage, type DemoOptions } from './options.ts';
import { progressView, readable } from './progress.ts';
import { startDemoServer, type DemoServer } from './server.ts';
import { DemoError, freePort, pause, serviceReady, startService } from './service.ts';

const apiPort = 3000;
const filesPort = 3900;
const stallMs = 60_000;

async function main(): Promise<number> {
  const interrupted = interruptSignal();
  try {
    const options = readOptions(process.argv.slice(2));
    if (options === null) {
      console.log(usage);
      return 0;
    }
    return await demo(options, interrupted);
  } catch (error) {
    if (error instanceof Interrupted) return 130;
    console.error(error instanceof DemoError ? error.message : error);
    return 1;
  }
}

/** Runs the demo to its end or till `interrupted`; returns the exit code. Afterwards nothing that it started is left. */
async function demo(options: DemoOptions, interrupted: AbortSignal): Promise<number> {
  const port = await freePort(options.port ?? apiPort);
  if (options.port !== null && port !== options.port) throw new DemoError(`port ${options.port} is taken`);
  await using cleanUp = new AsyncDisposableStack();
  const folder = mkdtempSync(join(roomyFolder(options.files), 'gigafetch-demo-'));
  cleanUp.defer(() => rmSync(folder, { recursive: true, force: true }));
  const server = await startFiles(options.files);
  cleanUp.defer(() => server.close());
  const dataDir = join(folder, 'data');
  const logFile = join(folder, 'service.log');
  const settings = { WORKERS: String(options.workers), ALLOWED_NETWORKS: '127.0.0.0/8', ALLOWED_HOSTS: '' };
  const service = startService({ port, dataDir, stateDir: join(folder, 'state'), logFile, settings });
  cleanUp.defer(() => service.stop());

  const signal = AbortSignal.any([interrupted, service.gone]);
  console.log(`Listing   ${server.url}/list (${readable(options.files)} files of ${demoFileBytes} bytes)`);
  console.log(`Service   ${service.url} (workers: ${options.workers}; log: ${logFile})`);
  await serviceReady(service, logFile, signal);
  const right = await download(service.url, server.url, dataDir, options.files, signal);
  if (!options.once) await serve(signal);
  return right ? 0 : 1;
}

/** Downloads all files by a job, checks them, prints the figures; returns whether all is right. */
async function download(
  api: string,
  files: string,
  dataDir: string,
  count: number,
  signal: AbortSignal,
): Promise<boolean> {
  const source = { type: 'listing', url: `${files}/list` } as const;
  const sink = { type: 'directory', path: 'demo' } as const;
  const { id } = await postJob(api, { name: 'demo', source, sink }, signal);
  console.log(`Job       ${api}/jobs/${id}\n`);
  const view = progressView(process.stdout, count);
  let job: Job;
  try {
    job = await followJob(api, id, { signal, stallMs, seen: (job) => view.show(job) });
  } finally {
    view.stop();
  }
  const check = await checkFiles(join(dataDir, sink.path), count, signal);
  const faults = jobFaults(job, count);
  if (check.right < count || check.extra > 0) {
    faults.push(`of ${count} files, ${check.missing} are missing, ${check.wrong} wrong, and ${check.extra} too many`);
  }
  const seconds = jobSeconds(job);
  console.log(`
Files     ${readable(check.right)} right, every byte compared
Time      ${seconds.toFixed(1)} s
Rate      ${readable(count / seconds)} files/s, ${(job.progress.bytesDownloaded / 1e6 / seconds).toFixed(2)} MB/s

Swagger UI  ${api}/docs
To try      curl ${api}/jobs/${id}
            curl ${api}/jobs -H 'content-type: application/json' -d '${JSON.stringify({ source })}'`);
  for (const fault of faults) console.error(`WRONG: ${fault}`);
  return faults.length === 0;
}

/** Resolves when it is interrupted; rejects when the service ends. */
async function serve(signal: AbortSignal): Promise<void> {
  console.log('\nServing until Ctrl-C.');
  try {
    for (;;) await pause(2 ** 30, signal);
  } catch (error) {
    if (!(error instanceof Interrupted)) throw error;
  }
}

async function startFiles(files: number): Promise<DemoServer> {
  try {
    return await startDemoServer({ files, port: filesPort });
  } catch (error) {
    if (systemCode(error) !== 'EADDRINUSE') throw error;
    return startDemoServer({ files });
  }
}

/** The memory file system where there is one with room for the files, else the system's folder for temporary files. */
function roomyFolder(files: number): string {
  // A file takes a block of 4 KiB and an inode; the rest is for Redis and the log.
  const wantedBytes = files * 5000 + 200_000_000;
  try {
    const { bavail, bsize, ffree } = statfsSync('/dev/shm');
    if (bavail * bsize > wantedBytes && ffree > files) return '/dev/shm';
  } catch {
    // No memory file system here.
  }
  return tmpdir();
}

process.exitCode = await main();
