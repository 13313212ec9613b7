/** The worker role: `npm run worker`, and what `npm start` runs several of. */
import { mkdirSync } from 'node:fs';
import { startWorker } from '../jobs/worker.ts';
import { readConfig } from './config.ts';
import { createLogger } from './log.ts';
import { requireRedisUrl, runRole } from './process.ts';
import { separateFolders } from './separate-folders.ts';

const proxyVariables = new Set(['HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY']);

await runRole(async () => {
  const config = readConfig(process.env);
  mkdirSync(config.dataDir, { recursive: true });
  separateFolders(config);
  const logger = createLogger(config, 'worker');
  // Their values may hold passwords.
  const set = Object.keys(process.env).filter((name) => proxyVariables.has(name.toUpperCase()) && process.env[name]);
  if (set.length > 0) logger.warn(`no proxy is used: ${set.join(', ')} in the environment changes nothing`);
  return startWorker(config, requireRedisUrl(config), logger);
});
