/** The results as tables of text. */
import { demoFileBytes } from '../../src/demo/files.ts';
import { readable } from '../../src/demo/progress.ts';
import {
  clientMicros,
  rate,
  ratios,
  roleMicros,
  spread,
  type Results,
  type Role,
  type RowResult,
  type Run,
  type Spread,
} from './results.ts';

export type Cells = readonly (readonly string[])[];

const own = ['worker', 'redis', 'api', 'supervisor'] as const satisfies Role[];

/** One line for each row: what it does a second, what that costs, and how this service compares to it. */
export function mainTable({ rows, settings }: Results): Cells {
  const bases = ['directory', 'tar'].flatMap((id) => rows.filter((row) => row.id === id && row.runs.length > 0));
  const head = [
    'row',
    'files/s',
    ...(settings.fileBytes > demoFileBytes ? ['MB/s'] : []),
    ...(settings.listDelayMs > 0 ? ['of the limit'] : []),
    ...bases.map(({ id }) => `${id}: times as fast`),
    'µs a file',
    ...bases.map(({ id }) => `${id}: µs over its µs`),
    'server µs',
    'MB',
    'requests a file',
    'connections',
    'files',
  ];
  return [head, ...rows.map((row) => line(row, settings, bases, head.length))];
}

function line(
  row: RowResult,
  { delayMs, listDelayMs, fileBytes, pageSize, connections }: Results['settings'],
  bases: readonly RowResult[],
  columns: number,
): string[] {
  const problem = row.missing ?? row.failed;
  const title = `${row.id}: ${row.title}`;
  if (problem !== null) {
    const told = `${row.missing === null ? 'FAILED' : 'missing'}: ${problem.split('\n', 1)[0]?.slice(0, 100)}`;
    return [title, told, ...Array<string>(columns - 2).fill('')];
  }
  // Nobody can be quicker with so many in flight, or walk the listing quicker.
  const limitMs =
    delayMs > 0 ? Math.ceil(row.files / connections) * delayMs : Math.ceil(row.files / pageSize) * listDelayMs;
  const figure = (of: (run: Run) => number): Spread => spread(row.runs.map(of));
  const over = (base: RowResult, of: typeof rate): string => (base === row ? '1' : ratio(ratios(base, row, of)));
  return [
    title,
    around(
      figure((run) => rate(row, run)),
      readable,
    ),
    ...(fileBytes > demoFileBytes ? [readable(figure((run) => (rate(row, run) * fileBytes) / 1e6).median)] : []),
    ...(limitMs > 0 ? [`${figure((run) => limitMs / 10 / run.seconds).median.toFixed(0)} %`] : []),
    ...bases.map((base) => over(base, rate)),
    micros(figure((run) => clientMicros(row, run)).median),
    ...bases.map((base) => over(base, clientMicros)),
    micros(figure((run) => roleMicros(row, run, ['server'])).median),
    readable(figure((run) => megabytes(run)).median),
    figure((run) => run.requests / row.files).median.toFixed(3),
    readable(figure((run) => run.connections).median),
    readable(row.files),
  ];
}

/** Where the processor time and the memory of this service's rows go. */
export function roleTable({ rows, settings }: Results): Cells {
  const isSlow = settings.delayMs > 0;
  const head = [
    'row',
    ...own.map((role) => `${role} µs`),
    ...own.map((role) => `${role} MB`),
    'workers killed',
    ...(isSlow ? ['loop p99 ms'] : []),
  ];
  const lines = rows
    .filter((row) => row.group === 'service' && row.runs.length > 0)
    .map((row) => {
      const median = (of: (run: Run) => number): number => spread(row.runs.map(of)).median;
      const cpu = own.map((role) => median((run) => roleMicros(row, run, [role])).toFixed(2));
      const memory = own.map((role) => readable(median((run) => (run.peakBytes[role] ?? 0) / 1e6)));
      const loop = isSlow ? [median((run) => run.loopP99Ms ?? Number.NaN).toFixed(1)] : [];
      return [`${row.id}: ${row.title}`].concat(cpu, memory, readable(median((run) => run.kills)), loop);
    });
  return lines.length > 0 ? [head, ...lines] : [];
}

/** Columns of equal width, the first flush left, the others flush right. */
export function asText(cells: Cells): string {
  const widths = widthsOf(cells);
  return cells.map((row) => padded(row, widths).join('  ').trimEnd()).join('\n');
}

/** The same as Markdown; `words`: all columns are flush left. */
export function asMarkdown(cells: Cells, words = false): string {
  const [head = [], ...rest] = cells;
  const widths = widthsOf(cells).map((width) => Math.max(width, 4));
  const rule = widths.map((width, at) => (words || at === 0 ? '-'.repeat(width) : `${'-'.repeat(width - 1)}:`));
  return [padded(head, widths, words), rule, ...rest.map((row) => padded(row, widths, words))]
    .map((row) => `| ${row.join(' | ')} |`)
    .join('\n');
}

function widthsOf(cells: Cells): number[] {
  return (cells[0] ?? []).map((_, at) => Math.max(...cells.map((row) => (row[at] ?? '').length)));
}

function padded(row: readonly string[], widths: readonly number[], words = false): string[] {
  return widths.map((width, at) =>
    words || at === 0 ? (row[at] ?? '').padEnd(width) : (row[at] ?? '').padStart(width),
  );
}

function megabytes({ peakBytes }: Run): number {
  return Object.entries(peakBytes).reduce((sum, [role, bytes]) => sum + (role === 'server' ? 0 : bytes), 0) / 1e6;
}

function micros(value: number): string {
  return value.toFixed(1);
}

function ratio({ median, min, max }: Spread): string {
  return Number.isNaN(median) ? '' : `${median.toFixed(2)} (${min.toFixed(2)}–${max.toFixed(2)})`;
}

function around({ median, min, max }: Spread, write: (value: number) => string): string {
  return `${write(median)} (${write(min)}–${write(max)})`;
}
