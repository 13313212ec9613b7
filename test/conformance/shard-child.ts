/** Makes one shard after the other as quickly as it can until it is killed; tells of each once it is sealed. */
import { shards as shardSinks } from '../../src/sinks/shards/index.ts';
import type { ShardSinkSpec } from '../../src/sinks/shards/shard-specs.ts';
import type { SinkContext } from '../../src/sinks/index.ts';
import { bodies } from './shard-bodies.ts';

const [specText, contextText, firstSeq] = process.argv.slice(2);
const spec = JSON.parse(specText ?? '') as ShardSinkSpec;
const sink = await shardSinks.open(spec, JSON.parse(contextText ?? '') as SinkContext);
const { seal } = bodies[spec.type];

for (let seq = Number(firstSeq); ; seq++) {
  const nonce = `nonce-${seq}`;
  const names = Array.from({ length: 300 }, (_, n) => `${seq}/${n}`);
  const page = sink.page(seq, nonce, names);
  const streams = [0, 1].map((n) => ({ to: page.open(`${seq}/large-${n}`), body: seal(`${seq}.${n}`, 400_000) }));
  for (const from of [0, 200_000]) {
    for (const { to, body } of streams) to.write(body.subarray(from, from === 0 ? 200_000 : body.length));
    for (const name of names.slice(from === 0 ? 0 : 150, from === 0 ? 150 : 300)) page.put(name, seal(name, 2000));
    await new Promise((resolve) => setImmediate(resolve));
  }
  for (const { to } of streams) to.finish();
  await page.finish();
  await new Promise((resolve) => process.send?.({ seq, nonce }, resolve));
  await sink.shards.publish(seq, nonce);
}
