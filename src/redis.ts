/** Connections to Redis, and scripts that run in it. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { Redis } from 'ioredis';

/**
 * Opens a connection that comes back by itself. `patient`: commands wait until Redis is back (workers: their pages
 * wait); otherwise they fail within `timeoutMs` (1 s), so that an API request never hangs.
 */
export function connectRedis(
  url: string,
  { patient, timeoutMs = 1000 }: { patient: boolean; timeoutMs?: number },
): Redis {
  const redis = new Redis(url, {
    retryStrategy: (attempt) => Math.min(50 * attempt, 1000),
    ...(patient
      ? { maxRetriesPerRequest: null }
      : { maxRetriesPerRequest: 0, enableOfflineQueue: false, commandTimeout: timeoutMs, connectTimeout: 1000 }),
  });
  // Without a listener every failed attempt to connect would be printed; whoever waits for a command is told anyway.
  redis.on('error', () => {});
  return redis;
}

/** Whether an error means that Redis cannot be used at the moment (rather than that we asked for something wrong). */
export function isRedisAway(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  if (error.name === 'ReplyError') {
    return /^(LOADING|BUSY|MASTERDOWN|READONLY|OOM|MISCONF|CLUSTERDOWN|TRYAGAIN|NOAUTH|WRONGPASS|NOPERM)\b/.test(
      error.message,
    );
  }
  return (
    /timed out|Connection is closed|Stream isn't writeable|max retries/i.test(error.message) ||
    ('code' in error &&
      /^(ECONN|ENOENT|EPIPE|ETIMEDOUT|EHOST|ENET|ENOTFOUND|EAI_AGAIN|EACCES)/.test(String(error.code)))
  );
}

/** The replies to a pipeline or a transaction (`exec`), in order. Throws the first error among them. */
export function repliesOf(executed: readonly (readonly [Error | null, unknown])[] | null): unknown[] {
  return (executed ?? []).map(([error, reply]) => {
    if (error) throw error;
    return reply;
  });
}

/** A Lua script beside the file at `url`, run by its digest; Redis is sent its text only where it does not know it. */
export class Script {
  readonly #text: string;
  readonly #sha: string;

  constructor(name: string, beside: string) {
    this.#text = readFileSync(new URL(name, beside), 'utf8');
    this.#sha = createHash('sha1').update(this.#text).digest('hex');
  }

  async run(redis: Redis, keys: readonly string[], args: readonly (string | number)[]): Promise<unknown> {
    try {
      return await redis.evalsha(this.#sha, keys.length, ...keys, ...args);
    } catch (error) {
      if (!(error instanceof Error) || !error.message.startsWith('NOSCRIPT')) throw error;
      return redis.eval(this.#text, keys.length, ...keys, ...args);
    }
  }
}
