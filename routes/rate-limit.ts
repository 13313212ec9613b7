/** How many calls a client may make, over all API processes. */
import { isIPv6 } from 'node:net';
import type { FastifyRequest } from 'fastify';
import { RateLimiterMemory, RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible';
import { Problem } from '../src/errors.ts';
import { connectRedis } from '../src/redis.ts';

const windowSeconds = 60;
/** Together with a call's own wait for Redis it stays below the 2 s in which every call is answered. */
const redisTimeoutMs = 300;

/** Redis is asked for so many calls of a client at once, so that few have to wait for it: a part of what it may make. */
const callsAtOnce = 1 / 100;
const clientsKeptMax = 10_000;

const unlimited = /^\/(livez|readyz)$/;

export interface CallLimiter {
  /** Counts a call of a client; resolves to the seconds until its next one is taken, null where it may go on. */
  count(client: string): Promise<number | null>;
  close(): void;
}

/**
 * Counts in Redis, for each process in hundredths of the limit: who calls several of them is refused so much too early.
 * While Redis does not answer, each process counts for itself.
 */
export function createCallLimiter({ redisUrl, rateLimit }: { redisUrl: string; rateLimit: number }): CallLimiter {
  const redis = connectRedis(redisUrl, { patient: false, timeoutMs: redisTimeoutMs });
  const limits = { points: rateLimit, duration: windowSeconds };
  const limiter = new RateLimiterRedis({
    ...limits,
    storeClient: redis,
    keyPrefix: '{gigafetch}:calls',
    rejectIfRedisNotReady: true,
    // Who is over the limit costs Redis nothing more.
    inMemoryBlockOnConsumed: rateLimit + 1,
    insuranceLimiter: new RateLimiterMemory(limits),
  });
  const share = Math.max(1, Math.floor(rateLimit * callsAtOnce));
  const taken = new Map<string, { calls: number; untilMs: number }>();
  return {
    count: async (client) => {
      const left = taken.get(client);
      if (left !== undefined && left.calls > 0 && performance.now() < left.untilMs) {
        left.calls -= 1;
        return null;
      }
      try {
        const { msBeforeNext } = await limiter.consume(client, share);
        if (taken.size >= clientsKeptMax) taken.clear();
        if (share > 1) taken.set(client, { calls: share - 1, untilMs: performance.now() + msBeforeNext });
        return null;
      } catch (refused) {
        if (!(refused instanceof RateLimiterRes)) throw refused;
        return Math.max(1, Math.ceil(refused.msBeforeNext / 1000));
      }
    },
    close: () => redis.disconnect(),
  };
}

/**
 * A hook that throws Problem `too_many_requests`. A client is a token that is valid (`tokenOf`), else an address: guessed
 * tokens give nobody more calls.
 */
export function limitCalls(
  limiter: Pick<CallLimiter, 'count'>,
  tokenOf: (request: FastifyRequest) => string | null,
): (request: FastifyRequest) => Promise<void> {
  return async (request) => {
    if (unlimited.test(request.routeOptions.url ?? '')) return;
    const waitSeconds = await limiter.count(tokenOf(request) ?? networkOf(request.ip));
    if (waitSeconds === null) return;
    throw new Problem('too_many_requests', 'too many calls: wait as long as Retry-After says', {
      retryAfterSeconds: waitSeconds,
    });
  };
}

/** An IPv6 customer has a /64 network at least (RFC 6177): one address more is no client more. */
function networkOf(address: string): string {
  if (!isIPv6(address) || address.includes('.')) return address;
  const [head = [], tail = []] = address.split('::').map((part) => part.split(':').filter((group) => group !== ''));
  const zeros = Array.from({ length: 8 - head.length - tail.length }, () => '0');
  return [...head, ...zeros, ...tail].slice(0, 4).join(':');
}
