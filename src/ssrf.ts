/** Which addresses jobs may reach: what is globally reachable, and what ALLOWED_NETWORKS adds. */
import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';
import { FetchError, StartError } from './errors.ts';

type Address = ipaddr.IPv4 | ipaddr.IPv6;
/** A prefix and its length in bits. */
export type Network = readonly [Address, number];

/** Whether jobs may connect to an address, which is written as getaddrinfo does; false for what is no address. */
export type AddressPolicy = (address: string) => boolean;

/**
 * What IANA's IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890 and RFC 8190, as of 2025-10-09) have as globally
 * reachable "False" or "N/A", without the entries that lie inside of others; multicast (RFC 5771); and all IPv6 that is
 * not global unicast: by IANA's IPv6 Address Space registry that is 2000::/3 alone.
 */
const unreachable = [
  '0.0.0.0/8', // this network
  '10.0.0.0/8', // private use
  '100.64.0.0/10', // shared: carriers' NAT
  '127.0.0.0/8', // loopback
  '169.254.0.0/16', // link-local
  '172.16.0.0/12', // private use
  '192.0.0.0/24', // IETF protocol assignments
  '192.0.2.0/24', // documentation
  '192.88.99.0/24', // 6to4 relays, deprecated
  '192.168.0.0/16', // private use
  '198.18.0.0/15', // benchmarking
  '198.51.100.0/24', // documentation
  '203.0.113.0/24', // documentation
  '224.0.0.0/4', // multicast
  '240.0.0.0/4', // reserved, broadcast
  '::/3', // unspecified, loopback, IPv4 in several forms, discard-only, dummy
  '2001::/23', // IETF protocol assignments, Teredo and benchmarking among them
  '2001:db8::/32', // documentation
  '2002::/16', // 6to4
  '3fff::/20', // documentation
  '4000::/2', // segment routing (5f00::/16)
  '8000::/1', // unique local, link-local, multicast
].map(readNetwork);

/** What the registries have as globally reachable inside of the above. */
const reachableInside = [
  '192.0.0.9/32', // port control anycast
  '192.0.0.10/32', // TURN anycast
  '64:ff9b::/96', // NAT64: as its IPv4 address
  '2001:1::1/128', // port control anycast
  '2001:1::2/128', // TURN anycast
  '2001:1::3/128', // service registration anycast
  '2001:3::/32', // AMT
  '2001:4:112::/48', // AS112
  '2001:20::/28', // ORCHIDv2
  '2001:30::/28', // drone identifiers
].map(readNetwork);

/**
 * No wider network opens these: 0.0.0.0/0 is not meant to hand out a cloud's credentials (169.254.169.254), and where a
 * tunnel or a local translator leads cannot be told.
 */
const openedByName = [
  '169.254.0.0/16', // link-local
  'fe80::/10', // link-local
  '64:ff9b:1::/48', // NAT64 of local use, RFC 8215
  '2001::/32', // Teredo
  '2002::/16', // 6to4
].map(readNetwork);

/** RFC 6052 and RFC 8215: an IPv4 address is in the last 32 bits. */
const nat64 = ['64:ff9b::/96', '64:ff9b:1::/48'].map(readNetwork);

/**
 * Reads ALLOWED_NETWORKS: CIDRs or single addresses of both families, separated by commas; "" holds none. Bits beyond a
 * prefix do not matter. Throws StartError, which names the part that is neither.
 */
export function readNetworks(text: string): Network[] {
  const parts = text.split(',').map((part) => part.trim());
  return parts.filter((part) => part !== '').map(readNetwork);
}

function readNetwork(text: string): Network {
  const [, address = '', bits] = /^([\da-f:.]+)(?:\/(\d{1,3}))?$/i.exec(text) ?? [];
  const version = isIP(address);
  const length = Number(bits ?? (version === 4 ? 32 : 128));
  if (version === 0 || length > (version === 4 ? 32 : 128)) {
    const remedy = 'must be networks such as 10.0.0.0/8 or fd00::/8, or addresses, separated by commas';
    throw new StartError(`ALLOWED_NETWORKS has ${JSON.stringify(text)} in it; it ${remedy}`);
  }
  const base = parse(address);
  // As addresses are compared: an IPv4-mapped one is the IPv4 address.
  if (base instanceof ipaddr.IPv6 && base.isIPv4MappedAddress() && length >= 96) {
    return [base.toIPv4Address(), length - 96];
  }
  return [base, length];
}

/** `text` is an address, as isIP says. */
function parse(text: string): Address {
  const [withoutZone = ''] = text.split('%');
  // "::1.2.3.4" is not IPv4-mapped, but ipaddr.js reads it as if it were.
  return ipaddr.parse(withoutZone.replace(/^::(?=\d+\.)/, '0::'));
}

function unmapped(address: Address): Address {
  return address instanceof ipaddr.IPv6 && address.isIPv4MappedAddress() ? address.toIPv4Address() : address;
}

/**
 * The policy that `allowed` makes: what is globally reachable, and these networks. IPv4-mapped addresses and the global
 * NAT64 prefix are judged by the IPv4 address that they lead to. What `openedByName` has is reached only where a network
 * in `allowed` lies within.
 */
export function addressPolicy(allowed: readonly Network[]): AddressPolicy {
  const named = allowed.filter(([base, bits]) => openedByName.some((net) => bits >= net[1] && isIn(base, [net])));
  return (text) => {
    if (isIP(text) === 0) return false;
    const address = unmapped(parse(text));
    const end = isIn(address, nat64) ? ipaddr.fromByteArray(address.toByteArray().slice(-4)) : address;
    for (const each of [address, end]) if (isIn(each, openedByName) && !isIn(each, named)) return false;
    return isIn(address, allowed) || isIn(end, allowed) || (isReachable(address) && isReachable(end));
  };
}

function isReachable(address: Address): boolean {
  return isIn(address, reachableInside) || !isIn(address, unreachable);
}

function isIn(address: Address, networks: readonly Network[]): boolean {
  return networks.some(([base, bits]) => address.kind() === base.kind() && address.match(base, bits));
}

/** The address that stands in a URL for its host, null where a name does. `new URL` has normalised all its notations. */
export function literalAddress({ hostname }: URL): string | null {
  const address = hostname.startsWith('[') ? hostname.slice(1, -1) : hostname;
  return isIP(address) === 0 ? null : address;
}

/** Says why an address is refused, and what to do; `name`: what led there. */
export function whyBlocked(address: string, name = address): string {
  const leads = name === address ? address : `${name} leads to ${address}, which`;
  return `${leads} is not globally reachable; ALLOWED_NETWORKS says where jobs may go nevertheless`;
}

/** The error (`blocked_address`) for an address that the policy refuses. */
export function blockedAddress(address: string, name?: string): FetchError {
  return new FetchError('blocked_address', whyBlocked(address, name));
}
