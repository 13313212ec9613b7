/** Gets files over HTTP: one attempt at one request each. Retries and redirects are the caller's. */
import packageJson from '../package.json' with { type: 'json' };
import type { AnswerHeaders } from './answers.ts';
import { FetchError } from './errors.ts';
import { RunningExchange } from './exchange.ts';
import type { HttpAgent } from './http.ts';
import type { BodyWriter } from './sinks/index.ts';
import { Tally } from './tally.ts';
import type { Condition } from './validators.ts';

/** Bodies up to this size are handed over in memory. */
export const SMALL_BODY_BYTES = 65_536;

const sweepMs = 50;

/** What to get. Read until the exchange ends, never changed. */
export interface FetchRequest {
  /** "http://host:port" */
  readonly origin: string;
  /** Starts with "/", holds the query; ASCII. */
  readonly path: string;
  /** Flat: name, value, …; the same array for many requests is quickest. It must not change once it was used. */
  readonly headers: readonly string[];
  /** Sent along with the headers: 304 is an answer then. */
  readonly condition?: Condition | null;
  /** What the listing says, null where it says nothing. */
  readonly sizeBytes: number | null;
  /** Bounds connecting, waiting for the head of the answer, and silence in the body, each. */
  readonly timeoutMs: number;
  /** 0: none. A body that is slower, on average since its first byte, is cut once it took `timeoutMs`. */
  readonly minBytesPerSecond: number;
  /** Of the body, decoded. */
  readonly maxBytes: number;
  /** Bodies up to this size are handed over in memory, larger ones go to `open()`. */
  readonly memoryBytes: number;
}

/** A whole file; or, by its status, that it is not modified (304): then no body and no bytes. */
export interface Answer {
  readonly statusCode: number;
  readonly headers: AnswerHeaders;
  /** null: it went to the writer, which is finished; or there is none. */
  readonly body: Uint8Array | null;
  /** The size of the body, decoded. */
  readonly bytes: number;
}

/** Is told how an exchange ends: by exactly one of the last three, once, never from within `start`. */
export interface FetchHandler {
  /**
   * Called at most once, when the body outgrows `memoryBytes`. null: there is no room for such bodies (`too_large`).
   * Throws FetchError.
   */
  open(): BodyWriter | null;
  onBody(answer: Answer): void;
  /** 301, 302, 303, 307, 308; `location` is an absolute http(s) URL without fragment and credentials. */
  onRedirect(location: string): void;
  /** All reasons of FetchError but those of listings and names. What was written was aborted before. */
  onError(error: FetchError): void;
}

/** One request on its way. */
export interface Exchange {
  /** Ends it at once with `onError(error)`; does nothing after its end. */
  abort(error: FetchError): void;
}

/** Runs exchanges, as many at once as are started, on the connections of one agent. */
export class Fetcher {
  /** Exchanges are counted here; what becomes of the files is the caller's to count. */
  readonly tally = new Tally();
  readonly #agent: HttpAgent;
  readonly #headers = new WeakMap<readonly string[], string[]>();
  readonly #running: RunningExchange[] = [];
  #sweeper: NodeJS.Timeout | null = null;
  #sweptAt = 0;
  #clockMs = 0;

  constructor(agent: HttpAgent) {
    this.#agent = agent;
  }

  get inFlight(): number {
    return this.#running.length;
  }

  get maxInFlight(): number {
    return this.#agent.maxConnections;
  }

  /** To be asked before `start`. A few more than that, as listings need them, do no harm. */
  get hasRoom(): boolean {
    return this.#running.length < this.#agent.maxConnections;
  }

  /**
   * Milliseconds, as they were at the last sweep, at most 50 ms ago. Asking the system's clock for each file costs more
   * than it tells.
   */
  get clockMs(): number {
    return this.#clockMs;
  }

  start(request: FetchRequest, handler: FetchHandler): Exchange {
    const exchange = new RunningExchange(this, this.#agent, request, handler);
    exchange.index = this.#running.push(exchange) - 1;
    if (this.#sweeper === null) {
      this.#sweptAt = performance.now();
      this.#sweeper = setInterval(() => this.#sweep(), sweepMs).unref();
    }
    const headers = this.#headersFor(request.headers);
    exchange.begin(request.condition ? [...headers, ...request.condition] : headers);
    return exchange;
  }

  /** Ends all that is in flight with a retryable `connection` error. The agent stays open. */
  close(): void {
    for (const exchange of this.#running.slice()) {
      exchange.abort(new FetchError('connection', 'shutting down', { retryable: true }));
    }
    this.#stopSweeper();
  }

  #headersFor(given: readonly string[]): string[] {
    let headers = this.#headers.get(given);
    if (headers === undefined) {
      headers = completeHeaders(given);
      this.#headers.set(given, headers);
    }
    return headers;
  }

  /** For exchanges: this one has ended. */
  remove(exchange: RunningExchange): void {
    const last = this.#running.pop()!;
    if (last === exchange) return;
    this.#running[exchange.index] = last;
    last.index = exchange.index;
  }

  #sweep(): void {
    if (this.#running.length === 0) return this.#stopSweeper();
    const now = performance.now();
    // While the process was held up it read nothing: that is no server's silence.
    this.#clockMs += Math.min(now - this.#sweptAt, 2 * sweepMs);
    this.#sweptAt = now;
    for (let index = this.#running.length - 1; index >= 0; index--) this.#running[index]?.checkTime(this.#clockMs);
  }

  #stopSweeper(): void {
    if (this.#sweeper !== null) clearInterval(this.#sweeper);
    this.#sweeper = null;
  }
}

function completeHeaders(given: readonly string[]): string[] {
  const headers = ['accept-encoding', 'identity'];
  let userAgent = `gigafetch/${packageJson.version}`;
  for (let index = 0; index + 1 < given.length; index += 2) {
    const name = given[index]!.toLowerCase();
    if (name === 'user-agent') userAgent = given[index + 1]!;
    else if (name !== 'accept-encoding') headers.push(given[index]!, given[index + 1]!);
  }
  headers.push('user-agent', userAgent);
  return headers;
}
