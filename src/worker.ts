/** The worker role: `npm run worker`, and what `npm start` runs several of. */
import { mkdirSync } from 'node:fs';
import { WorkerServer } from '../jobs/worker-server.ts';
import { startWorker, type DownloadWorker } from '../jobs/worker.ts';
import { readConfig, type Config } from './config.ts';
import { listenError } from './listen.ts';
import { createLogger } from './log.ts';
import { holdLittleGarbage } from './memory.ts';
import { requireRedisUrl, runRole } from './process.ts';
import { separateFolders } from './separate-folders.ts';

const proxyVariables = new Set(['HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY']);

/** A port that cannot be had is no reason to download nothing: then there is none. */
async function openServer(worker: DownloadWorker, { host }: Config, port: number): Promise<WorkerServer | null> {
  const server = new WorkerServer(worker);
  try {
    const url = await server.listen(host, port);
    worker.logger.info({ metrics: `${url}/metrics` }, `the worker's figures are at ${url}/metrics`);
    return server;
  } catch (error) {
    worker.logger.error({ err: listenError(error, host, port, 'WORKER_METRICS_PORT') }, 'the worker has no port');
    return null;
  }
}

await runRole(async () => {
  holdLittleGarbage();
  const config = readConfig(process.env);
  mkdirSync(config.dataDir, { recursive: true });
  separateFolders(config);
  const logger = createLogger(config, 'worker');
  // Their values may hold passwords.
  const set = Object.keys(process.env).filter((name) => proxyVariables.has(name.toUpperCase()) && process.env[name]);
  if (set.length > 0) logger.warn(`no proxy is used: ${set.join(', ')} in the environment changes nothing`);
  const worker = startWorker(config, requireRedisUrl(config), logger);
  const port = config.workerMetricsPort;
  const server = port === null ? null : await openServer(worker, config, port);
  return {
    close: async () => {
      server?.close();
      await worker.close();
    },
  };
});
