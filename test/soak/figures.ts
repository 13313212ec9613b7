/** What the processes of the service take, as Linux and they themselves tell. */
import { readdirSync } from 'node:fs';
import { processIds, readCommandLine, readProc, readStat } from '../bench/proc.ts';
import { roleOf } from '../bench/watch.ts';

export interface Sample {
  /** Since the start. */
  readonly seconds: number;
  /** `worker 1`, `worker 2`, `api`, `redis`. */
  readonly process: string;
  readonly pid: number;
  readonly residentMb: number;
  readonly descriptors: number;
  /** The 99th percentile of the event loop's delay since the sample before; of Redis: none. */
  readonly lagMs: number | null;
  /** What Redis has allocated; of others: none. */
  readonly usedMb: number | null;
  /** Of all workers, since the sample before; told by the API. */
  readonly filesPerSecond: number | null;
}

/** The service's own processes: the children of its supervisor. */
export function childrenOf(supervisor: number): { role: string; pid: number }[] {
  return processIds()
    .filter((pid) => readStat(pid)?.parent === supervisor)
    .map((pid) => ({ role: roleOf(readCommandLine(pid)), pid }))
    .filter(({ role }) => role !== '');
}

export function descriptors(pid: number): number {
  try {
    return readdirSync(`/proc/${pid}/fd`).length;
  } catch {
    return 0;
  }
}

/** What a process tells of itself. The event loop's delay is that since it was asked last. */
export async function metrics(url: string): Promise<{ lagMs: number; files: number }> {
  const text = await (await fetch(url)).text();
  return {
    lagMs: 1000 * Number(/^nodejs_eventloop_lag_p99_seconds (\S+)$/m.exec(text)?.[1]),
    files: Number(/^gigafetch_files_total\{outcome="downloaded"\} (\S+)$/m.exec(text)?.[1]),
  };
}

/** A variable of the environment that a process was started with. */
export function variable(pid: number, name: string): string | undefined {
  const lines = readProc(pid, 'environ').split('\0');
  return lines.find((line) => line.startsWith(`${name}=`))?.slice(name.length + 1);
}
