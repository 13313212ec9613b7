/**
 * What storing one file in a shard costs: `node test/bench/shards.ts [files]`. Bodies of about 100 bytes are put 64 at a
 * turn of the event loop; the kinds take turns; the medians are told.
 */
import { readdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { shards as shardSinks } from '../../src/sinks/shards/index.ts';
import type { ShardSinkSpec } from '../../src/sinks/shards/shard-specs.ts';
import { temporaryFolder } from '../helpers/folders.ts';

const rounds = 5;
const filesATurn = 64;
const kinds = (['tar', 'ndjson'] as const).flatMap((type) =>
  (['none', 'gzip', 'zstd'] as const).map((compression) => ({ type, compression })),
);

/** Processor time in microseconds a file: of the thread that runs the event loop, and of all threads. */
interface Figures {
  loop: number;
  cpu: number;
  bytes: number;
  indexBytes: number;
}

async function measure(kind: Pick<ShardSinkSpec, 'type' | 'compression'>, names: readonly string[]): Promise<Figures> {
  const dataDir = temporaryFolder();
  const spec: ShardSinkSpec = { ...kind, path: 'bench', shardBytes: 67_108_864, durability: 'process' };
  const sink = await shardSinks.open(spec, { dataDir, jobId: 'job', workerId: 'worker' });
  const bodies = names.map((name, id) =>
    Buffer.from(JSON.stringify({ id, name, at: id * 7919, ok: true, text: text(id) })),
  );
  const cpuBefore = process.cpuUsage();
  const loopBefore = process.threadCpuUsage();
  const page = sink.page(0, 'nonce', names);
  for (let from = 0; from < names.length; from += filesATurn) {
    for (let at = from; at < Math.min(from + filesATurn, names.length); at += 1) {
      page.put(names[at]!, bodies[at]!, { origin: 'http://127.0.0.1:3900', path: `/get/${names[at]}` });
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
  await page.finish();
  const cpu = process.cpuUsage(cpuBefore);
  const loop = process.threadCpuUsage(loopBefore);
  await sink.shards.publish(0, 'nonce');
  const root = join(dataDir, 'bench');
  const sizes = readdirSync(root)
    .filter((name) => name !== '.gigafetch')
    .sort()
    .map((name) => statSync(join(root, name)).size);
  rmSync(dataDir, { recursive: true });
  const [bytes = 0, indexBytes = 0] = sizes;
  const files = names.length;
  return {
    loop: (loop.user + loop.system) / files,
    cpu: (cpu.user + cpu.system) / files,
    bytes: bytes / files,
    indexBytes: indexBytes / files,
  };
}

/** Neither noise nor always the same. */
function text(id: number): string {
  return Math.sin(id + 1)
    .toString(36)
    .slice(-10)
    .repeat(3);
}

function median(values: number[]): string {
  return (values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN).toFixed(1);
}

const files = Number(process.argv[2] ?? 60_000);
const names = Array.from({ length: files }, (_, n) => `${String(n).padStart(9, '0')}.json`);
const figures = kinds.map((): Figures[] => []);
for (let round = 0; round <= rounds; round += 1) {
  for (const [index, kind] of kinds.entries()) {
    const measured = await measure(kind, names);
    // The first round is for the compiler.
    if (round > 0) figures[index]!.push(measured);
  }
}
for (const [index, { type, compression }] of kinds.entries()) {
  const of = (key: keyof Figures): string => median(figures[index]!.map((figure) => figure[key]));
  console.log(
    `${type}, ${compression}: ${of('loop')} µs a file in the event loop, ${of('cpu')} µs in all threads; ` +
      `${of('bytes')} bytes a file, index ${of('indexBytes')}`,
  );
}
