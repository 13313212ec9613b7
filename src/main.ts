/** What `npm start` runs: the whole service on this machine. */
import { fileURLToPath } from 'node:url';
import { readConfig } from './config.ts';
import { createLogger } from './log.ts';
import { exitWith } from './process.ts';
import { supervise } from './supervisor.ts';

const scripts = {
  api: fileURLToPath(new URL('api.ts', import.meta.url)),
  worker: fileURLToPath(new URL('worker.ts', import.meta.url)),
};

try {
  const config = readConfig(process.env);
  process.exit(await supervise(config, createLogger(config, 'supervisor'), scripts));
} catch (error) {
  exitWith(1, error);
}
