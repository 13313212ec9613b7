import { join } from 'node:path';
import { followJob, postJob } from '../../src/demo/job.ts';
import { DemoError, freePort, pause, serviceReady, startService } from '../../src/demo/service.ts';
import type { Job, JobRequest } from '../../src/schemas.ts';

const stallMs = 120_000;

/** The service as `npm start` runs it, to be measured. */
export interface BenchService {
  /** Without a final slash. */
  readonly url: string;
  readonly pid: number;
  readonly dataDir: string;
  /** Of its own Redis. */
  readonly redisSocket: string;
  /** Takes all that it prints. */
  readonly logFile: string;
  /** Aborts when it ends by itself, or with the signal that it was started with. */
  readonly signal: AbortSignal;
  /** Rejects with a DemoError where the job is not accepted or does nothing any more. */
  download(request: JobRequest): Promise<Job>;
  /** Resolves when all its processes are gone; may be called twice. */
  stop(): Promise<void>;
}

/** Starts it with all its files below `folder`; resolves when every worker is there. `settings`: those that are not the defaults. */
export async function startBenchService(
  folder: string,
  workers: number,
  interrupted: AbortSignal,
  settings: Record<string, string> = {},
): Promise<BenchService> {
  const dataDir = join(folder, 'data');
  const stateDir = join(folder, 'state');
  const logFile = join(folder, 'service.log');
  const service = startService({
    port: await freePort(0),
    dataDir,
    stateDir,
    logFile,
    settings: {
      WORKERS: String(workers),
      REDIS_URL: '',
      ALLOWED_NETWORKS: '127.0.0.0/8',
      LOG_LEVEL: 'info',
      WORKER_METRICS_PORT: '',
      ...settings,
    },
  });
  const signal = AbortSignal.any([interrupted, service.gone]);
  try {
    await serviceReady(service, logFile, signal);
    await workersReady(service.url, workers, signal);
  } catch (error) {
    await service.stop();
    throw error;
  }
  return {
    url: service.url,
    pid: service.pid,
    dataDir,
    redisSocket: join(stateDir, 'redis/redis.sock'),
    logFile,
    signal,
    download: async (request) => {
      const { id } = await postJob(service.url, request, signal);
      return followJob(service.url, id, { signal, stallMs, seen: () => {} });
    },
    stop: () => service.stop(),
  };
}

/** The worker processes that the service knows of; none while it cannot tell, as its Redis does not answer. */
export async function workerPids(url: string): Promise<number[]> {
  const answer = await fetch(`${url}/workers`, { signal: AbortSignal.timeout(5000) });
  const { workers = [] } = (await answer.json()) as { workers?: { pid: number }[] };
  return workers.map((worker) => worker.pid);
}

async function workersReady(url: string, workers: number, signal: AbortSignal): Promise<void> {
  const deadline = Date.now() + 30_000;
  while ((await workerPids(url)).length < workers) {
    if (Date.now() > deadline) throw new DemoError('the workers are not there after 30 s');
    await pause(100, signal);
  }
}
