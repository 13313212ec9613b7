/**
 * What the fetch engine costs over bare undici: `node test/bench/fetch-only.ts [files]`. Both get 100-byte bodies from
 * a server in another process over 64 connections, in turns; the medians are told.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';
import { Client, type Dispatcher } from 'undici';
import { Fetcher, type FetchHandler, type FetchRequest } from '../../src/fetch-file.ts';
import { HttpAgent } from '../../src/http.ts';

const connections = 64;
const rounds = 5;
const answer = `HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 100\r\n\r\n${'x'.repeat(100)}`;

type Run = (origin: string, files: number) => Promise<void>;

const throughFetcher: Run = async (origin, files) => {
  const agent = new HttpAgent();
  const fetcher = new Fetcher(agent);
  const headers: string[] = [];
  let started = 0;
  let done = 0;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const next = (slot: FetchRequest & FetchHandler & { path: string }): void => {
    if (started === files) return;
    slot.path = `/get/${started++}.bin`;
    fetcher.start(slot, slot);
  };
  for (let index = 0; index < connections; index++) {
    const slot = {
      origin,
      path: '',
      headers,
      sizeBytes: 100,
      timeoutMs: 30_000,
      minBytesPerSecond: 1024,
      maxBytes: 1_000_000,
      memoryBytes: 65_536,
      open: () => null,
      onBody: () => {
        if (++done === files) resolve();
        next(slot);
      },
      onRedirect: reject,
      onError: reject,
    };
    next(slot);
  }
  await promise;
  fetcher.close();
  agent.close();
};

const bareUndici: Run = async (origin, files) => {
  const clients: Client[] = [];
  const headers = ['accept-encoding', 'identity', 'user-agent', 'gigafetch/0.1.0'];
  let started = 0;
  let done = 0;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  for (let index = 0; index < connections; index++) {
    const client = new Client(origin, { allowH2: false, headersTimeout: 0, bodyTimeout: 0 });
    let bytes = 0;
    const handler: Dispatcher.DispatchHandler = {
      onRequestStart: () => undefined,
      onResponseStart: () => {
        bytes = 0;
      },
      onResponseData: (_controller, chunk) => {
        bytes += chunk.length;
      },
      onResponseEnd: () => {
        if (bytes !== 100) reject(new Error(`${bytes} bytes`));
        if (++done === files) resolve();
        next();
      },
      onResponseError: (_controller, error) => reject(error),
    };
    const next = (): void => {
      if (started < files) client.dispatch({ path: `/get/${started++}.bin`, method: 'GET', headers }, handler);
    };
    clients.push(client);
    next();
  }
  await promise;
  await Promise.all(clients.map((client) => client.destroy()));
};

async function measure(run: Run, origin: string, files: number): Promise<{ cpuMicros: number; perSecond: number }> {
  const cpu = process.cpuUsage();
  const began = performance.now();
  await run(origin, files);
  const { user, system } = process.cpuUsage(cpu);
  return { cpuMicros: (user + system) / files, perSecond: (files * 1000) / (performance.now() - began) };
}

function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN;
}

async function serve(): Promise<void> {
  const server = createServer({ noDelay: true }, (socket) => {
    socket.setEncoding('latin1');
    socket.on('data', (text) => {
      // One request at a time on each connection, small enough for one piece.
      if (text.toString().endsWith('\r\n\r\n')) socket.write(answer, 'latin1');
    });
    socket.on('error', () => socket.destroy());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  process.send?.((server.address() as AddressInfo).port);
  process.once('disconnect', () => process.exit());
}

async function main(files: number): Promise<void> {
  const child = fork(fileURLToPath(import.meta.url), ['serve']);
  const [port] = (await once(child, 'message')) as [number];
  const origin = `http://127.0.0.1:${port}`;
  const runs = { bare: bareUndici, fetcher: throughFetcher };
  const figures: Record<string, { cpuMicros: number; perSecond: number }[]> = { bare: [], fetcher: [] };
  for (const run of Object.values(runs)) await run(origin, Math.min(files, 20_000));
  for (let round = 0; round < rounds; round++) {
    for (const [name, run] of Object.entries(runs)) {
      figures[name]?.push(await measure(run, origin, Math.ceil(files / rounds)));
    }
  }
  child.disconnect();
  const cpu = (name: string): number => median((figures[name] ?? []).map((figure) => figure.cpuMicros));
  const rate = (name: string): number => median((figures[name] ?? []).map((figure) => figure.perSecond));
  for (const name of Object.keys(runs)) {
    console.log(
      `${name}: ${cpu(name).toFixed(1)} µs of processor time a file, ${Math.round(rate(name))} files a second`,
    );
  }
  console.log(`fetcher / bare: ${(cpu('fetcher') / cpu('bare')).toFixed(3)}`);
}

if (process.argv[2] === 'serve') await serve();
else await main(Number(process.argv[2] ?? 200_000));
