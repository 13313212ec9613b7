/** One request on its way, from its connection to its end. */
import type { Dispatcher } from 'undici';
import {
  bodyError,
  connectionError,
  contentLength,
  endsByClosing,
  isSuccess,
  redirectTarget,
  statusError,
  type AnswerHeaders,
} from './answers.ts';
import { Body, tooLarge } from './body.ts';
import { Decoder, contentCodings, type DecoderOutput } from './decode.ts';
import { FetchError } from './errors.ts';
import type { Answer, Exchange, Fetcher, FetchHandler, FetchRequest } from './fetch-file.ts';
import type { Connection, HttpAgent } from './http.ts';
import { holdReads, readInPlace } from './socket-reads.ts';

// What is thrown away to keep a connection rather than open a new one.
const drainBytesMax = 65_536;
// How far behind the fetcher's clock may be.
const clockLagMs = 50;

const noHeaders: AnswerHeaders = {};

/** Coded bytes may stand for nothing at all, without end: no honest coding doubles a body, but for the smallest. */
function codedBytesMax(maxBytes: number): number {
  return 2 * maxBytes + 65_536;
}

/** `own`: what is being waited for is this process itself, decoding. */
type Phase = 'own' | 'connecting' | 'waiting' | 'body';

/** A text: a redirect's target. */
type Outcome = Answer | FetchError | string;

const overdue = { connecting: 'no connection', waiting: 'no answer', body: 'no more of the body' };

/** undici calls the `on…` methods; `Fetcher` is the only one to make these. */
export class RunningExchange implements Exchange, Dispatcher.DispatchHandler, DecoderOutput {
  /** Its place among those that run. */
  index = 0;
  readonly #fetcher: Fetcher;
  readonly #agent: HttpAgent;
  readonly #request: FetchRequest;
  readonly #handler: FetchHandler;
  readonly #body: Body;
  #connection: Connection | null = null;
  /** undici has it in hand. */
  #dispatched = false;
  #phase: Phase = 'own';
  /** The fetcher's clock when the phase began or bytes came last. */
  #sinceMs = 0;
  #bodySinceMs = 0;
  /** Of performance.now(). */
  #startedMs = 0;
  #answering = false;
  #done = false;
  #statusCode = 0;
  #headers: AnswerHeaders = noHeaders;
  /** How it will end once the rest of the answer, which is of no use, is there. */
  #verdict: Outcome | null = null;
  #receivedBytes = 0;
  #decoder: Decoder | null = null;

  constructor(fetcher: Fetcher, agent: HttpAgent, request: FetchRequest, handler: FetchHandler) {
    this.#fetcher = fetcher;
    this.#agent = agent;
    this.#request = request;
    this.#handler = handler;
    this.#body = new Body(request, handler);
  }

  begin(headers: string[]): void {
    this.#startedMs = performance.now();
    try {
      this.#connection = this.#agent.acquire(this.#request.origin);
      this.#enter('connecting');
      this.#connection.client.dispatch({ path: this.#request.path, method: 'GET', headers }, this);
    } catch (error) {
      // An origin that is none, or an agent that is closed.
      const failure =
        error instanceof FetchError ? error : new FetchError('connection', String(error), { cause: error });
      queueMicrotask(() => this.#fail(failure));
    }
  }

  abort(error: FetchError): void {
    if (!this.#done) this.#cut(error);
  }

  /** Ends it if it has taken too long. */
  checkTime(clockMs: number): void {
    if (this.#phase === 'own') return;
    const { timeoutMs, minBytesPerSecond } = this.#request;
    if (clockMs - this.#sinceMs >= timeoutMs + clockLagMs) {
      const message = `${overdue[this.#phase]} within ${timeoutMs} ms`;
      this.#fail(new FetchError('timeout', message, { retryable: true }));
    } else if (this.#receivedBytes > 0) {
      const took = clockMs - this.#bodySinceMs;
      if (took < timeoutMs + clockLagMs || this.#receivedBytes * 1000 >= minBytesPerSecond * took) return;
      const message = `${this.#receivedBytes} bytes of the body in ${Math.round(took)} ms`;
      this.#fail(new FetchError('too_slow', message, { retryable: true }));
    }
  }

  onRequestStart(): void {
    this.#dispatched = true;
    this.#enter('waiting');
  }

  onResponseStarted(): void {
    this.#answering = true;
  }

  onResponseStart(_controller: Dispatcher.DispatchController, statusCode: number, headers: AnswerHeaders): void {
    // Informational answers (1xx) come before the answer.
    if (this.#done || statusCode < 200) return;
    this.#statusCode = statusCode;
    this.#headers = headers;
    this.#enter('body');
    if (isSuccess(statusCode)) {
      try {
        this.#expectBody();
      } catch (error) {
        this.#fail(error);
      }
      return;
    }
    this.#verdict = this.#judge(statusCode, headers);
    if ((contentLength(headers) ?? 0) > drainBytesMax || endsByClosing(statusCode, headers)) this.#cut(this.#verdict);
  }

  onResponseData(_controller: Dispatcher.DispatchController, chunk: Uint8Array): void {
    if (this.#done) return;
    this.#sinceMs = this.#fetcher.clockMs;
    if (this.#receivedBytes === 0) this.#bodySinceMs = this.#sinceMs;
    this.#receivedBytes += chunk.length;
    if (this.#verdict !== null) {
      if (this.#receivedBytes > drainBytesMax) this.#cut(this.#verdict);
    } else if (this.#decoder === null) {
      this.data(chunk);
      const socket = this.#connection?.socket;
      if (this.#body.isWritten && socket != null) readInPlace(socket, true);
    } else if (this.#receivedBytes > codedBytesMax(this.#request.maxBytes)) {
      this.#fail(tooLarge(codedBytesMax(this.#request.maxBytes)));
    } else if (!this.#decoder.write(chunk)) {
      this.#hold(true);
      this.#phase = 'own';
    }
  }

  onResponseEnd(): void {
    if (this.#done) return;
    this.#dispatched = false;
    if (this.#verdict !== null) return this.#end(this.#verdict, null);
    this.#hold(false);
    // Nothing at all is an empty file in any coding.
    if (this.#decoder === null || this.#receivedBytes === 0) return this.decoded();
    this.#phase = 'own';
    this.#decoder.end();
  }

  onResponseError(_controller: unknown, error: Error): void {
    if (this.#done) return;
    if (this.#statusCode > 0) return this.#fail(bodyError(error));
    const stale = this.#phase === 'waiting' && !this.#answering && this.#connection?.answered === true;
    const failure = connectionError(error, stale);
    // undici may call this from within dispatch, so from within start.
    if (this.#dispatched) this.#fail(failure);
    else queueMicrotask(() => this.#fail(failure));
  }

  data(chunk: Uint8Array): void {
    if (this.#done) return;
    try {
      this.#body.take(chunk);
    } catch (error) {
      this.#fail(error);
    }
  }

  drained(): void {
    if (!this.#dispatched || this.#done) return;
    // The server waited meanwhile.
    this.#bodySinceMs += this.#fetcher.clockMs - this.#sinceMs;
    this.#enter('body');
    this.#hold(false);
  }

  undecodable(error: FetchError): void {
    this.#fail(error);
  }

  decoded(): void {
    if (this.#done) return;
    let body;
    try {
      const { bytes } = this.#body;
      const { sizeBytes } = this.#request;
      if (sizeBytes !== null && bytes !== sizeBytes) {
        const message = `the body has ${bytes} bytes, the listing says ${sizeBytes}`;
        throw new FetchError('truncated', message, { retryable: true });
      }
      body = this.#body.finish();
    } catch (error) {
      return this.#fail(error);
    }
    this.#end({ statusCode: this.#statusCode, headers: this.#headers, body, bytes: this.#body.bytes }, null);
  }

  #judge(statusCode: number, headers: AnswerHeaders): Outcome {
    const { origin, path, condition } = this.#request;
    if (statusCode === 304 && condition) return { statusCode, headers, body: null, bytes: 0 };
    return redirectTarget(statusCode, headers, origin + path) ?? statusError(statusCode, headers);
  }

  /**
   * Waits for the decoder. undici's own `pause` would keep an answer that is there whole from ending, and it would be taken for
   * cut off where the server closes.
   */
  #hold(held: boolean): void {
    if (this.#decoder === null) return;
    const socket = this.#connection?.socket;
    if (socket != null) holdReads(socket, held);
  }

  #enter(phase: Phase): void {
    this.#phase = phase;
    this.#sinceMs = this.#fetcher.clockMs;
  }

  #expectBody(): void {
    const { sizeBytes } = this.#request;
    const headers = this.#headers;
    const transfer = headers['transfer-encoding']?.toString().trim().toLowerCase();
    if (transfer !== undefined && transfer !== 'chunked') {
      throw new FetchError('decode', `the transfer coding is unknown: ${transfer.slice(0, 100)}`);
    }
    const codings = contentCodings(headers['content-encoding']);
    if (codings.length > 0) this.#decoder = new Decoder(codings, this);
    if (sizeBytes === null && endsByClosing(this.#statusCode, headers)) {
      const message = 'the body has neither a length nor chunks: whether it is whole cannot be told';
      throw new FetchError('truncated', message, { retryable: true });
    }
    if (this.#decoder === null) this.#body.expect(contentLength(headers) ?? 0);
  }

  #fail(error: unknown): void {
    if (this.#done) return;
    if (this.#verdict !== null) this.#cut(this.#verdict);
    else if (error instanceof FetchError) this.#cut(error);
    else this.#cut(new FetchError('sink', String(error), { cause: error }));
  }

  /** Ends it in the middle: its connection is of no more use. */
  #cut(outcome: Outcome): void {
    const broken = this.#connection;
    this.#connection = null;
    this.#end(outcome, broken);
  }

  #end(outcome: Outcome, broken: Connection | null): void {
    this.#done = true;
    this.#fetcher.remove(this);
    this.#fetcher.tally.requestEnded(this.#statusCode, performance.now() - this.#startedMs);
    this.#decoder?.destroy();
    this.#body.abort();
    if (broken !== null) this.#agent.drop(broken);
    // Before the handler is told, so that what it starts goes out on the same connection with no turn of the event loop lost.
    if (this.#connection !== null) {
      this.#connection.answered = true;
      this.#agent.release(this.#connection);
    }
    try {
      if (typeof outcome === 'string') this.#handler.onRedirect(outcome);
      else if (outcome instanceof FetchError) this.#handler.onError(outcome);
      else this.#handler.onBody(outcome);
    } catch (error) {
      // undici would take a fault in the caller's code for a broken answer.
      queueMicrotask(() => {
        throw error;
      });
    }
  }
}
