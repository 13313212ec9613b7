import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readConfig } from '../src/config.ts';
import { StartError } from '../src/errors.ts';
import { addressPolicy, literalAddress, readNetworks } from '../src/ssrf.ts';

/**
 * Whole: both of IANA's Special-Purpose Address Registries (2025-10-09; N/A is false), and what holds outside of them.
 * `ipv4`: as the IPv4 address in the last 32 bits.
 */
const registries: Record<string, boolean | 'ipv4'> = {
  '0.0.0.0/0': true,
  '0.0.0.0/8': false,
  '0.0.0.0/32': false,
  '10.0.0.0/8': false,
  '100.64.0.0/10': false,
  '127.0.0.0/8': false,
  '169.254.0.0/16': false,
  '172.16.0.0/12': false,
  '192.0.0.0/24': false,
  '192.0.0.0/29': false,
  '192.0.0.8/32': false,
  '192.0.0.9/32': true,
  '192.0.0.10/32': true,
  '192.0.0.170/32': false,
  '192.0.0.171/32': false,
  '192.0.2.0/24': false,
  '192.31.196.0/24': true,
  '192.52.193.0/24': true,
  '192.88.99.0/24': false,
  '192.88.99.2/32': false,
  '192.168.0.0/16': false,
  '192.175.48.0/24': true,
  '198.18.0.0/15': false,
  '198.51.100.0/24': false,
  '203.0.113.0/24': false,
  '224.0.0.0/4': false,
  '240.0.0.0/4': false,
  '255.255.255.255/32': false,
  '0::/0': false,
  '2000::/3': true,
  '::/96': false,
  '::/128': false,
  '::1/128': false,
  '::ffff:0:0/96': 'ipv4',
  '64:ff9b::/96': 'ipv4',
  '64:ff9b:1::/48': false,
  '100::/64': false,
  '100:0:0:1::/64': false,
  '2001::/23': false,
  '2001::/32': false,
  '2001:1::1/128': true,
  '2001:1::2/128': true,
  '2001:1::3/128': true,
  '2001:2::/48': false,
  '2001:3::/32': true,
  '2001:4:112::/48': true,
  '2001:10::/28': false,
  '2001:20::/28': true,
  '2001:30::/28': true,
  '2001:db8::/32': false,
  '2002::/16': false,
  '2620:4f:8000::/48': true,
  '3fff::/20': false,
  '5f00::/16': false,
  'fc00::/7': false,
  'fe80::/10': false,
  'fec0::/10': false,
  'ff00::/8': false,
};

interface Block {
  bits: 32 | 128;
  first: bigint;
  last: bigint;
  reachable: boolean | 'ipv4';
}

function numberOf(address: string): bigint {
  if (!address.includes(':')) return address.split('.').reduce((sum, part) => sum * 256n + BigInt(part), 0n);
  const [head, tail] = address.split('::').map((half) => half.split(':').filter((part) => part !== ''));
  const zeros = tail === undefined ? 0 : 8 - (head?.length ?? 0) - tail.length;
  const groups = [...(head ?? []), ...Array.from({ length: zeros }, () => '0'), ...(tail ?? [])];
  return groups.reduce((sum, group) => sum * 65_536n + BigInt(`0x${group}`), 0n);
}

function textOf(number: bigint, bits: 32 | 128): string {
  const size = bits === 32 ? 8n : 16n;
  const parts: string[] = [];
  for (let at = BigInt(bits) - size; at >= 0n; at -= size) {
    parts.push(((number >> at) & ((1n << size) - 1n)).toString(bits === 32 ? 10 : 16));
  }
  return parts.join(bits === 32 ? '.' : ':');
}

const blocks = Object.entries(registries).map(([cidr, reachable]): Block => {
  const [address = '', length = ''] = cidr.split('/');
  const bits = address.includes(':') ? 128 : 32;
  const first = numberOf(address);
  return { bits, first, last: first + (1n << (BigInt(bits) - BigInt(length))) - 1n, reachable };
});

/** By the smallest block that holds it. */
function expected(number: bigint, bits: 32 | 128): boolean {
  const around = blocks.filter((block) => block.bits === bits && block.first <= number && number <= block.last);
  const [smallest] = around.sort((a, b) => Number(a.last - a.first - (b.last - b.first)));
  return smallest?.reachable === 'ipv4' ? expected(number & 0xffff_ffffn, 32) : (smallest?.reachable ?? false);
}

test('every block of the registries is judged as they say, from its first to its last address, and what is beside it', () => {
  const policy = addressPolicy([]);
  let checked = 0;
  for (const { bits, first, last } of blocks) {
    for (const number of [first, last, (first + last) / 2n, first - 1n, last + 1n]) {
      if (number < 0n || number >= 1n << BigInt(bits)) continue;
      const address = textOf(number, bits);
      assert.equal(policy(address), expected(number, bits), address);
      checked += 1;
    }
  }
  assert.ok(checked > 250, `${checked}`);
});

test('ordinary addresses are reachable, and what is no address is not', () => {
  const policy = addressPolicy([]);
  for (const good of ['1.1.1.1', '93.184.215.14', '223.255.255.255', '2606:2800:21f::1', '2A00::1', '::ffff:1.1.1.1']) {
    assert.equal(policy(good), true, good);
  }
  for (const bad of ['', 'localhost', '127.1', '0x1.1.1.1', '01.1.1.1', '1.1.1.1/32', '[2606::1]', '1.1.1.1 ']) {
    assert.equal(policy(bad), false, bad);
  }
});

test('an IPv4 address is judged the same behind NAT64 and in its mapped form; other carriers are refused', () => {
  const policy = addressPolicy(readNetworks('10.0.0.0/8'));
  for (const [ipv4, reachable] of [
    ['1.1.1.1', true],
    ['10.1.2.3', true],
    ['127.0.0.1', false],
    ['192.0.0.9', true],
    ['169.254.169.254', false],
  ] as const) {
    for (const prefix of ['', '::ffff:', '::FFFF:', '0:0::ffff:', '64:ff9b::'])
      assert.equal(policy(prefix + ipv4), reachable, prefix + ipv4);
    for (const prefix of ['::', '0::', '::ffff:0:', '64:ff9b:1::'])
      assert.equal(policy(prefix + ipv4), false, prefix + ipv4);
  }
  // 6to4 and Teredo with 1.1.1.1 in it
  for (const address of ['2002:101:101::1', '2001:0:101:101::fefe:fefe']) assert.equal(policy(address), false, address);
});

test('ALLOWED_NETWORKS opens what it names and nothing beside it', () => {
  const policy = addressPolicy(
    readNetworks(' 127.0.0.0/8, 10.1.2.3,fd00::/8 ,::1,192.168.7.9/24,::ffff:172.16.0.0/108'),
  );
  for (const address of [
    '127.0.0.0',
    '127.255.255.255',
    '10.1.2.3',
    'fd00::1',
    'fdff::',
    '::1',
    '192.168.7.255',
    '172.31.0.1',
  ]) {
    assert.equal(policy(address), true, address);
  }
  for (const address of ['10.1.2.2', '10.1.2.4', 'fc00::1', '::', '::2', '192.168.8.0', '0.0.0.0', '172.32.0.1']) {
    assert.equal(policy(address), address === '172.32.0.1', address);
  }
});

test('link-local addresses, tunnels and local NAT64 are opened by networks within them alone', () => {
  const closed = [
    '169.254.169.254',
    '169.254.0.0',
    'fe80::1',
    'fe80::1%eth0',
    'fe80::1%br-lan.10:1',
    'febf:ffff::',
    '::ffff:169.254.169.254',
    '64:ff9b::169.254.169.254',
    '64:ff9b:1::1.1.1.1',
    '64:ff9b:1::169.254.169.254',
    '2002:a9fe:a9fe::1',
    '2001:0:101:101::1',
  ];
  for (const wide of ['0.0.0.0/0,::/0', '169.254.0.0/15,fe80::/9,64:ff9b::/32,2001::/31,2002::/15']) {
    const policy = addressPolicy(readNetworks(wide));
    for (const address of closed) assert.equal(policy(address), false, `${address} by ${wide}`);
  }
  const everything = addressPolicy(readNetworks('0.0.0.0/0,::/0'));
  for (const address of ['10.0.0.1', '127.0.0.1', '::1', 'fd00::1', '64:ff9b::10.0.0.1']) {
    assert.equal(everything(address), true, address);
  }
  const named = addressPolicy(readNetworks('169.254.169.254,fe80::/10,2002::/16,2001::/32,64:ff9b:1::/48'));
  for (const address of closed) {
    const stays = ['169.254.0.0', '64:ff9b::a9fe:0', '2001:1::1'].includes(address);
    assert.equal(named(address), !stays, address);
  }
  const local = addressPolicy(readNetworks('64:ff9b:1::/48'));
  assert.equal(local('64:ff9b:1::10.0.0.1'), true);
  assert.equal(local('64:ff9b:1::169.254.169.254'), false);
});

test('a network that is none ends the start with a line that names it', () => {
  for (const bad of [
    '10.0.0.0/33',
    '::/129',
    '10/8',
    '10.0.0/8',
    'localhost',
    '10.0.0.0/',
    '/8',
    '0x7f.0.0.1',
    'fe80::1%lo',
    '1.1.1.1/8/8',
    '1.1.1.1/-1',
    '::ffff:1/8 x',
    '[::1]',
    '010.0.0.1',
  ]) {
    assert.throws(
      () => readConfig({ ALLOWED_NETWORKS: `127.0.0.0/8, ${bad}` }),
      (error) => error instanceof StartError && error.message.includes(`ALLOWED_NETWORKS has ${JSON.stringify(bad)}`),
      bad,
    );
  }
  assert.deepEqual(readConfig({}).allowedNetworks, []);
  assert.deepEqual(readConfig({ ALLOWED_NETWORKS: '' }).allowedNetworks, []);
  assert.equal(readConfig({ ALLOWED_NETWORKS: '10.0.0.0/8,,::1,' }).allowedNetworks.length, 2);
});

test('an address in a URL is seen in all its notations', () => {
  for (const [host, address] of [
    ['127.0.0.1', '127.0.0.1'],
    ['127.0.0.1.', '127.0.0.1'],
    ['127.1', '127.0.0.1'],
    ['127.0.1', '127.0.0.1'],
    ['2130706433', '127.0.0.1'],
    ['017700000001', '127.0.0.1'],
    ['0177.0.0.1', '127.0.0.1'],
    ['0x7f000001', '127.0.0.1'],
    ['0X7F.0x0.0.1', '127.0.0.1'],
    ['0', '0.0.0.0'],
    ['%31%32%37.0.0.1', '127.0.0.1'],
    ['①②⑦.0.0.1', '127.0.0.1'],
    ['127。0。0。1', '127.0.0.1'],
    ['[::1]', '::1'],
    ['[0:0:0:0:0:0:0:1]', '::1'],
    ['[::]', '::'],
    ['[::ffff:127.0.0.1]', '::ffff:7f00:1'],
    ['[::FFFF:7F00:1]', '::ffff:7f00:1'],
    ['[::127.0.0.1]', '::7f00:1'],
    ['[64:ff9b::127.0.0.1]', '64:ff9b::7f00:1'],
    ['[fe80::1]', 'fe80::1'],
  ] as const) {
    const url = new URL(`http://${host}:8080/`);
    assert.equal(literalAddress(url), address, host);
    assert.equal(addressPolicy([])(address), false, host);
  }
  for (const zoned of ['[fe80::1%eth0]', '[fe80::1%25eth0]']) assert.equal(URL.parse(`http://${zoned}/`), null);
  for (const name of ['localhost', 'example.com', '127.0.0.1.example']) {
    assert.equal(literalAddress(new URL(`http://${name}/`)), null);
  }
});
