/** Names looked up once for many connections. */
import { lookup, type LookupAddress } from 'node:dns';
import type { LookupFunction } from 'node:net';

const foundMs = 10_000;
// Short: a name server that is back must be noticed by the next attempt.
const failedMs = 1_000;
const namesMax = 1_000;

interface Entry {
  addresses: readonly LookupAddress[];
  error: NodeJS.ErrnoException | null;
  /** `now()` until which it holds; null while the system is still being asked. */
  untilMs: number | null;
  waiting: ((entry: Entry) => void)[];
}

/**
 * A `lookup` for net.connect and tls.connect that remembers what the system (getaddrinfo: hosts file, DNS, and the
 * order of RFC 6724) said: addresses for 10 s, failures for 1 s, at most 1,000 names. Lookups of one name at the same
 * time ask once. Calls back with the system's error where a name has no address.
 * `now`: a clock in milliseconds.
 */
export function cachedLookup(resolve: typeof lookup = lookup, now = () => performance.now()): LookupFunction {
  const entries = new Map<string, Entry>();

  const ask = (hostname: string, hints: number): Entry => {
    const entry: Entry = { addresses: [], error: null, untilMs: null, waiting: [] };
    // The oldest goes first: a Map keeps the order of insertion.
    if (entries.size >= namesMax) entries.delete(entries.keys().next().value ?? '');
    entries.set(hostname, entry);
    resolve(hostname, { all: true, hints }, (error, addresses) => {
      entry.error = error;
      entry.addresses = addresses ?? [];
      entry.untilMs = now() + (error === null ? foundMs : failedMs);
      for (const tell of entry.waiting.splice(0)) tell(entry);
    });
    return entry;
  };

  return (hostname, options, callback) => {
    const tell = ({ addresses, error }: Entry): void => {
      const family = options.family === 4 || options.family === 6 ? options.family : 0;
      const fitting = family === 0 ? [...addresses] : addresses.filter((address) => address.family === family);
      const [first] = fitting;
      if (error !== null || first === undefined) callback(error ?? notFound(hostname), '');
      else if (options.all === true) callback(null, fitting);
      else callback(null, first.address, first.family);
    };
    let entry = entries.get(hostname);
    if (entry === undefined || (entry.untilMs !== null && entry.untilMs <= now())) {
      entries.delete(hostname);
      entry = ask(hostname, options.hints ?? 0);
    }
    if (entry.untilMs === null) entry.waiting.push(tell);
    // Never from within the call: connect() does not expect it.
    else process.nextTick(tell, entry);
  };
}

function notFound(hostname: string): NodeJS.ErrnoException {
  return Object.assign(new Error(`getaddrinfo ENOTFOUND ${hostname}`), { code: 'ENOTFOUND', syscall: 'getaddrinfo' });
}
