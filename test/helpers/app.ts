import { loopbackHosts } from '../../src/config.ts';
import { readNetworks } from '../../src/ssrf.ts';

/** What `buildApp` needs for an API that takes calls from this machine and orders for it, with no tokens. */
export const openConfig = {
  apiTokens: [],
  allowedHosts: loopbackHosts,
  allowedNetworks: readNetworks('127.0.0.0/8'),
  queuesUi: false,
} as const;

/** A limiter of calls that limits none. */
export const noLimiter = { count: async () => null };
