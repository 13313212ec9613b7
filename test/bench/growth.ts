/**
 * `npm run bench:growth`: whether a file costs the same, and memory stays as it is, however many files a job has. Tar sink; the
 * file server answers each file with the same bytes, so that its own disk has no part in it.
 */
import { globSync, mkdirSync, rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { keyPrefix } from '../../jobs/store.ts';
import { interruptSignal } from '../../src/demo/interrupt.ts';
import { jobFaults } from '../../src/demo/job.ts';
import { wholeNumber } from '../../src/demo/options.ts';
import { readable } from '../../src/demo/progress.ts';
import { DemoError, pause } from '../../src/demo/service.ts';
import { connectRedis } from '../../src/redis.ts';
import { startBenchService } from './bench-service.ts';
import { fixedPageSize, startFixedSite, type FixedSite } from './fixed-site.ts';
import { plotGrowth } from './growth-plot.ts';
import { spread } from './results.ts';
import { runMain } from './run-main.ts';
import { asMarkdown } from './tables.ts';
import { touchMemory } from './target.ts';
import { watchRun } from './watch.ts';

const warmFiles = 20_000;
/** So many files are enough for one size: large sizes run once. */
const filesEnough = 3_000_000;
/** Memory that so many files take is used before each size, else what a large job uses first would be new to the machine. */
const touchedFiles = 100_000;
const sampleMs = 100;
const consumeMs = 1000;
/** A job is closed on its workers some seconds after its end. */
const settleMs = 5000;

/** They fill up once, to 80 KB and 15 KB, by whichever jobs: no job's own. */
const boundedStreams = ['events', 'pages'].map((queue) => `${keyPrefix}:${queue}:events`);

type ByRole = Readonly<Record<'worker' | 'redis' | 'api', number>>;

/** Jobs of one size, as many as it takes. */
export interface Growth {
  /** Of each job. */
  readonly files: number;
  readonly workers: number;
  readonly filesPerSecond: number;
  /** Processor time a file in µs. */
  readonly micros: ByRole;
  /** Resident memory in MB, of the workers together: the mean while jobs ran, and the peaks. */
  readonly megabytes: ByRole;
  readonly peakMegabytes: ByRole;
  /**
   * What Redis used at most while a job ran over what it used before, and what each that ended left, in bytes: without its
   * bounded streams of events, and without what its connections hold in buffers at the moment (each 40 KB or nothing).
   */
  readonly redisBytes: { readonly running: number; readonly ended: number };
}

const { values } = parseArgs({
  options: {
    files: { type: 'string', default: '10000,100000,1000000,10000000' },
    workers: { type: 'string', default: [1, availableParallelism()].join() },
    rounds: { type: 'string', default: '3' },
    /**
     * Small jobs are run one after another until so many files were fetched: else their processes would be younger than those
     * of large jobs, whose code is compiled, and whose heaps have grown until the first large collection.
     */
    'at-least': { type: 'string', default: '1000000' },
    plot: { type: 'string', default: '' },
    json: { type: 'boolean', default: false },
  },
});

async function main(): Promise<void> {
  const sizes = numbers('--files', values.files, 100_000_000);
  const workers = numbers('--workers', values.workers, 1024);
  const rounds = wholeNumber('--rounds', values.rounds, 1, 1000);
  const filesLeast = wholeNumber('--at-least', values['at-least'], 1, 100_000_000);
  const signal = interruptSignal();
  await using cleanUp = new AsyncDisposableStack();
  const home = process.cwd();
  const site = cleanUp.use(await startFixedSite([warmFiles, ...sizes]));
  const runs: Growth[] = [];
  for (let round = 0; round < rounds; round += 1) {
    for (const files of sizes.filter((size) => round === 0 || size * (round + 1) <= filesEnough)) {
      for (const count of workers) {
        const run = await runOnce(site, { files, jobs: Math.ceil(filesLeast / files), workers: count }, signal);
        console.error(`${readable(files)} files, workers: ${count}: ${readable(run.filesPerSecond)} files/s`);
        runs.push(run);
      }
    }
  }
  const medians = summary(runs);
  if (values.plot !== '') await plotGrowth(resolve(home, values.plot), medians);
  console.log(values.json ? JSON.stringify(runs, null, 2) : asMarkdown(table(medians)));
}

/**
 * Takes archives away once they have been there for a look or two, as who wants them elsewhere does. Left where they are, those of
 * ten million files would be 10 GB of memory that nothing used before; a virtual machine gets such from its host at the first
 * write, which costs more than the write.
 */
function consumeArchives(dataDir: string): NodeJS.Timeout {
  let seen: ReadonlySet<string> = new Set();
  return setInterval(() => {
    const archives = globSync('*/*.tar*', { cwd: dataDir });
    for (const archive of archives) if (seen.has(archive)) rmSync(join(dataDir, archive), { force: true });
    seen = new Set(archives);
  }, consumeMs);
}

async function runOnce(
  site: FixedSite,
  { files, jobs, workers }: { files: number; jobs: number; workers: number },
  interrupted: AbortSignal,
): Promise<Growth> {
  const folder = join(site.folder, 'run');
  mkdirSync(folder);
  await using cleanUp = new AsyncDisposableStack();
  cleanUp.defer(() => rmSync(folder, { recursive: true, force: true }));
  touchMemory(folder, { files: touchedFiles, fileBytes: 100 });
  const service = await startBenchService(folder, workers, interrupted);
  cleanUp.defer(() => service.stop());
  const redis = connectRedis(service.redisSocket, { patient: true });
  cleanUp.defer(() => redis.disconnect());
  // Else each command takes 24 KB when it is first used, for a histogram of how long it takes.
  await redis.config('SET', 'latency-tracking', 'no');
  const usedBytes = async (): Promise<number> => {
    const info = await redis.info('memory');
    const bytes = (name: string): number => Number(new RegExp(`^${name}:(\\d+)`, 'm').exec(info)?.[1]);
    let used = bytes('used_memory') - bytes('mem_clients_normal');
    for (const stream of boundedStreams) used -= (await redis.memory('USAGE', stream, 'SAMPLES', 0)) ?? 0;
    return used;
  };
  await service.download({ source: site.source(warmFiles), sink: { type: 'tar' } });
  await pause(settleMs, service.signal);

  const first = await usedBytes();
  let before = first;
  let most = 0;
  let ms = 0;
  const consumer = consumeArchives(service.dataDir);
  cleanUp.defer(() => clearInterval(consumer));
  const sampler = setInterval(
    () => void usedBytes().then((bytes) => (most = Math.max(most, bytes - before))),
    sampleMs,
  );
  cleanUp.defer(() => clearInterval(sampler));
  const watch = await watchRun(site.server, [service.pid]);
  cleanUp.use(watch.processes);
  for (let count = 0; count < jobs; count += 1) {
    before = await usedBytes();
    const job = await service.download({ source: site.source(files), sink: { type: 'tar' } });
    const faults = jobFaults(job, files);
    if (faults.length > 0) throw new DemoError(faults.join('; '));
    ms += Date.parse(job.finishedAt ?? '') - Date.parse(job.createdAt);
    rmSync(join(service.dataDir, job.id), { recursive: true });
  }
  const { cpuMs, meanBytes, peakBytes } = await watch.stop();
  clearInterval(sampler);
  await pause(settleMs, service.signal);
  return {
    files,
    workers,
    filesPerSecond: (files * jobs * 1000) / ms,
    micros: byRole((role) => ((cpuMs[role] ?? 0) * 1000) / files / jobs),
    megabytes: byRole((role) => (meanBytes[role] ?? 0) / 1e6),
    peakMegabytes: byRole((role) => (peakBytes[role] ?? 0) / 1e6),
    redisBytes: { running: most, ended: ((await usedBytes()) - first) / jobs },
  };
}

function byRole(figure: (role: keyof ByRole) => number): ByRole {
  return { worker: figure('worker'), redis: figure('redis'), api: figure('api') };
}

/** The median of each figure, for each number of workers and files. */
function summary(runs: readonly Growth[]): Growth[] {
  const groups = Object.values(Object.groupBy(runs, ({ files, workers }) => `${workers} ${files}`));
  const medians = groups.map((group = []): Growth => {
    const { files, workers } = group[0]!;
    const median = (figure: (run: Growth) => number): number => spread(group.map(figure)).median;
    return {
      files,
      workers,
      filesPerSecond: median((run) => run.filesPerSecond),
      micros: byRole((role) => median(({ micros }) => micros[role])),
      megabytes: byRole((role) => median(({ megabytes }) => megabytes[role])),
      peakMegabytes: byRole((role) => median(({ peakMegabytes }) => peakMegabytes[role])),
      redisBytes: {
        running: median(({ redisBytes }) => redisBytes.running),
        ended: median(({ redisBytes }) => redisBytes.ended),
      },
    };
  });
  return medians.sort((a, b) => a.workers - b.workers || a.files - b.files);
}

function table(runs: readonly Growth[]): string[][] {
  const head = ['workers', 'files', 'files/s', 'worker µs', 'Redis µs', 'API µs'];
  return [
    [...head, 'workers MB (peak)', 'API MB', 'Redis MB', 'Redis: bytes a page', 'bytes a finished job'],
    ...runs.map(({ workers, files, filesPerSecond, micros, megabytes, peakMegabytes, redisBytes }) => [
      String(workers),
      readable(files),
      readable(filesPerSecond),
      micros.worker.toFixed(1),
      micros.redis.toFixed(2),
      micros.api.toFixed(2),
      `${megabytes.worker.toFixed(0)} (${peakMegabytes.worker.toFixed(0)})`,
      megabytes.api.toFixed(0),
      megabytes.redis.toFixed(1),
      readable((redisBytes.running * fixedPageSize) / files),
      readable(redisBytes.ended),
    ]),
  ];
}

function numbers(option: string, text: string, most: number): number[] {
  return text.split(',').map((number) => wholeNumber(option, number, 1, most));
}

await runMain(main);
