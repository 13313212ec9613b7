/** Compares a shard with its index, byte for byte: bodies by their hashes, all else with what the index makes of it. */
import { createHash } from 'node:crypto';
import { systemCode } from '../../errors.ts';
import type { Finding } from '../../manifest-schemas.ts';
import type { Checked } from '../stored.ts';
import type { Layout } from './layout.ts';
import { decompressed, indexOf, linesUntilDamage, type Member } from './read-shard.ts';

/** Whether a line of an index says what such a line must. */
export function isMember({ name, offset, size, sha256, url, at }: Member): boolean {
  const isAt = Number.isSafeInteger(offset) && offset >= 0 && Number.isSafeInteger(size) && size >= 0;
  return isAt && [name, sha256, url].every((text) => typeof text === 'string') && !Number.isNaN(Date.parse(at));
}

/**
 * What is wrong with the shard of that name in the folder `root`, or with its index; both are there. Memory is flat. Throws
 * where `checked.signal` aborts.
 */
export async function* checkShard(
  root: string,
  shard: string,
  { layout: newLayout, end }: { layout: () => Layout; end: Uint8Array },
  checked: Checked,
): AsyncGenerator<Finding> {
  const layout = newLayout();
  const bytes = new ShardBytes(root + shard, checked);
  const index = indexOf(shard);
  const inIndex = (message: string): Finding => {
    checked.partly = true;
    return { problem: 'index', name: null, path: index, files: 0, message };
  };
  let unread = 0;
  try {
    for await (const member of linesUntilDamage(root + index, isMember)) {
      if (member instanceof Error) {
        yield inIndex(member.message);
        return;
      }
      const frames = framesOf(layout, member);
      if (!bytes.over && member.offset - frames.head.length < bytes.at) {
        yield inIndex(`"${member.name}" would begin inside of what stands before it`);
        return;
      }
      checked.filesChecked += 1;
      checked.filesInManifest += member.listed ?? 1;
      const findings = await compare(bytes, member, frames);
      if (bytes.over) unread += 1;
      else if (findings.every(({ files }) => files === 0)) checked.filesRight += 1;
      for (const finding of findings) yield { ...finding, path: shard };
    }
    const isEnd = await bytes.same(end);
    const atEnd = { name: null, path: shard };
    if (bytes.over) {
      yield { problem: bytes.problem, ...atEnd, files: unread, message: `after ${bytes.at} bytes ${bytes.why}` };
    } else if (!isEnd || (await bytes.hasMore())) {
      yield { problem: 'unlisted', ...atEnd, files: 0, message: 'the index has nothing for what stands at its end' };
    }
  } finally {
    await bytes.close();
  }
}

/** What is wrong with one member, and with what stands between the one before and it. */
async function compare(
  bytes: ShardBytes,
  { name, offset, size, sha256 }: Member,
  { head, tail }: { head: Buffer; tail: Buffer },
): Promise<Omit<Finding, 'path'>[]> {
  const findings: Omit<Finding, 'path'>[] = [];
  const between = offset - head.length - bytes.at;
  await bytes.read(offset - head.length);
  const isHead = await bytes.same(head);
  const digest = createHash('sha256');
  await bytes.read(offset + size, (piece) => digest.update(piece));
  const isTail = await bytes.same(tail);
  // It is told at the end.
  if (bytes.over) return findings;
  if (between > 0) {
    const message = `the index has nothing for the ${between} bytes before "${name}"`;
    findings.push({ problem: 'unlisted', name: null, files: 0, message });
  }
  if (digest.digest('hex') !== sha256) {
    findings.push({ problem: 'checksum', name, files: 1, message: 'its content is another one' });
  } else if (!isHead || !isTail) {
    findings.push({ problem: 'damaged', name, files: 1, message: 'what stands around it is not as it was' });
  }
  return findings;
}

/** What stands before and behind a body. */
function framesOf(layout: Layout, { name, url, size, at }: Member): { head: Buffer; tail: Buffer } {
  const buffer = Buffer.alloc(layout.frameBytesMax(name, url));
  const seconds = Math.floor(Date.parse(at) / 1000);
  const bodyAt = layout.head({ buffer, used: 0 }, name, url, size, seconds);
  return { head: buffer.subarray(0, bodyAt), tail: buffer.subarray(bodyAt, layout.tail(buffer, bodyAt, size)) };
}

/** A shard as it is read from its begin to its end, unpacked. */
class ShardBytes {
  /** How much was read. */
  at = 0;
  /** It ended before what was to be read did. */
  over = false;
  why = 'it ends';
  problem: Finding['problem'] = 'damaged';
  readonly #chunks: AsyncGenerator<Buffer>;
  readonly #checked: Checked;
  #rest: Buffer = Buffer.alloc(0);

  constructor(path: string, checked: Checked) {
    this.#chunks = decompressed(path);
    this.#checked = checked;
  }

  /** Reads up to there. False: it is over before. */
  async read(end: number, take: (piece: Buffer) => void = () => {}): Promise<boolean> {
    while (this.at < end) {
      if (!(await this.hasMore())) {
        this.over = true;
        return false;
      }
      const piece = this.#rest.subarray(0, end - this.at);
      take(piece);
      this.at += piece.length;
      this.#rest = this.#rest.subarray(piece.length);
    }
    return true;
  }

  /** Reads as many bytes; whether they are these. */
  async same(bytes: Uint8Array): Promise<boolean> {
    const begin = this.at;
    let same = true;
    const reached = await this.read(begin + bytes.length, (piece) => {
      const from = this.at - begin;
      same &&= piece.equals(bytes.subarray(from, from + piece.length));
    });
    return reached && same;
  }

  async hasMore(): Promise<boolean> {
    while (this.#rest.length === 0) {
      this.#checked.signal.throwIfAborted();
      try {
        const next = await this.#chunks.next();
        if (next.done === true) return false;
        this.#rest = next.value;
        Atomics.add(this.#checked.bytes, 0, BigInt(next.value.length));
      } catch (error) {
        const code = systemCode(error) ?? '';
        if (!code.startsWith('Z')) this.problem = 'unreadable';
        this.why = `it cannot be ${code.startsWith('Z') ? 'unpacked' : 'read'} any further (${code})`;
        return false;
      }
    }
    return true;
  }

  async close(): Promise<void> {
    await this.#chunks.return(undefined);
  }
}
