/**
 * `node test/bench/report.ts RESULTS.json [MORE.json …]`: writes docs/benchmarks.md and its plots from what
 * `npm run bench -- --json` told, a section for each file in their order.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { TopLevelSpec } from 'vega-lite';
import { readable } from '../../src/demo/progress.ts';
import { writePlot } from './plot.ts';
import { clientMicros, rate, roleMicros, spread, type Results, type Role, type RowResult } from './results.ts';
import { asMarkdown, mainTable, roleTable, type Cells } from './tables.ts';

const docs = join(import.meta.dirname, '../../docs');

const groups = { service: 'gigafetch', tool: 'tools', loop: 'bare loops', limit: 'limits' } as const;
const roles: Readonly<Record<string, readonly Role[]>> = {
  'client or workers': ['client', 'worker'],
  Redis: ['redis'],
  'API and supervisor': ['api', 'supervisor'],
  'file server': ['server'],
};

const intro = `# Benchmarks

This service, other tools and bare loops download the same small files from the same server to the same file system, in
turns. \`npm run bench -- --install\` does it again on your machine; this page is written from its results (\`--json\`) by
\`node test/bench/report.ts\`.

How to read it:

- Each figure is the median of the rounds, with the least and the largest in parentheses. Ratios are taken within a round and
  then their median: "times as fast" is this service's files a second over the row's, "µs over its µs" the processor time.
- _µs a file_ is the processor time, user and system, of everything but the file server: of this service its workers, Redis,
  API and supervisor; of others the whole tree of processes. The file server's own is apart.
- _MB_ is resident memory: the peaks of the processes that lived at one time, added up.
- _requests a file_ counts those for the listing too. Whoever is handed a list of URLs makes none.
- After each run every byte is compared, or, where nothing is stored, the requests are counted.

What to keep in mind:

- All share the same cores: the file server, with one worker process that is bound to one of them, and the clients, which are
  not. Whoever uses less processor time leaves more to the server. Everything goes over loopback, so no network's latency
  counts: that flatters those with few connections.
- This service lists the pages, retries, counts, survives kills and stores each file whole or not at all. The tools that are
  handed a list and the bare loops do none of that, unless their row says so.
- This service runs already and its workers are warm when the job is posted; the bare loops in Node are warm too. The other
  rows begin with the start of their process, which takes a few hundredths of a second, up to some tenths for Python.
- Twice as many bytes as a run stores are written to its folder and removed again just before it: a virtual machine takes
  long for memory that it has not used for a while, and which row came upon that would depend on what ran before it.
- Each run stores into a new folder. Into one that has files, this service looks for each name first, which takes it 3 µs more.
- _of the limit_, where the server takes its time: how near a row comes to the least time that so many requests can take with
  so many in flight, or that so many pages of the listing take, one after the other.
- _loop p99_: of the worst worker, the 99th percentile of the time between two turns that should be 10 ms apart.
- Slow rows take fewer files (last column), so that all take a similar time.
- Versions are those of the distribution; newer ones of Python, aiohttp or the tools may be quicker.
`;

function section(results: Results, plots: string): string {
  const { settings, machine, versions, rows } = results;
  const slow =
    settings.delayMs > 0
      ? `, each answered after ${settings.delayMs} ms`
      : settings.listDelayMs > 0
        ? `, each page of ${readable(settings.pageSize)} names after ${settings.listDelayMs} ms`
        : '';
  const title = `${readable(settings.files)} files of ${readable(settings.fileBytes)} bytes${slow}, ${settings.target}`;
  const facts: Cells = [
    ['on', 'what'],
    ['processor', `${machine.processor}, ${machine.cores} cores`],
    ['memory', `${(machine.memoryBytes / 2 ** 30).toFixed(0)} GiB`],
    ['system', `${machine.system}, ${machine.kernel}`],
    ['file system of the target', settings.fileSystem],
    ['file server', `${settings.server}; ${readable(settings.pageSize)} names a page`],
    ['workers and processes', `${settings.workers}; ${settings.connections} connections together`],
    ['rounds', `${settings.rounds}, ${(results.seconds / 60).toFixed(0)} minutes in all, ${results.at.slice(0, 10)}`],
    ...Object.entries(versions).map(([name, version]) => [name, version]),
  ];
  const how: Cells = [['row', 'run with'], ...rows.map(({ id, settings }) => [id, settings])];
  const roles = roleTable(results);
  return [
    `## ${title}`,
    plots,
    asMarkdown(mainTable(results)),
    ...(roles.length > 0 ? [asMarkdown(roles)] : []),
    asMarkdown(how, true),
    asMarkdown(facts, true),
  ].join('\n\n');
}

/** Draws what a plot can show better than the table; returns the lines that show them. */
async function draw(results: Results, name: string): Promise<string> {
  const done = results.rows.filter((row) => row.runs.length > 0);
  const order = done.toSorted((a, b) => medianRate(b) - medianRate(a)).map(({ title }) => title);
  const plots: Record<string, TopLevelSpec> = {
    speed: ratePlot(done, order),
    cost: costPlot(done, order),
  };
  const lines = [];
  for (const [kind, spec] of Object.entries(plots)) {
    const file = `benchmarks/${name}-${kind}.svg`;
    await writePlot(join(docs, file), spec);
    lines.push(`![${kind === 'speed' ? 'Files a second' : 'Processor time a file'}](${file})`);
  }
  return lines.join('\n\n');
}

function medianRate(row: RowResult): number {
  return spread(row.runs.map((run) => rate(row, run))).median;
}

const rowAxis = (order: string[]) =>
  ({ field: 'title', type: 'nominal', sort: order, title: null, axis: { labelLimit: 600 } }) as const;

function ratePlot(rows: readonly RowResult[], order: string[]): TopLevelSpec {
  const values = rows.map((row) => {
    const { median, min, max } = spread(row.runs.map((run) => rate(row, run)));
    return { title: row.title, group: groups[row.group], median, min, max };
  });
  return {
    data: { values },
    width: 480,
    encoding: { y: rowAxis(order) },
    layer: [
      {
        mark: 'bar',
        encoding: {
          x: { field: 'median', type: 'quantitative', title: 'files a second: median, least and largest' },
          color: { field: 'group', type: 'nominal', title: null, sort: Object.values(groups) },
        },
      },
      { mark: 'rule', encoding: { x: { field: 'min', type: 'quantitative' }, x2: { field: 'max' } } },
    ],
  };
}

function costPlot(rows: readonly RowResult[], order: string[]): TopLevelSpec {
  const values = rows.flatMap((row) =>
    Object.entries(roles).map(([role, of], at) => ({
      title: row.title,
      role,
      at,
      micros: spread(row.runs.map((run) => roleMicros(row, run, of))).median,
    })),
  );
  return {
    data: { values },
    width: 480,
    mark: 'bar',
    encoding: {
      y: rowAxis(order.toSorted((a, b) => costOf(rows, a) - costOf(rows, b))),
      x: { field: 'micros', type: 'quantitative', title: 'processor time a file in µs' },
      color: { field: 'role', type: 'nominal', title: null, sort: Object.keys(roles) },
      order: { field: 'at' },
    },
  };
}

function costOf(rows: readonly RowResult[], title: string): number {
  const row = rows.find((each) => each.title === title);
  return row ? spread(row.runs.map((run) => clientMicros(row, run))).median : 0;
}

const sections = [];
for (const path of process.argv.slice(2)) {
  const results = JSON.parse(readFileSync(path, 'utf8')) as Results;
  sections.push(section(results, await draw(results, basename(path, '.json'))));
}
if (sections.length === 0) throw new Error('usage: node test/bench/report.ts RESULTS.json [MORE.json …]');
const page = join(docs, 'benchmarks.md');
writeFileSync(page, `${[intro.trimEnd(), ...sections].join('\n\n')}\n`);
execFileSync(join(import.meta.dirname, '../../node_modules/.bin/oxfmt'), [page], { stdio: 'inherit' });
