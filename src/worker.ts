/** The worker role: `npm run worker`, and what `npm start` runs several of. */
import { mkdirSync } from 'node:fs';
import { startWorker } from '../jobs/worker.ts';
import { readConfig } from './config.ts';
import { createLogger } from './log.ts';
import { requireRedisUrl, runRole } from './process.ts';

await runRole(async () => {
  const config = readConfig(process.env);
  mkdirSync(config.dataDir, { recursive: true });
  return startWorker(config, requireRedisUrl(config), createLogger(config, 'worker'));
});
