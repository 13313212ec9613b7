/** What a run of the bench tells with --json, for the report and whoever wants to see for themselves. */
import type { RowGroup } from './rows.ts';

/** `worker`, `api`, `redis`, `supervisor`: this service; `client`: all processes of any other row; `server`: the file server. */
export type Role = 'worker' | 'api' | 'redis' | 'supervisor' | 'client' | 'server';

/** One run of one row. */
export interface Run {
  round: number;
  /** From the order or the start of the process to the end. */
  seconds: number;
  /** Processor time, user and system. */
  cpuMs: Partial<Record<Role, number>>;
  /** The peaks of the processes that lived at one time, added up. */
  peakBytes: Partial<Record<Role, number>>;
  /** Resident memory of all processes of a role together, the mean over the run. */
  meanBytes: Partial<Record<Role, number>>;
  /** Of the file server; those for the listing are among them. */
  requests: number;
  connections: number;
  kills: number;
  /**
   * The worst worker's event loop, with --delay: the 99th percentile of the time between two samples that should be 10 ms
   * apart (monitorEventLoopDelay).
   */
  loopP99Ms: number | null;
}

export interface RowResult {
  id: string;
  title: string;
  group: RowGroup;
  settings: string;
  files: number;
  /** Why there is nothing to tell: what is missing on the machine, or went wrong. */
  missing: string | null;
  failed: string | null;
  runs: Run[];
}

export interface Results {
  at: string;
  /** The whole of it, warm-up and checks too. */
  seconds: number;
  settings: {
    files: number;
    fileBytes: number;
    pageSize: number;
    connections: number;
    delayMs: number;
    listDelayMs: number;
    rounds: number;
    workers: number;
    target: string;
    fileSystem: string;
    server: string;
  };
  machine: Record<'processor' | 'system' | 'kernel', string> & { cores: number; memoryBytes: number };
  versions: Record<string, string>;
  rows: RowResult[];
}

/** Median, least and largest. */
export interface Spread {
  median: number;
  min: number;
  max: number;
}

/** NaN for no values. */
export function spread(values: readonly number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  const median = sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? Number.NaN)) / 2;
  return { median, min: sorted[0] ?? Number.NaN, max: sorted.at(-1) ?? Number.NaN };
}

/** Files a second. */
export function rate(row: RowResult, run: Run): number {
  return row.files / run.seconds;
}

/** Processor microseconds a file of all but the file server. */
export function clientMicros(row: RowResult, run: Run): number {
  return roleMicros(row, run, ['worker', 'api', 'redis', 'supervisor', 'client']);
}

export function roleMicros(row: RowResult, run: Run, roles: readonly Role[]): number {
  return (roles.reduce((sum, role) => sum + (run.cpuMs[role] ?? 0), 0) * 1000) / row.files;
}

/** `figure` of one row over that of the other, round by round. */
export function ratios(over: RowResult, under: RowResult, figure: (row: RowResult, run: Run) => number): Spread {
  return spread(
    over.runs.flatMap((run) => {
      const other = under.runs.find(({ round }) => round === run.round);
      return other ? [figure(over, run) / figure(under, other)] : [];
    }),
  );
}
