/** The API's process: one of the service's roles. */
import { BlockList } from 'node:net';
import { createCallLimiter } from '../routes/rate-limit.ts';
import { createJobService } from '../jobs/service.ts';
import { buildApp } from './app.ts';
import { readConfig, type Config } from './config.ts';
import { StartError } from './errors.ts';
import { listenError } from './listen.ts';
import { createLogger } from './log.ts';
import { UrlFiles } from './url-files.ts';
import { announceReady, requireRedisUrl, runRole } from './process.ts';

const loopback = new BlockList();
loopback.addSubnet('127.0.0.0', 8);
loopback.addAddress('::1', 'ipv6');

/**
 * Starts the API: it listens when this resolves; `close` lets open requests finish. Throws StartError: the settings, or
 * an address that cannot be listened on. Whether Redis answers does not matter here: /readyz tells.
 */
async function startApi(): Promise<{ close(): Promise<void> }> {
  const config = readConfig(process.env);
  refuseOpenDoor(config);
  const logger = createLogger(config, 'api');
  const redisUrl = requireRedisUrl(config);
  const urlFiles = new UrlFiles({ dataDir: config.dataDir, bytesMax: config.uploadBytesMax });
  const service = createJobService({ redisUrl, activeJobsMax: config.activeJobsMax, urlFiles, logger });
  const limiter = createCallLimiter({ redisUrl, rateLimit: config.rateLimit });
  const app = buildApp({ config, service, limiter, logger });
  const close = async (): Promise<void> => {
    await app.close();
    await service.close();
    limiter.close();
  };
  try {
    announceReady(await app.listen({ host: config.host, port: config.port }));
  } catch (error) {
    await close();
    throw listenError(error, config.host, config.port);
  }
  return { close };
}

function refuseOpenDoor({ host, apiTokens, allowAnonymous }: Config): void {
  const local = host === 'localhost' || loopback.check(host) || loopback.check(host, 'ipv6');
  if (local || apiTokens.length > 0 || allowAnonymous) return;
  throw new StartError(
    `HOST is ${host}, which others may reach: set API_TOKENS, or ALLOW_ANONYMOUS=true to let in everybody`,
  );
}

await runRole(startApi);
