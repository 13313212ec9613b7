import type { Retry } from './schemas.ts';

/**
 * How long to wait before attempt number `attempt` + 1, in ms: a random time between 0 and
 * min(maxDelayMs, baseDelayMs · 2^(attempt − 1)), so that many that failed together do not come back together ("full
 * jitter", Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015). With the defaults the upper ends
 * are 300, 600, 1200, 2400 ms. A server that names a time (Retry-After) is never asked before it.
 */
export function retryDelayMs(
  retry: Pick<Retry, 'baseDelayMs' | 'maxDelayMs'>,
  attempt: number,
  retryAfterMs: number | null,
  random: () => number = Math.random,
): number {
  const ceiling = Math.min(retry.maxDelayMs, retry.baseDelayMs * 2 ** (attempt - 1));
  return Math.max(Math.floor(random() * ceiling), Math.min(retryAfterMs ?? 0, RETRY_AFTER_MS_MAX));
}

/** What a Retry-After may ask for at most; a server that wants more is asked again after this. */
const RETRY_AFTER_MS_MAX = 900_000;
