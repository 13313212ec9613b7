import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { startProcess, type ServiceProcess } from './helpers/service-process.ts';

const script = fileURLToPath(new URL('../src/api.ts', import.meta.url));
// No Redis is there: the API starts all the same, and says so at /readyz.
const nowhere = {
  REDIS_URL: '/nowhere/redis.sock',
  HOST: '',
  PORT: '0',
  API_TOKENS: '',
  ALLOW_ANONYMOUS: '',
  LOG_LEVEL: '',
};

function start(environment: NodeJS.ProcessEnv): ServiceProcess {
  return startProcess(script, { ...nowhere, ...environment });
}

function listening(api: ServiceProcess): Promise<string> {
  return api.line(({ msg }) => /^Server listening at (\S+)/.exec(String(msg))?.[1]);
}

async function refused(environment: NodeJS.ProcessEnv): Promise<string> {
  const api = start(environment);
  assert.deepEqual(await api.ended, { code: 78, signal: null });
  assert.equal(api.errors.length, 1, api.errors.join('\n'));
  return api.errors[0] ?? '';
}

test('the API listens without Redis, says so, and ends by SIGTERM with open connections', async () => {
  const api = start({});
  const url = await listening(api);
  assert.equal((await fetch(`${url}/livez`)).status, 200);
  const ready = await fetch(`${url}/readyz`);
  assert.equal(ready.status, 503);
  assert.match(ready.headers.get('content-type') ?? '', /problem\+json/);
  api.process.kill('SIGTERM');
  assert.deepEqual(await api.ended, { code: 0, signal: null });
});

test('without tokens the API listens on loopback alone, unless it is told that everybody may come', async () => {
  for (const host of ['0.0.0.0', '::', '192.0.2.1', 'example.com']) {
    assert.match(await refused({ HOST: host }), new RegExp(`^gigafetch: HOST is ${host},.* API_TOKENS`));
  }
  for (const environment of [{ HOST: 'localhost' }, { HOST: '0.0.0.0', ALLOW_ANONYMOUS: 'true' }]) {
    const api = start(environment);
    const url = await listening(api);
    assert.equal((await fetch(`${url}/livez`)).status, 200);
    api.process.kill('SIGTERM');
    await api.ended;
  }
});

test('with tokens the API may listen anywhere and lets in nobody without', async () => {
  const api = start({ HOST: '0.0.0.0', API_TOKENS: 'one, two' });
  const { port } = new URL(await listening(api));
  const status = async (headers: Record<string, string>): Promise<number> =>
    (await fetch(`http://127.0.0.1:${port}/nothing`, { headers })).status;
  assert.equal(await status({}), 401);
  assert.equal(await status({ authorization: 'Bearer two' }), 404);
  api.process.kill('SIGTERM');
  await api.ended;
});

test('bad settings and an address that is taken end the start with one line', async () => {
  assert.match(await refused({ REDIS_URL: '' }), /REDIS_URL is not set/);
  assert.doesNotMatch(await refused({ API_TOKENS: 's3cret,,' }), /s3cret/);
  assert.match(await refused({ ALLOW_ANONYMOUS: 'yes' }), /ALLOW_ANONYMOUS is "yes"; it must be true or false/);
  assert.match(await refused({ HOST: '192.0.2.1', API_TOKENS: 'x' }), /HOST 192.0.2.1, PORT 0: .*set another HOST/);
  const other = createServer().listen(0, '127.0.0.1');
  await once(other, 'listening');
  const port = String((other.address() as AddressInfo).port);
  assert.match(await refused({ PORT: port }), new RegExp(`HOST 127.0.0.1, PORT ${port}: .*set another PORT`));
  other.close();
});
