import { once } from 'node:events';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { performance } from 'node:perf_hooks';
import { brotliCompressSync, deflateRawSync, deflateSync, gzipSync, zstdCompressSync } from 'node:zlib';
import type { TestContext } from 'node:test';

const coders = {
  gzip: gzipSync,
  'x-gzip': gzipSync,
  deflate: deflateSync,
  'deflate-raw': deflateRawSync,
  br: brotliCompressSync,
  zstd: zstdCompressSync,
} as const;

/** A content coding the server can apply; `deflate-raw` calls itself `deflate`, as some real servers do. */
export type Coding = keyof typeof coders;

/** How one answer differs from the whole, plain one. Everything may be combined; what is left out is as it should be. */
export interface Fault {
  /** Only the first so many asks of each path are answered this way; left out: all. */
  times?: number;
  /** Default 200 (a file that is not there: 404). */
  status?: number;
  /** Added to the headers; a name that is there already is replaced, an empty value takes it away. */
  headers?: Record<string, string>;
  body?: Uint8Array | string;
  /** How the end of the body is told: by content-length (default), by chunks, or by closing the connection. */
  framing?: 'length' | 'chunked' | 'close';
  /** Speaks HTTP/1.0. */
  http10?: boolean;
  /** Says `connection: close` and does so. */
  close?: boolean;
  /** Applied to the body in this order, and named in content-encoding. */
  codings?: readonly Coding[];
  /** What content-encoding says, whatever `codings` did. */
  contentEncoding?: string;
  /**
   * Breaks off: after so many bytes of the (coded) body, or before the first byte of the answer (`'start'`); by a reset,
   * by closing in order, or by silence on an open connection.
   */
  cut?: { after: number | 'start'; by: 'reset' | 'end' | 'silence' };
  /** The body comes in pieces of so many bytes, one each so many milliseconds. */
  slow?: { bytes: number; everyMs: number };
  /** These bytes and nothing else, then the connection is closed. */
  raw?: Uint8Array | string;
}

/** Which requests: a whole path with its query as it was asked, or a pattern or predicate over it. */
export type Match = string | RegExp | ((path: string) => boolean);

/** One request as it came. */
export interface SeenRequest {
  /** With the query, as it stood in the request. */
  readonly path: string;
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  /** performance.now() when it came, in milliseconds. */
  readonly atMs: number;
  /** Counts the server's connections from 0. */
  readonly connection: number;
}

export interface FileServerOptions {
  /** Generated files (`0.bin`, `1.bin`, …): how many; or names (bodies generated); or names with bodies. Default 10. */
  files?: number | readonly string[] | Readonly<Record<string, Uint8Array | string>>;
  /** Size of a generated body, in bytes. Default 100. */
  fileBytes?: number;
  /** Names a page. Default 1,000. */
  pageSize?: number;
  /**
   * How a page of `/list` names the next: `NextMarker` (default) or `NextFile` in the body, an absolute URL as
   * `NextMarker`, a Link header, `?page=` from 1 or `?offset=` from 0 (both end by an empty page).
   */
  next?: 'marker' | 'next-file' | 'url' | 'link' | 'page' | 'offset';
  /** What a page holds: names (default), or objects `{ name, size, url }`. */
  items?: 'names' | 'objects';
  /** What the pages list, in place of the files there are. */
  listing?: readonly unknown[];
  /** The page is the bare array instead of `{ "FileNames": […] }`; for `link`, `page` and `offset`. */
  bare?: boolean;
  /** Headers of a file's answer beside the usual ones: `etag`, `last-modified`, `date`. Asked anew for each answer. */
  validators?: (name: string) => Record<string, string>;
  /** false: conditions of requests are ignored. Default: those that name validators of the file are answered by 304. */
  conditions?: boolean;
  /** Each answer waits so long. Default 0. */
  latencyMs?: number;
  /** false: requests are counted but not kept in `requests` (for millions of files). */
  keepLog?: boolean;
}

/** See `startFileServer`. */
export interface FileServer {
  /** `http://127.0.0.1:port` */
  readonly origin: string;
  /** Where the listing begins: `origin` + `/list`, with `?page=1` or `?offset=0` left to the client. */
  readonly listUrl: string;
  readonly port: number;
  /** Every request, in order of arrival (not with `keepLog: false`). */
  readonly requests: SeenRequest[];
  /** Requests that are being answered now, those held included; and the most there ever were. */
  readonly inFlight: number;
  readonly maxInFlight: number;
  /** Connections ever accepted, and open now. */
  readonly connections: number;
  readonly openConnections: number;
  /** How often a path (with query) was asked; without one: all requests. */
  count(path?: string): number;
  /** The whole body of a file. */
  bodyOf(name: string): Uint8Array;
  /** The path a file is asked at: `/get/` and the name, each segment percent-encoded. */
  pathOf(name: string): string;
  /** Resolves when the path was asked `times` times (default 1) since the start. */
  requested(path: string, times?: number): Promise<void>;
  /** Resolves when a client has closed a connection before an answer for this path was sent whole. */
  abandoned(path: string): Promise<void>;
  /** Misbehaves for these requests until the returned function is called. The fault set last goes first. */
  fault(match: Match, fault: Fault): () => void;
  /** Keeps these requests waiting until the returned function is called. */
  hold(match: Match): () => void;
  /** Refuses connections and resets the open ones, as a machine does whose server died. */
  down(): Promise<void>;
  /** Listens again, on the same port. */
  up(): Promise<void>;
  stop(): Promise<void>;
}

/**
 * A file server for tests on a loopback port: `/list` (see `next`, `items`, `bare`) and `/get/{name}`, HTTP/1.1 with
 * keep-alive, any number of generated files without memory for each. It misbehaves as told:
 *
 *     const server = await startFileServer({ files: 5_000 });
 *     server.fault('/get/3.bin', { status: 503, headers: { 'retry-after': '1' }, times: 2 });
 *     server.fault(/^\/get\/7/, { cut: { after: 50, by: 'reset' } });
 *     const release = server.hold('/get/9.bin');
 *     await server.requested('/get/9.bin');
 *     release();
 *     await server.stop();
 *
 * A redirect is `{ status: 302, headers: { location } }`, a bomb `{ body: Buffer.alloc(1e8), codings: ['gzip'] }`.
 */
export async function startFileServer(options: FileServerOptions = {}): Promise<FileServer> {
  const server = new TestFileServer(options);
  await server.up();
  return server;
}

/** `startFileServer` for one test: it is stopped when the test ends, whatever its outcome. */
export async function fileServer(t: TestContext, options: FileServerOptions): Promise<FileServer> {
  const server = await startFileServer(options);
  t.after(() => server.stop());
  return server;
}

interface Ask {
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly socket: Socket;
  readonly times: number;
  readonly keepAlive: boolean;
  answered: boolean;
}

class TestFileServer implements FileServer {
  readonly requests: SeenRequest[] = [];
  inFlight = 0;
  maxInFlight = 0;
  connections = 0;
  port = 0;
  #options: Required<Omit<FileServerOptions, 'listing'>>;
  #listing: readonly unknown[] | null;
  #names: readonly string[] | null;
  #known: ReadonlySet<string>;
  #bodies: Readonly<Record<string, Uint8Array | string>>;
  #server: Server | null = null;
  #sockets = new Set<Socket>();
  #counts = new Map<string, number>();
  #total = 0;
  #faults: { match: Match; fault: Fault; asks: Map<string, number> }[] = [];
  #holds: { match: Match; released: Promise<void> }[] = [];
  #latches: { path: string; times: number; kind: 'requested' | 'abandoned'; resolve: () => void }[] = [];
  #abandoned = new Set<string>();

  constructor({ listing, ...options }: FileServerOptions) {
    this.#listing = listing ?? null;
    this.#options = {
      files: 10,
      fileBytes: 100,
      pageSize: 1000,
      next: 'marker',
      items: 'names',
      bare: false,
      validators: () => ({}),
      conditions: true,
      latencyMs: 0,
      keepLog: true,
      ...options,
    };
    const files = this.#options.files;
    const named = typeof files === 'object' && !isNames(files);
    this.#bodies = named ? files : {};
    this.#names = typeof files === 'number' ? null : named ? Object.keys(files) : files;
    this.#known = new Set(this.#names);
  }

  get origin(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  get listUrl(): string {
    return `${this.origin}/list`;
  }

  get openConnections(): number {
    return this.#sockets.size;
  }

  count(path?: string): number {
    return path === undefined ? this.#total : (this.#counts.get(path) ?? 0);
  }

  bodyOf(name: string): Uint8Array {
    const given = this.#bodies[name];
    if (given !== undefined) return Buffer.from(given);
    return this.#options.fileBytes === 0 ? Buffer.alloc(0) : Buffer.alloc(this.#options.fileBytes, `${name}\n`);
  }

  pathOf(name: string): string {
    return `/get/${name.split('/').map(encodeURIComponent).join('/')}`;
  }

  requested(path: string, times = 1): Promise<void> {
    if (this.count(path) >= times) return Promise.resolve();
    return new Promise((resolve) => this.#latches.push({ path, times, kind: 'requested', resolve }));
  }

  abandoned(path: string): Promise<void> {
    if (this.#abandoned.has(path)) return Promise.resolve();
    return new Promise((resolve) => this.#latches.push({ path, times: 1, kind: 'abandoned', resolve }));
  }

  fault(match: Match, fault: Fault): () => void {
    const entry = { match, fault, asks: new Map<string, number>() };
    this.#faults.unshift(entry);
    return () => {
      this.#faults = this.#faults.filter((other) => other !== entry);
    };
  }

  hold(match: Match): () => void {
    const { promise, resolve } = Promise.withResolvers<void>();
    const entry = { match, released: promise };
    this.#holds.push(entry);
    return () => {
      this.#holds = this.#holds.filter((other) => other !== entry);
      resolve();
    };
  }

  async down(): Promise<void> {
    if (this.#server === null) return;
    const closed = once(this.#server, 'close');
    this.#server.close();
    this.#server = null;
    for (const socket of this.#sockets) reset(socket);
    await closed;
  }

  async up(): Promise<void> {
    if (this.#server !== null) return;
    const server = createServer({ noDelay: true }, (socket) => this.#accept(socket));
    this.#server = server;
    server.listen({ port: this.port, host: '127.0.0.1', backlog: 4096 });
    await once(server, 'listening');
    this.port = (server.address() as AddressInfo).port;
  }

  stop(): Promise<void> {
    return this.down();
  }

  #accept(socket: Socket): void {
    const connection = this.connections++;
    const asks = new Set<Ask>();
    let text = '';
    this.#sockets.add(socket);
    socket.setEncoding('latin1');
    // A client that resets is no error here: tests make them do so.
    socket.on('error', () => socket.destroy());
    socket.on('close', () => {
      this.#sockets.delete(socket);
      for (const ask of asks) this.#abandon(ask);
    });
    socket.on('data', (chunk) => {
      text += chunk;
      for (let end = text.indexOf('\r\n\r\n'); end >= 0; end = text.indexOf('\r\n\r\n')) {
        const ask = this.#read(text.slice(0, end), socket, connection);
        text = text.slice(end + 4);
        asks.add(ask);
        void this.#answer(ask).finally(() => {
          if (ask.answered) asks.delete(ask);
        });
      }
    });
  }

  #read(head: string, socket: Socket, connection: number): Ask {
    const [first = '', ...lines] = head.split('\r\n');
    const [, path = '', version] = first.split(' ');
    const headers: Record<string, string> = {};
    for (const line of lines) {
      const colon = line.indexOf(':');
      headers[line.slice(0, colon).toLowerCase()] = line.slice(colon + 1).trim();
    }
    const times = this.count(path) + 1;
    this.#counts.set(path, times);
    this.#total += 1;
    this.inFlight += 1;
    this.maxInFlight = Math.max(this.maxInFlight, this.inFlight);
    if (this.#options.keepLog) this.requests.push({ path, headers, atMs: performance.now(), connection });
    this.#trip('requested', path, times);
    const keepAlive = version === 'HTTP/1.1' && headers['connection'] !== 'close';
    return { path, headers, socket, times, keepAlive, answered: false };
  }

  #trip(kind: 'requested' | 'abandoned', path: string, times: number): void {
    if (this.#latches.length === 0) return;
    this.#latches = this.#latches.filter((latch) => {
      if (latch.kind !== kind || latch.path !== path || latch.times > times) return true;
      latch.resolve();
      return false;
    });
  }

  #abandon(ask: Ask): void {
    if (ask.answered) return;
    this.#done(ask);
    this.#abandoned.add(ask.path);
    this.#trip('abandoned', ask.path, 1);
  }

  #done(ask: Ask): void {
    if (ask.answered) return;
    ask.answered = true;
    this.inFlight -= 1;
  }

  async #answer(ask: Ask): Promise<void> {
    for (const hold of this.#holds) if (matches(hold.match, ask.path)) await hold.released;
    if (this.#options.latencyMs > 0) await after(this.#options.latencyMs);
    if (ask.socket.destroyed) return;
    const fault = this.#faultFor(ask.path);
    if (fault.raw !== undefined) {
      this.#done(ask);
      ask.socket.end(Buffer.from(fault.raw));
    } else if (fault.cut?.after === 'start') {
      this.#breakOff(ask, fault.cut.by);
    } else {
      await this.#send(ask, fault);
    }
  }

  #faultFor(path: string): Fault {
    for (const { match, fault, asks } of this.#faults) {
      if (!matches(match, path)) continue;
      if (fault.times === undefined) return fault;
      const asked = (asks.get(path) ?? 0) + 1;
      asks.set(path, asked);
      if (asked <= fault.times) return fault;
    }
    return {};
  }

  async #send(ask: Ask, fault: Fault): Promise<void> {
    const { socket } = ask;
    const { status, headers, body } = this.#compose(ask, fault);
    const head = Object.entries(headers).map(([name, value]) => (value === '' ? '' : `${name}: ${value}\r\n`));
    const start = `HTTP/${fault.http10 ? '1.0' : '1.1'} ${status} Test\r\n${head.join('')}\r\n`;
    const framed = fault.framing === 'chunked' ? chunked(body) : body;
    const cutAt = typeof fault.cut?.after === 'number' ? fault.cut.after : framed.length;
    const sent = framed.subarray(0, cutAt);
    // What the system has taken is answered: a client that stops reading halfway is seen to abandon.
    if (fault.slow === undefined) {
      await flushed(socket, Buffer.concat([Buffer.from(start, 'latin1'), sent]));
    } else {
      await flushed(socket, Buffer.from(start, 'latin1'));
      for (let at = 0; at < sent.length && !socket.destroyed; at += fault.slow.bytes) {
        await after(fault.slow.everyMs);
        await flushed(socket, sent.subarray(at, at + fault.slow.bytes));
      }
    }
    if (socket.destroyed) return;
    if (fault.cut !== undefined) this.#breakOff(ask, fault.cut.by);
    else {
      this.#done(ask);
      if (headers['connection'] === 'close') socket.end();
    }
  }

  #compose(ask: Ask, fault: Fault): { status: number; headers: Record<string, string>; body: Uint8Array } {
    const plain = this.#plain(ask);
    let body: Uint8Array = fault.body === undefined ? plain.body : Buffer.from(fault.body);
    for (const coding of fault.codings ?? []) body = coders[coding](body);
    const status = fault.status ?? plain.status;
    const framing = fault.framing ?? 'length';
    const close = fault.close === true || fault.http10 === true || framing === 'close' || !ask.keepAlive;
    const names = (fault.codings ?? []).map((coding) => (coding === 'deflate-raw' ? 'deflate' : coding));
    const headers = {
      ...plain.headers,
      'content-length': framing === 'length' && status !== 204 && status !== 304 ? String(body.length) : '',
      'transfer-encoding': framing === 'chunked' ? 'chunked' : '',
      'content-encoding': fault.contentEncoding ?? names.join(', '),
      connection: close ? 'close' : 'keep-alive',
      ...fault.headers,
    };
    return { status, headers, body: status === 204 || status === 304 ? Buffer.alloc(0) : body };
  }

  #breakOff(ask: Ask, by: 'reset' | 'end' | 'silence'): void {
    // Silence stays in flight until the client gives up.
    if (by === 'silence') return;
    this.#done(ask);
    if (by === 'end') ask.socket.end();
    else reset(ask.socket);
  }

  #plain({ path, headers: asked }: Ask): { status: number; headers: Record<string, string>; body: Uint8Array } {
    const url = new URL(path, this.origin);
    if (url.pathname === '/list') return this.#page(url);
    const name = url.pathname.startsWith('/get/') ? decodeURIComponent(url.pathname.slice(5)) : '';
    if (!this.#has(name)) {
      return { status: 404, headers: { 'content-type': 'text/plain' }, body: Buffer.from('not found\n') };
    }
    const validators = this.#options.validators(name);
    const headers = { 'content-type': 'application/octet-stream', ...validators };
    const status = this.#options.conditions && isUnmodified(asked, validators) ? 304 : 200;
    return { status, headers, body: this.bodyOf(name) };
  }

  #has(name: string): boolean {
    if (this.#names !== null) return this.#known.has(name);
    const number = /^(0|[1-9]\d*)\.bin$/.exec(name)?.[1];
    return number !== undefined && Number(number) < (this.#options.files as number);
  }

  #page(url: URL): { status: number; headers: Record<string, string>; body: Uint8Array } {
    const { pageSize, next, bare, items } = this.#options;
    const size = (this.#listing ?? this.#names)?.length ?? (this.#options.files as number);
    const param = next === 'page' || next === 'offset' ? next : 'next-marker';
    const asked = Number(url.searchParams.get(param) ?? (next === 'page' ? 1 : 0));
    const from = next === 'page' ? (asked - 1) * pageSize : asked;
    const to = Math.min(from + pageSize, size);
    const list: unknown[] = this.#listing?.slice(from, to) ?? [];
    for (let index = from; index < to && this.#listing === null; index++) {
      const name = this.#names === null ? `${index}.bin` : this.#names[index]!;
      const object = () => ({ name, size: this.bodyOf(name).length, url: this.origin + this.pathOf(name) });
      list.push(items === 'names' ? name : object());
    }
    const page: Record<string, unknown> = { FileNames: list };
    const headers: Record<string, string> = { 'content-type': 'application/json' };
    const following = `${url.pathname}?next-marker=${to}`;
    if (to < size) {
      if (next === 'marker') page['NextMarker'] = String(to);
      if (next === 'next-file') page['NextFile'] = String(to);
      if (next === 'url') page['NextMarker'] = this.origin + following;
      if (next === 'link') headers['link'] = `<${following}>; rel="next"`;
    }
    return { status: 200, headers, body: Buffer.from(JSON.stringify(bare ? list : page)) };
  }
}

function isNames(files: object): files is readonly string[] {
  return Array.isArray(files);
}

function matches(match: Match, path: string): boolean {
  if (typeof match === 'string') return match === path;
  return match instanceof RegExp ? match.test(path) : match(path);
}

/** RFC 9110, 13.1.2 and 13.1.3. */
function isUnmodified(asked: Readonly<Record<string, string>>, validators: Record<string, string>): boolean {
  const { 'if-none-match': tags, 'if-modified-since': since } = asked;
  const { etag, 'last-modified': modified } = validators;
  if (tags !== undefined) return etag?.replace('W/', '') === tags.replace('W/', '');
  return since !== undefined && modified !== undefined && Date.parse(modified) <= Date.parse(since);
}

function chunked(body: Uint8Array): Uint8Array {
  const half = Math.ceil(body.length / 2);
  const parts = [body.subarray(0, half), body.subarray(half)].filter((part) => part.length > 0);
  const pieces = parts.flatMap((part) => [Buffer.from(`${part.length.toString(16)}\r\n`), part, Buffer.from('\r\n')]);
  return Buffer.concat([...pieces, Buffer.from('0\r\n\r\n')]);
}

function reset(socket: Socket): void {
  // Node loses hold of a socket that is reset while it is closing in order, and then never ends its process.
  if (socket.writableEnded) socket.destroy();
  else socket.resetAndDestroy();
}

/** Resolves when the system has taken the bytes, or the connection is gone. */
function flushed(socket: Socket, bytes: Uint8Array): Promise<void> {
  return new Promise((resolve) => {
    socket.write(bytes, () => resolve());
  });
}

function after(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}
