/** Stores files as quickly as it can until it is killed: puts, and several streams at once between them. */
import { openSink } from '../../src/sinks/index.ts';
import type { DirectorySinkSpec } from '../../src/sinks/directory.ts';
import type { SinkContext } from '../../src/sinks/index.ts';
import { sealedBody } from './sealed-body.ts';

const [specText, contextText, round] = process.argv.slice(2);
const spec = JSON.parse(specText ?? '') as DirectorySinkSpec;
const sink = await openSink(spec, JSON.parse(contextText ?? '') as SinkContext);
const writer = sink.page(0, `${round}`, []);

const small = [0, 100, 20_000].map((bytes) => sealedBody(`${round}`, bytes));
// Takes long enough that a kill often falls into it.
const large = sealedBody(`large ${round}`, 4_000_000);

for (let i = 0; ; i++) {
  const streams = [0, 1, 2].map((n) => ({
    to: writer.open(`streams/${i % 50}/${n}`),
    body: sealedBody(`${round}.${i}.${n}`, 200_000),
  }));
  for (const from of [0, 100_000]) {
    for (const { to, body } of streams) to.write(from === 0 ? body.subarray(0, 100_000) : body.subarray(100_000));
    for (const [n, body] of small.entries()) writer.put(`puts/${n}/${i % 50}`, body);
    writer.put(`puts/large-${i % 3}`, large);
    await new Promise((resolve) => setImmediate(resolve));
  }
  for (const { to } of streams) to.finish();
  process.send?.(i);
}
