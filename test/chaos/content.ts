/** A planned job made real: its file server, what is there before, the order, and what must come of each file. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { JobRequest } from '../../src/schemas.ts';
import { openSink } from '../../src/sinks/index.ts';
import { noteOf, subjectOf } from '../../src/validators.ts';
import { startFileServer, type FileServer } from '../helpers/file-server.ts';
import type { JobPlan, Oddity } from './plan.ts';

/** What must become of one listed item. `body`: what is there at the end; null: no file. */
export interface Expected {
  readonly name: string;
  readonly outcome: 'downloaded' | 'skipped' | 'failed';
  readonly reason: string | null;
  readonly body: Uint8Array | null;
}

export interface JobWorld {
  readonly plan: JobPlan;
  readonly server: FileServer;
  readonly request: JobRequest;
  readonly folder: string;
  /** One for each item of the listing that can be reached. */
  readonly expected: readonly Expected[];
  /** Requests that would be made if nothing went wrong, about. */
  readonly requests: number;
  /** Items that the whole listing has. */
  readonly listed: number;
  /** Files that were there before. */
  readonly there: Readonly<Record<string, Uint8Array>>;
}

const LARGE_BYTES = 150_000;
/** Of every file, for ever: one that is noted with it is not modified, whatever is there. */
const validators = () => ({ etag: '"1"' });
/** Attempts that a file may spend on what the faults do to it; more than there are faults. */
const ATTEMPTS = 12;
const NEXT = {
  marker: 'body',
  'next-file': 'body',
  url: 'body',
  link: 'link',
  page: 'page',
  offset: 'offset',
} as const;

/** What is not odd in a sink. */
const PLAIN_IN: Readonly<Record<JobPlan['sink'], readonly Oddity[]>> = {
  directory: [],
  tar: ['folder', 'double'],
  ndjson: ['folder', 'double', 'empty'],
};

interface Listed extends Expected {
  readonly item: unknown;
}

/** What one item of the listing is, and what is there before. */
class Content {
  readonly bodies: Record<string, Uint8Array> = {};
  readonly there: Record<string, Uint8Array> = {};
  readonly folders: string[] = [];
  /** Of what is there: those that an `update` seems to have stored. */
  readonly noted: string[] = [];
  readonly listed: Listed[] = [];
  readonly #plan: JobPlan;

  constructor(plan: JobPlan) {
    this.#plan = plan;
    const odd = new Map(plan.odd.map(({ kind, at }) => [Math.floor(at * plan.files), kind]));
    for (let index = 0; index < plan.files; index += 1) this.#add(index, odd.get(index) ?? null);
  }

  #add(index: number, planned: Oddity | null): void {
    const odd = planned !== null && PLAIN_IN[this.#plan.sink].includes(planned) ? null : planned;
    const name = nameOf(this.#plan, index, odd);
    switch (odd) {
      case 'missing':
      case 'forbidden':
      case 'broken':
        return this.#fails(name, 'http_status');
      case 'bad':
        return this.#fails('[]', 'bad_item', []);
      case 'unsafe':
        return this.#fails(`../${name}`, 'unsafe_name');
      case 'folder':
        this.folders.push(name);
        return this.#fails(name, 'name_conflict');
      case 'blocked':
        if (this.#plan.objects) return this.#fails(name, 'blocked_address', { name, url: 'http://169.254.1.1/x' });
        break;
      case 'double':
        this.#good(name, index, odd);
        break;
      case 'conflict':
        // Both on one page: across pages nobody sees it.
        if (this.#plan.objects && this.listed.length % this.#plan.pageSize < this.#plan.pageSize - 1) {
          this.#good(name, index, odd);
          return this.#fails(name, 'name_conflict', { name, url: '/elsewhere' }, this.bodies[name]);
        }
        break;
      default:
    }
    this.#good(name, index, odd);
  }

  #good(name: string, index: number, odd: Oddity | null): void {
    const { existing, thereEvery } = this.#plan;
    const body = bodyOf(this.#plan, name, index, odd);
    this.bodies[name] = body;
    let skipped = false;
    // Only what nothing else is odd about: what it was before is known.
    if (odd === null && thereEvery > 0 && index % thereEvery === 0) {
      const old = Buffer.alloc(index % 3 === 0 ? body.length + 1 : body.length, 'old');
      this.there[name] ??= old;
      const noted = existing === 'update' && !this.#plan.objects && index % 3 !== 0;
      if (noted) this.noted.push(name);
      if (this.#plan.objects) skipped = existing !== 'overwrite' && old.length === body.length;
      else skipped = existing === 'skip' || noted;
    }
    this.listed.push({
      name,
      item: this.#item(name, body.length),
      outcome: skipped ? 'skipped' : 'downloaded',
      reason: null,
      body: skipped ? (this.there[name] ?? null) : body,
    });
  }

  #fails(name: string, reason: string, item: unknown = this.#item(name, 100), body: Uint8Array | null = null): void {
    this.listed.push({ name, item, outcome: 'failed', reason, body });
  }

  #item(name: string, size: number): unknown {
    return this.#plan.objects ? { name, size, url: `/get/${encoded(name)}` } : name;
  }
}

/** Starts the job's file server and puts there what is there before. */
export async function makeJob(plan: JobPlan, dataDir: string, path: string): Promise<JobWorld> {
  const content = new Content(plan);
  // The latency that makes the files take as long as planned.
  const latencyMs = Math.min(100, Math.max(1, Math.round((plan.lastsMs * plan.concurrency) / plan.files)));
  const { next, bare, pageSize } = plan;
  const listing = content.listed.map(({ item }) => item);
  const server = await startFileServer({ files: content.bodies, listing, pageSize, next, bare, latencyMs, validators });
  const folder = join(dataDir, path);
  for (const [name, body] of Object.entries(content.there)) write(join(folder, name), body);
  if (content.noted.length > 0) await note(content.noted, server, dataDir, path);
  for (const name of content.folders) mkdirSync(join(folder, name), { recursive: true });
  for (const { kind, at } of plan.odd) {
    const url = `/get/${encoded(nameOf(plan, Math.floor(at * plan.files), kind))}`;
    if (kind === 'forbidden') server.fault(url, { status: 403 });
    if (kind === 'broken') server.fault(url, { status: 500 });
    if (kind === 'flaky') server.fault(url, { status: 500, times: 2 });
    if (kind === 'cut') server.fault(url, { cut: { after: 1, by: 'reset' }, times: 2 });
  }
  const expected = content.listed.slice(0, breakOff(plan, server, listing.length));
  return {
    plan,
    server,
    folder,
    request: order(plan, server, path, content),
    expected,
    requests: expected.filter(({ outcome }) => outcome !== 'skipped').length,
    listed: listing.length,
    there: content.there,
  };
}

/** Notes of these files what an earlier job would have noted. */
async function note(names: readonly string[], server: FileServer, dataDir: string, path: string): Promise<void> {
  const before = { dataDir, jobId: 'before', workerId: 'before' };
  const sink = await openSink({ type: 'directory', path, durability: 'process' }, before);
  const writer = sink.page(0, 'nonce', names);
  for (const name of names) {
    const subject = subjectOf(`${server.origin}/get/${encoded(name)}`, []);
    writer.note?.(name, noteOf(subject, { statusCode: 200, headers: validators() }) ?? '');
  }
  sink.close();
}

/** Makes the page fail at which the listing is to break off. Returns how many names come before it. */
function breakOff({ brokenAt, pageSize, next }: JobPlan, server: FileServer, names: number): number {
  if (brokenAt === null) return names;
  const page = Math.floor(brokenAt * Math.ceil(names / pageSize));
  const from = page * pageSize;
  const asked = next === 'page' ? page + 1 : from;
  const first = page === 0 && next !== 'page' && next !== 'offset';
  server.fault(
    (path) => path.startsWith('/list') && (first ? !path.includes('?') : new RegExp(`=${asked}$`).test(path)),
    { status: 410 },
  );
  return from;
}

function order(plan: JobPlan, server: FileServer, path: string, content: Content): JobRequest {
  const { objects, bare, next, existing, concurrency, maxOutageMs, sink, compression, shardBytes, manifest } = plan;
  const doomed = content.listed.filter(({ outcome }) => outcome === 'failed').length;
  return {
    source: {
      type: 'listing',
      url: server.listUrl,
      next: { in: NEXT[next] },
      ...(bare ? { namesField: '' } : {}),
      ...(objects ? { nameField: '/name', sizeField: '/size', urlField: '/url' } : {}),
    },
    sink: sink === 'directory' ? { type: sink, path, manifest } : { type: sink, path, compression, shardBytes },
    existing,
    retry: { attempts: ATTEMPTS, baseDelayMs: 5, maxDelayMs: 100, maxOutageMs },
    limits: {
      concurrency,
      timeoutMs: 1500,
      ...(plan.limited ? { requestsPerSecond: Math.ceil((1000 * plan.files) / plan.lastsMs) } : {}),
      ...(plan.touchy && doomed > 0 ? { maxFailures: 1 } : {}),
    },
  };
}

function nameOf({ names }: JobPlan, index: number, odd: Oddity | null): string {
  const name = `${odd ?? 'file'}-${index}`;
  if (names === 'folders') return `a${index % 7}/b${index % 31}/${name}.bin`;
  if (names === 'odd') return `ä ${index % 5}/${name} #?%&'+"😀.txt`;
  return `${name}.bin`;
}

function bodyOf({ sink }: JobPlan, name: string, index: number, odd: Oddity | null): Uint8Array {
  const bytes = odd === 'empty' ? 0 : odd === 'large' ? LARGE_BYTES : 20 + ((index * 7919) % 300);
  if (sink === 'ndjson') return Buffer.from(JSON.stringify({ name, fill: 'x'.repeat(bytes) }));
  return bytes === 0 ? Buffer.alloc(0) : Buffer.alloc(bytes, `${name}\n`);
}

function encoded(name: string): string {
  return name.split('/').map(encodeURIComponent).join('/');
}

function write(path: string, body: Uint8Array): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, body);
}
