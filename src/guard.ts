/** Connections to addresses that the policy allows, and to no others. */
import { isIP, Socket, type LookupFunction } from 'node:net';
import { cachedLookup } from './dns.ts';
import { FetchError } from './errors.ts';
import { openConnector, type Connector } from './http.ts';
import { blockedAddress, type AddressPolicy } from './ssrf.ts';

/**
 * `openConnector` under a policy. Connections elsewhere fail with FetchError (`blocked_address`) before anything was
 * sent. `tls` as there; `lookup`: what finds the addresses.
 */
export function openGuardedConnector(
  policy: AddressPolicy,
  { lookup = cachedLookup(), ...tls }: { lookup?: LookupFunction; ca?: string } = {},
): Connector {
  return guarded(openConnector({ ...tls, lookup: guardedLookup(lookup, policy) }), policy);
}

/**
 * The connector, for addresses that the policy allows: hosts that are addresses are checked before (nothing looks them
 * up), and what was connected to in the end is checked before the request or the TLS handshake begins.
 */
export function guarded(connector: Connector, policy: AddressPolicy): Connector {
  return (options, callback) => {
    const { hostname } = options;
    if (isIP(hostname) !== 0 && !policy(hostname)) {
      process.nextTick(callback, blockedAddress(hostname), null);
      return new Socket().destroy();
    }
    let refused: FetchError | null = null;
    const socket = connector(options, (...result) => {
      if (refused === null) callback(...result);
      else callback(refused, null);
    });
    // Before all other listeners: the TLS handshake is begun by one.
    socket.prependOnceListener('connect', () => {
      const { remoteAddress } = socket;
      if (remoteAddress !== undefined && policy(remoteAddress)) return;
      // It has none where the other side has reset the connection already.
      const reset = new FetchError('connection', 'the connection broke at once', { retryable: true });
      refused = remoteAddress === undefined ? reset : blockedAddress(remoteAddress, hostname);
      socket.destroy(refused);
    });
    return socket;
  };
}

/**
 * The lookup, less the addresses that the policy refuses. Calls back with FetchError (`blocked_address`) where none is
 * left of those that there are.
 */
function guardedLookup(lookup: LookupFunction, policy: AddressPolicy): LookupFunction {
  return (hostname, options, callback) => {
    lookup(hostname, { ...options, all: true }, (error, found) => {
      if (error !== null) return callback(error, '');
      const addresses = typeof found === 'string' ? [{ address: found, family: isIP(found) }] : found;
      const allowed = addresses.filter(({ address }) => policy(address));
      const [first] = allowed;
      if (first === undefined) callback(blockedAddress(addresses[0]?.address ?? '', hostname), '');
      else if (options.all === true) callback(null, allowed);
      else callback(null, first.address, first.family);
    });
  };
}
