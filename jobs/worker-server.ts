/** A worker's own port: its figures for Prometheus, and whether it lives, for container platforms. It needs no token. */
import { once } from 'node:events';
import { createServer, STATUS_CODES, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Registry } from '@prometheus-io/client';
import { addGauge, addWork, exposition, expositionType, processMetrics } from '../src/metrics.ts';
import type { Counts } from '../src/tally.ts';
import { SIGN_OF_LIFE_MS } from './workers.ts';

const requestMsMax = 10_000;
const connectionsMax = 100;

export interface WorkerFigures {
  readonly counts: Counts;
  /** Jobs it has pages of, or had a moment ago. */
  readonly jobs: number;
  readonly pagesInWork: number;
  readonly requestsInFlight: number;
}

/** What is shown of a worker. */
export interface ShownWorker {
  figures(): WorkerFigures;
  /** How long ago it last reached Redis, in ms. */
  readonly silentMs: number;
}

interface Answer {
  readonly status: number;
  readonly type: string;
  readonly body: string;
}

export class WorkerServer {
  readonly #server: Server;
  readonly #worker: ShownWorker;

  constructor(worker: ShownWorker) {
    this.#worker = worker;
    processMetrics();
    this.#server = createServer({ headersTimeout: requestMsMax, requestTimeout: requestMsMax }, (request, response) => {
      // Whatever is wrong with figures, downloads go on.
      this.#serve(request, response).catch(() => response.destroy());
    });
    this.#server.maxConnections = connectionsMax;
  }

  /** Listens; 0: on any free port. Gives its URL. Rejects with the system's error. */
  async listen(host: string, port: number): Promise<string> {
    this.#server.listen({ host, port });
    await once(this.#server, 'listening');
    const { address, family, port: given } = this.#server.address() as AddressInfo;
    return `http://${family === 'IPv6' ? `[${address}]` : address}:${given}`;
  }

  close(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { status, type, body } = await this.#answer(request);
    const headers = { 'content-type': type, 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' };
    response.writeHead(status, headers).end(body);
  }

  async #answer({ method, url = '' }: IncomingMessage): Promise<Answer> {
    const path = method === 'GET' || method === 'HEAD' ? url.split('?', 1)[0] : undefined;
    if (path === '/livez') return ok;
    if (path === '/readyz') return this.#readiness();
    if (path === '/metrics') {
      return { status: 200, type: expositionType, body: await workerMetrics(this.#worker.figures()) };
    }
    return problem(404, 'there are /metrics, /livez and /readyz here');
  }

  #readiness(): Answer {
    const { silentMs } = this.#worker;
    if (silentMs <= SIGN_OF_LIFE_MS) return ok;
    const since = silentMs === Infinity ? 'yet' : `for ${Math.round(silentMs / 1000)} s`;
    return problem(503, `Redis has not answered ${since}`);
  }
}

const ok: Answer = { status: 200, type: 'application/json', body: '{"status":"ok"}' };

function problem(status: number, detail: string): Answer {
  const body = JSON.stringify({ type: 'about:blank', title: STATUS_CODES[status], status, detail });
  return { status, type: 'application/problem+json', body };
}

function workerMetrics({ counts, jobs, pagesInWork, requestsInFlight }: WorkerFigures): Promise<string> {
  const registry = new Registry();
  addWork(registry, 'gigafetch_worker', counts);
  addGauge(registry, 'gigafetch_worker_jobs', 'Jobs it has pages of, or had a moment ago.', jobs);
  addGauge(registry, 'gigafetch_worker_pages_in_work', 'Pages it has in work.', pagesInWork);
  addGauge(registry, 'gigafetch_worker_requests_in_flight', 'Its requests that are on their way.', requestsInFlight);
  return exposition(registry, processMetrics());
}
