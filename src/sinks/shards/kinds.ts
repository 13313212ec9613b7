import type { Sink, SinkContext } from '../index.ts';
import type { Stored } from '../stored.ts';
import { shards } from './index.ts';
import { NdjsonSinkSchema, TarSinkSchema, type ShardSinkSpec } from './shard-specs.ts';
import { StoredShards } from './stored-shards.ts';

const kind = {
  open(spec: ShardSinkSpec, context: SinkContext): Promise<Sink> {
    return shards.open(spec, context);
  },
  stored(spec: ShardSinkSpec, root: string, jobId: string): Stored {
    return new StoredShards(root, spec, jobId);
  },
};

export const tar = { ...kind, schema: TarSinkSchema };
export const ndjson = { ...kind, schema: NdjsonSinkSchema };
