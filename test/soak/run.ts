/**
 * `npm run soak -- --minutes 30 [--plot FILE]`: the whole service at full speed for a while, from a server of whose answers one
 * in a hundred is wrong. Memory, descriptors and the memory of Redis must stay as they are, the event loops free.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { Redis } from 'ioredis';
import { followJob, postJob } from '../../src/demo/job.ts';
import { freePort, pause, serviceReady, startService } from '../../src/demo/service.ts';
import type { Job, JobRequest } from '../../src/schemas.ts';
import { readMemory } from '../bench/proc.ts';
import { memoryDir } from '../helpers/folders.ts';
import { childrenOf, descriptors, metrics, variable, type Sample } from './figures.ts';
import { judge } from './judge.ts';
import { plotSamples } from './plot.ts';
import { startSoakServer } from './server.ts';

const LISTED_FILES = 200_000;
const SAMPLE_MS = 5_000;
const STALL_MS = 60_000;

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '30' },
    plot: { type: 'string', default: '' },
  },
});

process.exitCode = await soak(Number(values.minutes) * 60_000);

async function soak(lastMs: number): Promise<number> {
  await using cleanUp = new AsyncDisposableStack();
  const folder = mkdtempSync(join(memoryDir(), 'gigafetch-soak-'));
  cleanUp.defer(() => rmSync(folder, { recursive: true, force: true }));
  const server = await startSoakServer(join(folder, 'site'), LISTED_FILES);
  cleanUp.defer(() => server.stop());
  const [port, metricsPort] = [await freePort(0), await freePort(0)];
  const logFile = join(folder, 'service.log');
  const service = startService({
    port,
    dataDir: join(folder, 'data'),
    stateDir: join(folder, 'state'),
    logFile,
    settings: {
      WORKERS: '2',
      REDIS_URL: '',
      API_TOKENS: '',
      ALLOWED_NETWORKS: '127.0.0.0/8',
      WORKER_METRICS_PORT: String(metricsPort),
    },
  });
  cleanUp.defer(() => service.stop());
  const over = new AbortController();
  process.once('SIGINT', () => over.abort(new Error('interrupted')));
  const signal = AbortSignal.any([over.signal, service.gone]);
  await serviceReady(service, logFile, signal);

  const faults: string[] = [];
  const ended: Job[] = [];
  const begun = performance.now();
  const left = (): number => begun + lastMs - performance.now();
  const lanes = orders(server.url).map(async (order, lane) => {
    for (let round = 0; left() > 0; round += 1) {
      const path = `lane-${lane}-${round}`;
      const { id } = await postJob(service.url, order(path), signal);
      const enough = AbortSignal.timeout(Math.max(1, Math.round(left())));
      const cancel = (): void => void fetch(`${service.url}/jobs/${id}/cancel`, { method: 'POST' });
      enough.addEventListener('abort', cancel);
      const job = await followJob(service.url, id, { signal, stallMs: STALL_MS, seen: () => {} });
      enough.removeEventListener('abort', cancel);
      faults.push(...jobFaults(job));
      ended.push(job);
      rmSync(join(folder, 'data', path), { recursive: true });
      await fetch(`${service.url}/jobs/${id}`, { method: 'DELETE' });
    }
  });
  const samples: Sample[] = [];
  const watching = watch(service, join(folder, 'state'), begun, left, samples, signal);
  await Promise.all([...lanes, watching]);
  await service.stop();

  for (const line of readFileSync(logFile, 'utf8').split('\n')) {
    if (/"level":(50|60)|unhandled/i.test(line)) faults.push(line.slice(0, 500));
  }
  const files = ended.reduce((sum, { progress }) => sum + progress.filesDownloaded, 0);
  const failed: Record<string, number> = {};
  for (const { failures } of ended) {
    for (const [reason, count] of Object.entries(failures)) failed[reason] = (failed[reason] ?? 0) + (count ?? 0);
  }
  const retried = ended.reduce((sum, { progress }) => sum + progress.requestsRetried, 0);
  console.log(`${ended.length} jobs, ${files} files, ${(files / (lastMs / 1000)).toFixed(0)} a second`);
  console.log(`${retried} requests made again; failed: ${JSON.stringify(failed)}`);
  const verdict = judge(samples);
  console.log(verdict.table);
  for (const fault of [...verdict.faults, ...faults]) console.log(`WRONG: ${fault}`);
  if (values.plot !== '') await plotSamples(values.plot, samples);
  return verdict.faults.length + faults.length === 0 ? 0 : 1;
}

/** What is downloaded side by side, again and again; the last one never ends by itself. */
function orders(url: string): ((path: string) => JobRequest)[] {
  const listing = { type: 'listing', url: `${url}/list` } as const;
  const range = (last: string) =>
    ({ type: 'range', url: `${url}/get/{${last.replaceAll(/\d/g, '0')}..${last}}` }) as const;
  const limits = { timeoutMs: 2_000, maxFileBytes: 1_048_576 };
  return [
    (path) => ({ source: listing, sink: { type: 'directory', path }, limits }),
    (path) => ({ source: range('499999'), sink: { type: 'tar', path, compression: 'zstd' }, limits }),
    (path) => ({ source: range('499999'), sink: { type: 'ndjson', path, compression: 'gzip' }, limits }),
    (path) => ({ source: range('999999999999'), sink: { type: 'tar', path, compression: 'zstd' }, limits }),
  ];
}

function jobFaults(job: Job): string[] {
  const { filesListed, filesDownloaded, filesSkipped, filesFailed, filesPending } = job.progress;
  const faults: string[] = [];
  if (!['completed', 'completed_with_failures', 'cancelled'].includes(job.state))
    faults.push(`${job.id} ended as ${job.state}: ${JSON.stringify(job.error)} ${job.pausedReason}`);
  if (filesListed !== filesDownloaded + filesSkipped + filesFailed + filesPending || filesSkipped > 0)
    faults.push(`${job.id} does not add up: ${JSON.stringify(job.progress)}`);
  return faults;
}

/** Takes a sample of each process every few seconds. */
async function watch(
  service: { readonly url: string; readonly pid: number },
  stateDir: string,
  begun: number,
  left: () => number,
  samples: Sample[],
  signal: AbortSignal,
): Promise<void> {
  const redis = new Redis(join(stateDir, 'redis', 'redis.sock'));
  let filesBefore = 0;
  let before = begun;
  for (let next = begun + SAMPLE_MS; left() > 0; next += SAMPLE_MS) {
    await pause(Math.max(0, next - performance.now()), signal);
    const seconds = Math.round((performance.now() - begun) / 1000);
    for (const { role, pid } of childrenOf(service.pid)) {
      const sample = {
        seconds,
        process: role,
        pid,
        residentMb: readMemory(pid).residentBytes / 1e6,
        descriptors: descriptors(pid),
      };
      if (role === 'redis') {
        const usedMb = Number(/^used_memory:(\d+)/m.exec(await redis.info('memory'))?.[1]) / 1e6;
        samples.push({ ...sample, usedMb, lagMs: null, filesPerSecond: null });
        continue;
      }
      const port = variable(pid, role === 'api' ? 'PORT' : 'WORKER_METRICS_PORT');
      const { lagMs, files } = await metrics(`http://127.0.0.1:${port}/metrics`);
      let filesPerSecond: number | null = null;
      if (role === 'api') {
        const now = performance.now();
        filesPerSecond = Math.round(((files - filesBefore) * 1000) / (now - before));
        [filesBefore, before] = [files, now];
      }
      samples.push({ ...sample, usedMb: null, lagMs, filesPerSecond });
    }
    const last = samples.filter((sample) => sample.seconds === seconds);
    console.error(
      `${seconds} s: ${last.map((sample) => `${sample.process} ${Math.round(sample.residentMb)} MB`).join(', ')}`,
    );
  }
  redis.disconnect();
}
