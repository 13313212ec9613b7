/**
 * `npm run bench:api`: how quickly the API answers many clients while a job runs at full speed, and what those cost the job.
 * The same job in turns alone and watched: by clients that each ask for it once a second, and by streams of its events.
 */
import { rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { interruptSignal } from '../../src/demo/interrupt.ts';
import { followJob, jobFaults, postJob } from '../../src/demo/job.ts';
import { wholeNumber } from '../../src/demo/options.ts';
import { readable } from '../../src/demo/progress.ts';
import { DemoError } from '../../src/demo/service.ts';
import { startBenchService, type BenchService } from './bench-service.ts';
import { startFixedSite } from './fixed-site.ts';
import { spread } from './results.ts';
import { runMain } from './run-main.ts';
import { asMarkdown } from './tables.ts';

const workers = 2;
const warmFiles = 20_000;
const everyMs = 1000;
const idleMs = 60_000;
const together = 50;

const { values } = parseArgs({
  options: {
    jobs: { type: 'string', default: '2000' },
    clients: { type: 'string', default: '200' },
    streams: { type: 'string', default: '50' },
    files: { type: 'string', default: '400000' },
    rounds: { type: 'string', default: '5' },
    sink: { type: 'string', default: 'directory' },
  },
});

/** What clients saw during one job. */
interface Watched {
  /** How long each answer took, in ms. */
  readonly tookMs: number[];
  /** Events that came, over all streams. */
  events: number;
}

async function main(): Promise<void> {
  const [jobs, clients, streams] = [
    wholeNumber('--jobs', values.jobs, 0, 9000),
    wholeNumber('--clients', values.clients, 1, 10_000),
    wholeNumber('--streams', values.streams, 0, 1000),
  ];
  const files = wholeNumber('--files', values.files, 1000, 10_000_000);
  const rounds = wholeNumber('--rounds', values.rounds, 1, 100);
  const interrupted = interruptSignal();
  await using cleanUp = new AsyncDisposableStack();
  const site = cleanUp.use(await startFixedSite([warmFiles, files]));
  // All clients come from one address.
  const service = await startBenchService(site.folder, workers, interrupted, { RATE_LIMIT: '10000000' });
  cleanUp.defer(() => service.stop());

  const download = async (files: number, watchers: number): Promise<{ perSecond: number; watched: Watched }> => {
    const sink = { type: values.sink === 'tar' ? 'tar' : 'directory' } as const;
    const { id } = await postJob(service.url, { source: site.source(files), sink }, service.signal);
    const over = new AbortController();
    const watching = watch(service, id, watchers, watchers > 0 ? streams : 0, over.signal);
    const job = await followJob(service.url, id, { signal: service.signal, stallMs: idleMs, seen: () => {} });
    over.abort();
    const watched = await watching;
    const faults = jobFaults(job, files);
    if (faults.length > 0) throw new DemoError(faults.join('; '));
    // It blocks this process, and with it whoever still waits for an answer.
    rmSync(join(service.dataDir, id), { recursive: true });
    const ms = Date.parse(job.finishedAt ?? '') - Date.parse(job.createdAt);
    return { perSecond: (files * 1000) / ms, watched };
  };
  await download(warmFiles, clients);
  await fillList(service, jobs);
  const [alone, beside, ratios]: [number[], number[], number[]] = [[], [], []];
  const all: Watched = { tookMs: [], events: 0 };
  for (let round = 0; round < rounds; round += 1) {
    const { perSecond: quiet } = await download(files, 0);
    const { perSecond: busy, watched } = await download(files, clients);
    console.error(`round ${round + 1}: ${readable(quiet)} files/s alone, ${readable(busy)} watched`);
    alone.push(quiet);
    beside.push(busy);
    ratios.push(busy / quiet);
    all.tookMs.push(...watched.tookMs);
    all.events += watched.events;
  }
  const sorted = all.tookMs.toSorted((a, b) => a - b);
  const at = (share: number): string => (sorted[Math.floor(sorted.length * share)] ?? Number.NaN).toFixed(1);
  const { median, min, max } = spread(ratios);
  console.log(
    asMarkdown(
      [
        ['what', 'measured'],
        ['jobs in the list', readable(jobs)],
        ['clients that ask once a second, streams of events', `${clients}, ${streams}`],
        ['answers, events', `${readable(sorted.length)}, ${readable(all.events)}`],
        ['an answer took: median, p99, most', `${at(0.5)} ms, ${at(0.99)} ms, ${sorted.at(-1)?.toFixed(1)} ms`],
        [`files a second alone, ${values.sink} sink`, readable(spread(alone).median)],
        ['… watched', readable(spread(beside).median)],
        ['… of what it is alone, in each round', `${median.toFixed(3)} (${min.toFixed(3)}–${max.toFixed(3)})`],
      ],
      true,
    ),
  );
}

/** Jobs that have ended, so that the list is long. */
async function fillList(service: BenchService, jobs: number): Promise<void> {
  for (let done = 0; done < jobs; done += together) {
    const some = Array.from({ length: Math.min(together, jobs - done) }, () =>
      service.download({ source: { type: 'range', url: 'http://127.0.0.1/{1..2}' }, dryRun: true }),
    );
    await Promise.all(some);
  }
}

async function watch(
  { url }: BenchService,
  id: string,
  clients: number,
  streams: number,
  over: AbortSignal,
): Promise<Watched> {
  const watched: Watched = { tookMs: [], events: 0 };
  const ask = async (index: number): Promise<void> => {
    using client = new BareClient(url, `/jobs/${id}`);
    let due = performance.now() + (everyMs * index) / clients;
    while (!over.aborted) {
      await sleep(Math.max(0, due - performance.now()));
      if (over.aborted) return;
      await client.ask();
      // From when it should have begun: a client that has to wait does not make the figure better.
      watched.tookMs.push(performance.now() - due);
      due += everyMs;
    }
  };
  const listen = async (): Promise<void> => {
    using client = new BareClient(url, `/jobs/${id}/events`);
    await client.listen(over, (text) => (watched.events += text.match(/^event: /gm)?.length ?? 0));
  };
  await Promise.all([
    ...Array.from({ length: clients }, (_, index) => ask(index)),
    ...Array.from({ length: streams }, listen),
  ]);
  return watched;
}

/**
 * GETs one path again and again over one connection, and does nothing else: clients share the cores with the service here, and
 * what they cost is not its own. Of an answer it looks at the status and the length alone.
 */
class BareClient implements Disposable {
  readonly #path: string;
  readonly #socket: Socket;
  readonly #chunks: AsyncIterator<Buffer>;
  readonly #request: string;

  constructor(url: string, path: string) {
    const { hostname, port, host } = new URL(url);
    this.#path = path;
    this.#socket = connect(Number(port), hostname);
    this.#chunks = this.#socket[Symbol.asyncIterator]();
    this.#request = `GET ${path} HTTP/1.1\r\nhost: ${host}\r\n\r\n`;
  }

  /** Resolves when the whole answer is there. Throws a DemoError where it is not 200, or is not to be had. */
  async ask(): Promise<void> {
    this.#socket.write(this.#request);
    let answer: Buffer = Buffer.alloc(0);
    let bytes = Infinity;
    while (answer.length < bytes) {
      const chunk = await this.#next();
      if (chunk === null) throw new DemoError(`GET ${this.#path}: the connection was closed`);
      answer = answer.length === 0 ? chunk : Buffer.concat([answer, chunk]);
      const head = answer.indexOf('\r\n\r\n');
      if (head < 0) continue;
      const lines = answer.toString('latin1', 0, head);
      this.#check(lines);
      bytes = head + 4 + Number(/^content-length: (\d+)$/im.exec(lines)?.[1]);
    }
  }

  /** Resolves when it is over, or the answer has ended. Throws a DemoError where that is not 200. */
  async listen(over: AbortSignal, came: (text: string) => void): Promise<void> {
    over.addEventListener('abort', () => this.#socket.destroy());
    this.#socket.write(this.#request);
    try {
      let chunk = await this.#next();
      this.#check(chunk?.toString('latin1') ?? '');
      for (; chunk !== null; chunk = await this.#next()) came(chunk.toString('latin1'));
    } catch (error) {
      if (!over.aborted) throw error;
    }
  }

  /** What comes next; null: nothing any more. */
  async #next(): Promise<Buffer | null> {
    const { done, value } = await this.#chunks.next();
    return done === true ? null : value;
  }

  #check(head: string): void {
    if (!head.startsWith('HTTP/1.1 200 ')) throw new DemoError(`GET ${this.#path}: ${head.split('\r\n')[0]}`);
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }
}

await runMain(main);
