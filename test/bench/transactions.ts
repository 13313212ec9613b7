/**
 * `npm run bench:transactions`: documents from an API that answers after 200 ms, as many as may be in flight at once. Told are the share of
 * what is possible at best, ⌈requests / in flight⌉ · latency, and what the documents take on the disk.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { fileURLToPath } from 'node:url';
import { interruptSignal } from '../../src/demo/interrupt.ts';
import { jobFaults, jobSeconds } from '../../src/demo/job.ts';
import { wholeNumber } from '../../src/demo/options.ts';
import { DemoError } from '../../src/demo/service.ts';
import type { JobRequest } from '../../src/schemas.ts';
import { filesBelow, memoryDir } from '../helpers/folders.ts';
import { startBenchService } from './bench-service.ts';
import { runMain } from './run-main.ts';

const WARM_UP_REQUESTS = 5_000;

type Sink = NonNullable<JobRequest['sink']>;

const sinks: Record<string, Sink> = {
  directory: { type: 'directory' },
  ndjson: { type: 'ndjson' },
  'ndjson.gz': { type: 'ndjson', compression: 'gzip' },
  'ndjson.zst': { type: 'ndjson', compression: 'zstd' },
};

const { values } = parseArgs({
  options: {
    requests: { type: 'string', default: '50000' },
    'in-flight': { type: 'string', default: '1000' },
    'latency-ms': { type: 'string', default: '200' },
    workers: { type: 'string', default: '2' },
    sinks: { type: 'string', default: Object.keys(sinks).join() },
    json: { type: 'boolean', default: false },
  },
});

interface Result {
  readonly sink: string;
  readonly requests: number;
  readonly inFlight: number;
  readonly seconds: number;
  /** Of the seconds that it takes at best. */
  readonly share: number;
  readonly mostInFlight: number;
  /** With the index, where there is one. */
  readonly bytes: number;
  /** Blocks of 4 KiB, as most file systems have them. */
  readonly diskBytes: number;
}

async function main(): Promise<void> {
  const requests = wholeNumber('--requests', values.requests, 1, 100_000_000);
  const inFlight = wholeNumber('--in-flight', values['in-flight'], 1, 65_536);
  const latencyMs = wholeNumber('--latency-ms', values['latency-ms'], 1, 60_000);
  await using cleanUp = new AsyncDisposableStack();
  const folder = mkdtempSync(join(memoryDir(), 'gigafetch-latency-'));
  cleanUp.defer(() => rmSync(folder, { recursive: true, force: true }));
  const server = await startServer(latencyMs);
  cleanUp.defer(() => server.stop());
  const results: Result[] = [];
  for (const name of values.sinks.split(',')) {
    const sink = sinks[name];
    if (sink === undefined)
      throw new DemoError(`--sinks: there is no ${name}; there are: ${Object.keys(sinks).join()}`);
    const result = await run(sink, server.url, join(folder, name), { requests, inFlight, latencyMs });
    results.push({ sink: name, ...result });
    if (!values.json) console.log(shown(results.at(-1)!, results[0]!));
  }
  if (values.json) console.log(JSON.stringify(results, null, 2));
}

async function run(
  sink: Sink,
  url: string,
  folder: string,
  { requests, inFlight, latencyMs }: { requests: number; inFlight: number; latencyMs: number },
): Promise<Omit<Result, 'sink'>> {
  await using cleanUp = new AsyncDisposableStack();
  cleanUp.defer(() => rmSync(folder, { recursive: true, force: true }));
  const workers = wholeNumber('--workers', values.workers, 1, 64);
  mkdirSync(folder);
  const service = await startBenchService(folder, workers, interruptSignal());
  cleanUp.defer(() => service.stop());
  const download = async (last: number, path: string) => {
    const source = { type: 'range', url: `${url}/transaction/{1..${last}}`, name: '{}.json' } as const;
    const request = { source, sink: { ...sink, path }, limits: { concurrency: inFlight } };
    const job = await service.download(request);
    const faults = jobFaults(job, last);
    if (faults.length > 0) throw new DemoError(faults.join('; '));
    return job;
  };
  // So that connections and compiled code are there.
  await download(Math.max(WARM_UP_REQUESTS, 2 * inFlight), 'warm-up');

  const job = await download(requests, 'documents');

  const { most } = (await (await fetch(`${url}/count`)).json()) as { most: number };
  const documents = join(service.dataDir, 'documents');
  const files = filesBelow(documents)
    .filter((path) => !path.startsWith('.gigafetch/'))
    .map((path) => statSync(join(documents, path)).size);
  const seconds = jobSeconds(job);
  return {
    requests,
    inFlight,
    seconds,
    share: (Math.ceil(requests / inFlight) * latencyMs) / 1000 / seconds,
    mostInFlight: most,
    bytes: files.reduce((sum, size) => sum + size, 0),
    diskBytes: files.reduce((sum, size) => sum + Math.ceil(size / 4096) * 4096, 0),
  };
}

async function startServer(latencyMs: number): Promise<{ url: string; stop(): Promise<void> }> {
  const script = fileURLToPath(new URL('transaction-server.ts', import.meta.url));
  const child = fork(script, [String(latencyMs)], { stdio: ['ignore', 'pipe', 'inherit', 'ipc'] });
  const [port] = (await once(child.stdout!, 'data')) as [Buffer];
  return {
    url: `http://127.0.0.1:${Number(port.toString())}`,
    stop: async () => {
      const ended = once(child, 'exit');
      child.kill();
      await ended;
    },
  };
}

function shown({ sink, seconds, share, mostInFlight, bytes, diskBytes }: Result, first: Result): string {
  const [size, onDisk] = [bytes, diskBytes].map((each) => `${(each / 1e6).toFixed(1)} MB`);
  return (
    `${sink}: ${seconds.toFixed(2)} s, ${(100 * share).toFixed(1)} % of what is possible; at most ${mostInFlight} in flight; ` +
    `${size}, ${onDisk} on the disk (1/${(first.diskBytes / diskBytes).toFixed(1)})`
  );
}

await runMain(main);
