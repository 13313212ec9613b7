/** Writes openapi.json from the app; with --check it only tells, by exit code 1, whether the file differs from that. */
import { readFileSync, writeFileSync } from 'node:fs';
import { pino } from 'pino';
import type { JobService } from '../jobs/service.ts';
import { buildApp } from '../src/app.ts';

const file = new URL('openapi.json', import.meta.url);

/** The document as text: keys in the order of the code, a newline at the end. */
async function render(): Promise<string> {
  // No call is made: the document needs the routes alone.
  const config = { apiTokens: [], allowedHosts: [], allowedNetworks: [], queuesUi: false };
  const limiter = { count: async () => null };
  const app = buildApp({ config, service: {} as JobService, limiter, logger: pino({ level: 'silent' }) });
  await app.ready();
  const text = `${JSON.stringify(app.swagger(), null, 2)}\n`;
  await app.close();
  return text;
}

const text = await render();
if (!process.argv.includes('--check')) writeFileSync(file, text);
else if (text !== readFileSync(file, 'utf8')) {
  console.error('openapi/openapi.json is not what the code says: run "npm run openapi" and commit it');
  process.exitCode = 1;
}
