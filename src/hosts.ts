/** Which hosts a request may name as its own: the entries of ALLOWED_HOSTS. */
import { BlockList, isIP } from 'node:net';

/**
 * Makes a check of host names as `URL.hostname` gives them. An entry is a name, `*.name` (all names below it), an address,
 * a network in CIDR notation, or `*` (everything). Throws RangeError for an entry that is none of these.
 */
export function hostMatcher(entries: readonly string[]): (hostname: string) => boolean {
  const names = new Set<string>();
  const endings: string[] = [];
  const networks = new BlockList();
  let all = false;
  for (const entry of entries) {
    const [address = '', bits] = entry.replaceAll(/[[\]]/g, '').split('/');
    const family = isIP(address);
    if (entry === '*') all = true;
    else if (family !== 0) networks.addSubnet(address, Number(bits ?? (family === 4 ? 32 : 128)), familyName(family));
    else if (!/^(\*\.)?[\w-]+(\.[\w-]+)*$/.test(entry)) throw new RangeError(`"${entry}" is no host`);
    else if (entry.startsWith('*.')) endings.push(entry.slice(1).toLowerCase());
    else names.add(entry.toLowerCase());
  }
  return (hostname) => {
    const host = hostname.replaceAll(/[[\]]|\.$/g, '');
    const family = isIP(host);
    if (all) return true;
    if (family !== 0) return networks.check(host, familyName(family));
    return names.has(host) || endings.some((ending) => host.endsWith(ending));
  };
}

function familyName(family: number): 'ipv4' | 'ipv6' {
  return family === 4 ? 'ipv4' : 'ipv6';
}
