import { hash } from 'node:crypto';
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { checkFiles } from '../../src/demo/check.ts';
import { demoBytes, demoName } from '../../src/demo/files.ts';
import { jobFaults } from '../../src/demo/job.ts';
import { DemoError } from '../../src/demo/service.ts';
import type { Job, JobRequest } from '../../src/schemas.ts';
import { damagedMembers, readIndex } from '../../src/sinks/shards/read-shard.ts';
import { startBenchService, workerPids } from './bench-service.ts';
import type { ProcessWatch } from './process-figures.ts';
import type { Run } from './results.ts';
import type { CommonPlace, ServiceRow } from './rows.ts';
import { documentBytes, type FileServer } from './site.ts';
import { touchMemory } from './target.ts';
import { watchRun } from './watch.ts';

/**
 * Starts the service as `npm start` does, all its files below `folder`, warms its workers up by small jobs, then measures
 * one job and checks every byte. Rejects with a DemoError where anything is not as it must be, or with the signal's reason.
 */
export async function runService(
  row: ServiceRow,
  place: CommonPlace,
  server: FileServer,
  folder: string,
  interrupted: AbortSignal,
): Promise<Omit<Run, 'round'>> {
  // Else as by default: without.
  const watchesLoops = place.delayMs > 0;
  const workers = row.oneWorker ? 1 : place.workers;
  await using cleanUp = new AsyncDisposableStack();
  const service = await startBenchService(folder, workers, interrupted, {
    WORKER_METRICS_PORT: watchesLoops ? '0' : '',
  });
  cleanUp.defer(() => service.stop());
  const { logFile, signal } = service;
  const download = (path: string, files: number): Promise<Job> =>
    service.download(jobRequest(row, { ...place, files }, path));
  // As many for each worker as a bare loop gets; and what lies about costs whoever comes after.
  for (let worker = 0; worker < workers; worker += 1) {
    await download('warm', place.warmFiles);
    rmSync(join(service.dataDir, 'warm'), { recursive: true });
  }

  touchMemory(folder, place);
  // What was asked before begins anew.
  if (watchesLoops) await loopP99Ms(logFile);
  const watch = await watchRun(server, [service.pid]);
  cleanUp.use(watch.processes);
  const killer = row.killEveryMs > 0 ? killWorkers(service.url, watch.processes, row.killEveryMs) : null;
  cleanUp.defer(() => killer?.stop());
  const job = await download('files', place.files);
  killer?.stop();
  const watched = await watch.stop();
  const loop = watchesLoops ? await loopP99Ms(logFile) : null;
  const seconds = (Date.parse(job.finishedAt ?? '') - Date.parse(job.createdAt)) / 1000;

  const faults = jobFaults(job, place.files);
  if (faults.length > 0) throw new DemoError(faults.join('; '));
  await check(row, join(service.dataDir, 'files'), place, signal);
  return { seconds, ...watched, kills: killer?.kills() ?? 0, loopP99Ms: loop };
}

/** For `Run.loopP99Ms`, since it was last asked for. The log says where the workers show it. */
async function loopP99Ms(logFile: string): Promise<number> {
  const urls = [...readFileSync(logFile, 'utf8').matchAll(/"metrics":"([^"]+)"/g)].map(([, url = '']) => url);
  const texts = await Promise.all(urls.map(async (url) => (await fetch(url)).text()));
  const seconds = texts.map((text) => Number(/^nodejs_eventloop_lag_p99_seconds (\S+)$/m.exec(text)?.[1]));
  return Math.max(...seconds) * 1000;
}

function jobRequest(row: ServiceRow, { url, files, delayMs, connections }: CommonPlace, path: string): JobRequest {
  const fileUrl = row.sink.type === 'ndjson' ? 'documents/{name}' : 'get/{name}';
  const sink = { ...row.sink, path } as NonNullable<JobRequest['sink']>;
  const [first, last] = [demoName(0), demoName(files - 1)].map((name) => /\d+/.exec(name)?.[0]);
  return {
    // A listing that takes as long as each file would be what is measured.
    source:
      delayMs > 0
        ? { type: 'range', url: `${url}/get/file-{${first}..${last}}.bin` }
        : { type: 'listing', url: `${url}/list-${files}`, fileUrl },
    sink,
    limits: { concurrency: connections },
  };
}

async function check(
  row: ServiceRow,
  folder: string,
  { files, fileBytes }: CommonPlace,
  signal: AbortSignal,
): Promise<void> {
  const { type } = row.sink;
  if (type === 'directory') {
    const found = await checkFiles(folder, files, signal, fileBytes);
    if (found.right !== files || found.extra > 0) throw new DemoError(`of ${files} files: ${JSON.stringify(found)}`);
    return;
  }
  const wanted = new Set(Array.from({ length: files }, (_, index) => demoName(index)));
  const bytesOf = (name: string): Buffer => (type === 'tar' ? demoBytes(name, fileBytes) : documentBytes(name));
  for (const shard of readdirSync(folder).filter((name) => !name.includes('.index') && name !== '.gigafetch')) {
    for await (const { name } of damagedMembers(join(folder, shard))) throw new DemoError(`${name} is damaged`);
    for await (const { name, sha256 } of readIndex(join(folder, shard))) {
      if (hash('sha256', bytesOf(name)) !== sha256) throw new DemoError(`${name} is wrong`);
      if (!wanted.delete(name)) throw new DemoError(`${name} is there twice`);
    }
  }
  if (wanted.size > 0) throw new DemoError(`${wanted.size} of ${files} files are missing`);
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
  };
  const timer = setInterval(() => void killOne().catch((error: unknown) => console.error(error)), everyMs);
  return { stop: () => clearInterval(timer), kills: () => kills };
}
