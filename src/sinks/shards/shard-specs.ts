/** The sinks of shards that can be ordered. */
import { Type, type Static } from 'typebox';
import { closed, literals, whole, type Filled } from '../../schema-parts.ts';
import { DurabilitySchema, PathSchema } from '../sink-fields.ts';

const ShardFields = {
  path: PathSchema,
  shardBytes: whole('About how large a shard is, compression aside.', 67_108_864, 65_536, 17_179_869_184),
  compression: Type.Optional(
    literals(['none', 'gzip', 'zstd'], {
      default: 'none',
      description: 'In independent blocks: what reads such files reads the whole, and the index leads to each member.',
    }),
  ),
  durability: DurabilitySchema,
};

export const TarSinkSchema = Type.Object(
  { type: Type.Literal('tar'), ...ShardFields },
  {
    ...closed,
    title: 'Tar',
    description:
      'Archives (pax) `{job}-{number}.tar`, `.tar.gz` or `.tar.zst`, each with a `….index`: name, offset, size, SHA-256, ' +
      'URL and time of each member. An archive is whole or not there, and never changes.',
  },
);

export const NdjsonSinkSchema = Type.Object(
  { type: Type.Literal('ndjson'), ...ShardFields },
  {
    ...closed,
    title: 'Lines of JSON',
    description:
      'For JSON APIs: `{"name", "url", "document"}` on a line each, in `{job}-{number}.ndjson`, `.ndjson.gz` or ' +
      '`.ndjson.zst`, each with a `….index`. What is no JSON fails (`not_json`).',
  },
);

export type ShardSinkSpec = Filled<Static<typeof TarSinkSchema>> | Filled<Static<typeof NdjsonSinkSchema>>;
