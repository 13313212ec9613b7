import { execFileSync } from 'node:child_process';
import { processIds, readCommandLine, readMemory, readStat } from './proc.ts';

/** What all processes of one role used while they were watched. */
export interface RoleFigures {
  processes: number;
  /** Processor time, user and system, of all of them together, also of those that have ended. */
  cpuMs: number;
  /** Of those that lived at one time, the largest resident memory that each ever had (VmHWM), added up. */
  peakBytes: number;
  /** Resident memory (VmRSS) of all of them together, the mean of the samples in which there was any. */
  meanBytes: number;
}

interface Seen {
  role: string;
  pid: number;
  alive: boolean;
  /** The processor time before the watch began. */
  firstMs: number;
  lastMs: number;
  peakBytes: number;
  residentBytes: number;
}

interface Stat {
  pid: number;
  parent: number;
  /** Together with the pid unique since boot: the kernel gives pids again. */
  startedAt: string;
  cpuMs: number;
}

/**
 * Watches processes and all their descendants through /proc (proc(5)), so on Linux only. Figures of a process that ends
 * are those of the last sample before: take one before killing anything.
 */
export class ProcessWatch implements Disposable {
  readonly #roots: Set<number>;
  readonly #roleOf: (commandLine: string) => string;
  readonly #seen = new Map<string, Seen>();
  readonly #peakBytes = new Map<string, number>();
  /** Of each sample, by role. */
  readonly #residentBytes = new Map<string, number[]>();
  readonly #tickMs = 1000 / Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }));
  readonly #timer: NodeJS.Timeout;

  /** Starts watching. `roleOf` names the role of a process by its command line, arguments divided by spaces. */
  constructor(roots: readonly number[], roleOf: (commandLine: string) => string, everyMs = 200) {
    this.#roots = new Set(roots);
    this.#roleOf = roleOf;
    this.sample(true);
    this.#timer = setInterval(() => this.sample(), everyMs);
  }

  /** Watches one more, which was only just started. */
  add(root: number): void {
    this.#roots.add(root);
  }

  /** Reads all figures now. `first`: processor time used so far does not count. */
  sample(first = false): void {
    for (const seen of this.#seen.values()) seen.alive = false;
    for (const stat of this.#family()) {
      const key = `${stat.pid} ${stat.startedAt}`;
      const { peakBytes, residentBytes } = readMemory(stat.pid);
      const role = this.#roleOf(readCommandLine(stat.pid));
      const before = this.#seen.get(key);
      // A process that just began still shows its parent's command line, one that just ended shows none.
      if (before && role !== '') before.role = role;
      const now = { alive: true, lastMs: stat.cpuMs, residentBytes };
      if (before) Object.assign(before, now, { peakBytes: Math.max(peakBytes, before.peakBytes) });
      else this.#seen.set(key, { ...now, role, pid: stat.pid, firstMs: first ? stat.cpuMs : 0, peakBytes });
    }
    const alive = [...this.#seen.values()].filter((seen) => seen.alive);
    for (const [role, ofRole] of Map.groupBy(alive, (seen) => seen.role)) {
      const samples = this.#residentBytes.get(role) ?? [];
      this.#residentBytes.set(role, samples);
      samples.push(sum(ofRole.map(({ residentBytes }) => residentBytes)));
      const peakBytes = sum(ofRole.map((seen) => seen.peakBytes));
      this.#peakBytes.set(role, Math.max(peakBytes, this.#peakBytes.get(role) ?? 0));
    }
  }

  /** The processes of a role that were there at the last sample. */
  alive(role: string): number[] {
    return [...this.#seen.values()].filter((seen) => seen.alive && seen.role === role).map((seen) => seen.pid);
  }

  /** Ends the watch; the figures by role. */
  stop(): Record<string, RoleFigures> {
    this[Symbol.dispose]();
    this.sample();
    const roles: Record<string, RoleFigures> = {};
    for (const seen of this.#seen.values()) {
      const peakBytes = this.#peakBytes.get(seen.role) ?? 0;
      const samples = this.#residentBytes.get(seen.role) ?? [];
      const meanBytes = sum(samples) / Math.max(1, samples.length);
      const figures = (roles[seen.role] ??= { processes: 0, cpuMs: 0, peakBytes, meanBytes });
      figures.processes += 1;
      figures.cpuMs += seen.lastMs - seen.firstMs;
    }
    return roles;
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }

  #family(): Stat[] {
    const children = new Map<number, Stat[]>();
    const family: Stat[] = [];
    for (const pid of processIds()) {
      const read = readStat(pid);
      if (read === null) continue;
      const stat = { ...read, pid, cpuMs: read.cpuTicks * this.#tickMs };
      if (this.#roots.has(stat.pid)) family.push(stat);
      else children.set(stat.parent, [...(children.get(stat.parent) ?? []), stat]);
    }
    // Grows while it is walked: that takes in the children's children.
    for (const { pid } of family) family.push(...(children.get(pid) ?? []));
    return family;
  }
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
