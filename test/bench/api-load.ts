/**
 * `npm run bench:api`: how quickly the API answers many clients while a job runs at full speed, and what those cost the job.
 * The same job in turns alone and watched: by clients that each ask for it once a second, and by streams of its events. Those
 * are one program in C (peers/watchers.c): they share the cores with the service here, and what they cost is not its own.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { interruptSignal } from '../../src/demo/interrupt.ts';
import { followJob, jobFaults, postJob } from '../../src/demo/job.ts';
import { wholeNumber } from '../../src/demo/options.ts';
import { readable } from '../../src/demo/progress.ts';
import { DemoError } from '../../src/demo/service.ts';
import { startBenchService, type BenchService } from './bench-service.ts';
import { startFixedSite } from './fixed-site.ts';
import { ProcessWatch } from './process-figures.ts';
import { spread } from './results.ts';
import { runMain } from './run-main.ts';
import { asMarkdown } from './tables.ts';
import { compile, needTool } from './tools.ts';
import { roleOf } from './watch.ts';

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
  readonly tookMs: readonly number[];
  /** Events that came, over all streams. */
  readonly events: number;
}

interface Download extends Watched {
  readonly filesPerSecond: number;
  /** Of a file: processor time of all workers. */
  readonly workerUs: number;
  /** Of a second: processor time of the API. */
  readonly apiMs: number;
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
  needTool('cc');
  await using cleanUp = new AsyncDisposableStack();
  const site = cleanUp.use(await startFixedSite([warmFiles, files]));
  const program = join(site.folder, 'watchers');
  compile(fileURLToPath(new URL('peers/watchers.c', import.meta.url)), program);
  // All clients come from one address.
  const service = await startBenchService(site.folder, workers, interrupted, { RATE_LIMIT: '10000000' });
  cleanUp.defer(() => service.stop());

  const download = async (files: number, watchers: number): Promise<Download> => {
    const sink = { type: values.sink === 'tar' ? 'tar' : 'directory' } as const;
    const { id } = await postJob(service.url, { source: site.source(files), sink }, service.signal);
    const over = new AbortController();
    using processes = new ProcessWatch([service.pid], roleOf, everyMs);
    const signal = AbortSignal.any([service.signal, over.signal]);
    const following = followJob(service.url, id, { signal, stallMs: idleMs, seen: () => {} });
    const watching = { clients: watchers, streams: watchers > 0 ? streams : 0, over: over.signal };
    const end = (): void => over.abort();
    const [job, watched] = await Promise.all([
      following.finally(end),
      // Its failure is the end of both.
      watch(program, service, id, watching).finally(end),
    ]);
    const { api, worker } = processes.stop();
    const faults = jobFaults(job, files);
    if (faults.length > 0) throw new DemoError(faults.join('; '));
    // It blocks this process, and with it whoever still waits for an answer.
    rmSync(join(service.dataDir, id), { recursive: true });
    const seconds = (Date.parse(job.finishedAt ?? '') - Date.parse(job.createdAt)) / 1000;
    return {
      ...watched,
      filesPerSecond: files / seconds,
      workerUs: ((worker?.cpuMs ?? Number.NaN) * 1000) / files,
      apiMs: (api?.cpuMs ?? Number.NaN) / seconds,
    };
  };
  await download(warmFiles, clients);
  await fillList(service, jobs);
  const [alone, beside]: [Download[], Download[]] = [[], []];
  for (let round = 1; round <= rounds; round += 1) {
    const [quiet, busy] = [await download(files, 0), await download(files, clients)];
    console.error(
      `round ${round}: ${readable(quiet.filesPerSecond)} files/s alone, ${readable(busy.filesPerSecond)} watched`,
    );
    alone.push(quiet);
    beside.push(busy);
  }
  const sorted = beside.flatMap(({ tookMs }) => tookMs).toSorted((a, b) => a - b);
  const events = beside.reduce((sum, download) => sum + download.events, 0);
  const at = (share: number): string => (sorted[Math.floor(sorted.length * share)] ?? Number.NaN).toFixed(1);
  const median = (of: Download[], figure: 'filesPerSecond' | 'workerUs' | 'apiMs'): number =>
    spread(of.map((download) => download[figure])).median;
  const kept = spread(beside.map(({ filesPerSecond }, round) => filesPerSecond / (alone[round]?.filesPerSecond ?? 0)));
  console.log(
    asMarkdown(
      [
        ['what', 'alone', 'watched'],
        ['jobs in the list', readable(jobs), readable(jobs)],
        ['clients that ask once a second, streams of events', '0', `${clients}, ${streams}`],
        ['answers, events', '', `${readable(sorted.length)}, ${readable(events)}`],
        ['an answer took: median, p99, most', '', `${at(0.5)} ms, ${at(0.99)} ms, ${sorted.at(-1)?.toFixed(1)} ms`],
        [`files a second, ${values.sink} sink`, ...[alone, beside].map((of) => readable(median(of, 'filesPerSecond')))],
        [
          '… of what it is alone, in each round',
          '',
          `${kept.median.toFixed(3)} (${kept.min.toFixed(3)}–${kept.max.toFixed(3)})`,
        ],
        [
          'processor time of the workers, a file',
          ...[alone, beside].map((of) => `${median(of, 'workerUs').toFixed(1)} µs`),
        ],
        ['processor time of the API, a second', ...[alone, beside].map((of) => `${median(of, 'apiMs').toFixed(0)} ms`)],
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

/** Asks for the job, and streams its events, until `over` aborts. Throws a DemoError where an answer is not to be had. */
async function watch(
  program: string,
  { url }: BenchService,
  id: string,
  { clients, streams, over }: { clients: number; streams: number; over: AbortSignal },
): Promise<Watched> {
  const child = spawn(program, [new URL(url).port, `/jobs/${id}`, clients, everyMs, streams].map(String));
  const ended = once(child, 'close');
  over.addEventListener('abort', () => child.stdin.end());
  const [printed, complaint, [exitCode, killed]] = await Promise.all([text(child.stdout), text(child.stderr), ended]);
  if (exitCode !== 0) throw new DemoError(complaint || `the clients ended with ${killed ?? `exit code ${exitCode}`}`);
  const [events = 0, ...tookMs] = printed.trim().split('\n').map(Number);
  return { events, tookMs };
}

await runMain(main);
