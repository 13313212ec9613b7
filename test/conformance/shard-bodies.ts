/** Bodies for each kind of shard, and the members of one, read by other programs' code than the one under test. */
import { readFileSync } from 'node:fs';
import { gunzipSync, zstdDecompressSync } from 'node:zlib';
import { unpackTar } from 'modern-tar';
import { isSealed, sealedBody } from './sealed-body.ts';

interface Bodies {
  /** A body that tells by itself whether it is whole and unmixed. */
  readonly seal: (seed: string, bytes: number) => Buffer;
  readonly isWhole: (body: Buffer) => boolean;
  /** The members of a shard, decompressed, by name. */
  readonly members: (shard: Buffer) => Promise<Map<string, Buffer>>;
}

export const bodies: Record<'tar' | 'ndjson', Bodies> = {
  tar: {
    seal: sealedBody,
    isWhole: isSealed,
    async members(shard) {
      const entries = await unpackTar(shard);
      return new Map(entries.map(({ header, data }) => [header.name, Buffer.from(data ?? [])]));
    },
  },
  ndjson: {
    seal: (seed, bytes) => Buffer.from(JSON.stringify(sealedBody(seed, bytes).toString())),
    isWhole: (body) => isSealed(Buffer.from(JSON.parse(body.toString()) as string)),
    async members(shard) {
      const documents = new Map<string, Buffer>();
      for (const line of shard.toString().split('\n').slice(0, -1)) {
        const { name, document } = JSON.parse(line) as { name: string; document: unknown };
        const body = line.slice(line.indexOf(',"document":') + ',"document":'.length, -1);
        if (document === undefined || documents.has(name)) throw new Error(`a line is wrong: ${line.slice(0, 200)}`);
        documents.set(name, Buffer.from(body));
      }
      return documents;
    },
  },
};

/** The file, decompressed as a whole. */
export function decompress(path: string): Buffer {
  const bytes = readFileSync(path);
  if (path.endsWith('.gz')) return gunzipSync(bytes);
  if (!path.endsWith('.zst')) return bytes;
  const frames = [];
  for (let at = 0; at < bytes.length;) {
    // Node decompresses the first frame alone, and tells where it ended.
    const options = { info: true, chunkSize: 1 << 20 };
    const { buffer, engine } = zstdDecompressSync(bytes.subarray(at), options) as unknown as {
      buffer: Buffer;
      engine: { bytesWritten: number };
    };
    frames.push(buffer);
    at += engine.bytesWritten;
  }
  return Buffer.concat(frames);
}

/** To compare members in whatever order they lie in a shard. */
export function byName(members: ReadonlyMap<string, Buffer>): Map<string, Buffer> {
  return new Map([...members].sort(([a], [b]) => (a < b ? -1 : 1)));
}
