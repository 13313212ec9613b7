/** Connections: how many there may be, kept alive, one undici Client for each. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import type { LookupFunction, Socket } from 'node:net';
import { Client, buildConnector } from 'undici';
import { cachedLookup } from './dns.ts';
import { FetchError } from './errors.ts';
import { onread, readInPlace, takeReads } from './socket-reads.ts';

const connectionsMax = 65_536;
// Files being written, Redis, listeners, the runtime's own.
const reservedFilesMin = 64;
const idleMs = 4_000;

/**
 * How many connections this process may hold: its limit of open files less a tenth (at least 64) for all else, at most
 * 65,536. `openFilesLimit` is null where the system sets none. To be asked once, at start: it may run a shell.
 */
export function connectionLimit(): { connections: number; openFilesLimit: number | null } {
  const openFilesLimit = readOpenFilesLimit();
  if (openFilesLimit === null) return { connections: connectionsMax, openFilesLimit };
  const reserved = Math.max(reservedFilesMin, Math.ceil(openFilesLimit / 10));
  return { connections: Math.max(1, Math.min(connectionsMax, openFilesLimit - reserved)), openFilesLimit };
}

function readOpenFilesLimit(): number | null {
  const said =
    process.platform === 'linux'
      ? /^Max open files +(\S+)/m.exec(readFileSync('/proc/self/limits', 'latin1'))?.[1]
      : execFileSync('sh', ['-c', 'ulimit -n'], { encoding: 'latin1' }).trim();
  const limit = Number(said);
  return Number.isSafeInteger(limit) ? limit : null;
}

/**
 * Opens one connection. It returns the socket while it is still connecting, so that it can be given up; what wraps it
 * to check addresses does the same.
 */
export type Connector = (options: buildConnector.Options, callback: buildConnector.Callback) => Socket;

/** TCP or TLS to any address at all, names looked up by `lookup`. `tls`: options of tls.connect, such as `ca`. */
export function openConnector({
  lookup = cachedLookup(),
  ...tls
}: { lookup?: LookupFunction; ca?: string } = {}): Connector {
  const connect = buildConnector({
    allowH2: false,
    // The fetch engine has its own deadline for this.
    timeout: 0,
    lookup,
    // The default of 250 ms gives up addresses that are merely far away.
    autoSelectFamilyAttemptTimeout: 1_000,
    onread,
    ...tls,
  });
  // undici's types keep to themselves that it returns the socket.
  const open = connect as unknown as Connector;
  return (options, callback) => takeReads(open(options, callback));
}

/** A connection that serves one request at a time. undici connects it when it is first used, and again if it must. */
export interface Connection {
  readonly origin: string;
  readonly client: Client;
  /** The socket, as it is now, has brought a whole answer before. */
  answered: boolean;
  /** Rises with each release, 0 while in use. */
  idleSince: number;
  socket: Socket | null;
}

/**
 * All connections of a process. Idle ones are kept in a stack for each origin, so that the warmest is used first and
 * superfluous ones grow cold: after 4 s idle (or what the server's Keep-Alive header says) a connection is closed and
 * forgotten.
 */
export class HttpAgent {
  readonly maxConnections: number;
  readonly #connector: Connector;
  readonly #all = new Set<Connection>();
  readonly #idle = new Map<string, Connection[]>();
  #releases = 0;
  #closed = false;

  constructor(options: { maxConnections?: number; connector?: Connector } = {}) {
    this.maxConnections = options.maxConnections ?? connectionLimit().connections;
    this.#connector = options.connector ?? openConnector();
  }

  /** Connections open or being opened. */
  get connections(): number {
    return this.#all.size;
  }

  /**
   * A connection to `origin` ("https://host:port") for one exchange. Where there are `maxConnections`, the longest idle
   * one is closed for it; it is the caller's to have no more exchanges than that. Throws undici's InvalidArgumentError
   * for an origin that is none, FetchError (`connection`) after `close`.
   */
  acquire(origin: string): Connection {
    if (this.#closed) throw new FetchError('connection', 'shutting down', { retryable: true });
    const warm = this.#idle.get(origin)?.pop();
    if (warm !== undefined) {
      warm.idleSince = 0;
      return warm;
    }
    if (this.#all.size >= this.maxConnections) this.#closeLongestIdle();
    return this.#open(origin);
  }

  /** Gives back a connection whose exchange ended whole. */
  release(connection: Connection): void {
    // It closed while the body was still being decoded: nothing would ever tell to forget it.
    if (connection.socket === null) return this.drop(connection);
    readInPlace(connection.socket, false);
    connection.idleSince = ++this.#releases;
    const stack = this.#idle.get(connection.origin);
    if (stack === undefined) this.#idle.set(connection.origin, [connection]);
    else stack.push(connection);
  }

  /** Closes a connection at once, whatever it is doing. */
  drop(connection: Connection): void {
    this.#forget(connection);
    connection.client.destroy(null, ignore);
    // A socket that is still connecting is not yet the Client's to destroy.
    connection.socket?.destroy();
  }

  /** Closes every connection at once. What is in flight on them fails. */
  close(): void {
    this.#closed = true;
    for (const connection of this.#all) this.drop(connection);
  }

  #open(origin: string): Connection {
    const client = new Client(origin, {
      connect: (options, callback) => {
        connection.socket = this.#connector(options, callback);
      },
      pipelining: 1,
      allowH2: false,
      keepAliveTimeout: idleMs,
      // The fetch engine times all exchanges by one timer.
      headersTimeout: 0,
      bodyTimeout: 0,
    });
    const connection: Connection = { origin, client, answered: false, idleSince: 0, socket: null };
    client.on('disconnect', () => {
      connection.answered = false;
      connection.socket = null;
      if (connection.idleSince > 0) this.#forget(connection);
    });
    this.#all.add(connection);
    return connection;
  }

  #forget(connection: Connection): void {
    this.#all.delete(connection);
    const stack = this.#idle.get(connection.origin);
    if (stack === undefined) return;
    if (connection.idleSince > 0) {
      connection.idleSince = 0;
      stack.splice(stack.indexOf(connection), 1);
    }
    if (stack.length === 0) this.#idle.delete(connection.origin);
  }

  #closeLongestIdle(): void {
    let longest: Connection | undefined;
    // Of each stack, the bottom.
    for (const [connection] of this.#idle.values()) {
      if (connection !== undefined && connection.idleSince < (longest?.idleSince ?? Infinity)) longest = connection;
    }
    if (longest !== undefined) this.drop(longest);
  }
}

function ignore(): void {}
