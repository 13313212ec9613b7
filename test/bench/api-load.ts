/**
 * `npm run bench:api`: how quickly the API answers many clients while a job runs at full speed, and what those cost the job.
 * The same job in turns alone and watched: by clients that each ask for it once a second, and by streams of its events.
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { Agent, request } from 'undici';
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
  const agent = new Agent({ connections: clients, pipelining: 1, bodyTimeout: 0 });
  cleanUp.defer(() => agent.destroy());

  const download = async (files: number, watchers: number): Promise<{ perSecond: number; watched: Watched }> => {
    const sink = { type: values.sink === 'tar' ? 'tar' : 'directory' } as const;
    const { id } = await postJob(service.url, { source: site.source(files), sink }, service.signal);
    const over = new AbortController();
    const watching = watch(service, id, watchers, watchers > 0 ? streams : 0, agent, over.signal);
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
  agent: Agent,
  over: AbortSignal,
): Promise<Watched> {
  const watched: Watched = { tookMs: [], events: 0 };
  const ask = async (index: number): Promise<void> => {
    let due = performance.now() + (everyMs * index) / clients;
    while (!over.aborted) {
      await sleep(Math.max(0, due - performance.now()));
      if (over.aborted) return;
      // From when it should have begun: a client that has to wait does not make the figure better.
      const from = due;
      const { statusCode, body } = await request(`${url}/jobs/${id}`, { dispatcher: agent });
      await body.bytes();
      if (statusCode !== 200) throw new DemoError(`GET /jobs/{id} was answered ${statusCode}`);
      watched.tookMs.push(performance.now() - from);
      due += everyMs;
    }
  };
  const listen = async (): Promise<void> => {
    const dispatcher = new Agent({ bodyTimeout: idleMs });
    try {
      const { body } = await request(`${url}/jobs/${id}/events`, { dispatcher, signal: over });
      for await (const chunk of body as AsyncIterable<Buffer>) {
        watched.events += chunk.toString().match(/^event: /gm)?.length ?? 0;
      }
    } catch (error) {
      if (!over.aborted) throw error;
    } finally {
      await dispatcher.destroy();
    }
  };
  await Promise.all([
    ...Array.from({ length: clients }, (_, index) => ask(index)),
    ...Array.from({ length: streams }, listen),
  ]);
  return watched;
}

await runMain(main);
