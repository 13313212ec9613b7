/** The sinks that can be ordered. */
import { Type, type Static } from 'typebox';
import { closed, literals, whole, type Filled } from '../schema-parts.ts';

const PathSchema = Type.Optional(
  Type.String({
    minLength: 1,
    maxLength: 1024,
    description: "The folder below DATA_DIR: relative, at least one part, no `.` or `..`; default: the job's id.",
    examples: ['mirror-a'],
  }),
);

const DurabilitySchema = Type.Optional(
  literals(['process', 'power'], {
    default: 'process',
    description:
      '`process`: what is stored survives any end of processes. `power`: it is on the disk before its page counts as done.',
  }),
);

const ManifestSchema = Type.Optional(
  Type.Boolean({
    default: false,
    description:
      'Keeps URL, size, SHA-256 and time of each file beside the files, for `GET /jobs/{id}/manifest` and ' +
      '`POST /jobs/{id}/verify`. Archives always do.',
  }),
);

export const DirectorySinkSchema = Type.Object(
  { type: Type.Literal('directory'), path: PathSchema, durability: DurabilitySchema, manifest: ManifestSchema },
  {
    ...closed,
    title: 'Directory',
    description: "A file for each name; a name's `/` makes folders. A file is whole or not there.",
  },
);

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

type AnySink = Static<typeof DirectorySinkSchema> | Static<typeof TarSinkSchema> | Static<typeof NdjsonSinkSchema>;

export const SinkSchema = Type.Unsafe<AnySink>({
  type: 'object',
  description: "Where the files go; default: a directory named by the job's id.",
  required: ['type'],
  discriminator: { propertyName: 'type' },
  oneOf: [DirectorySinkSchema, TarSinkSchema, NdjsonSinkSchema],
});

/** `manifest` is lacking in orders that are older than it. */
export type DirectorySinkSpec = Omit<Filled<Static<typeof DirectorySinkSchema>>, 'manifest'> & {
  manifest?: boolean;
};
export type ShardSinkSpec = Filled<Static<typeof TarSinkSchema>> | Filled<Static<typeof NdjsonSinkSchema>>;
export type SinkSpec = DirectorySinkSpec | ShardSinkSpec;
