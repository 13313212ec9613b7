import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { commandLine } from '../../src/processes.ts';

/** A process of the service and what it and its children print. */
export interface ServiceProcess {
  readonly pid: number;
  readonly process: ChildProcess;
  /** The first line of standard output or error, from the beginning on, that is JSON and for which `pick` gives something. */
  line<T>(pick: (line: Record<string, unknown>) => T | undefined): Promise<T>;
  /** All lines of standard error so far. */
  readonly errors: readonly string[];
  /** Resolves at the end of the process, when everything it printed was read. */
  readonly ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
}

const started = new Set<ChildProcess>();
process.once('exit', killProcesses);

/** kill -9 of every process that `startProcess` started. */
export function killProcesses(): void {
  for (const child of started) child.kill('SIGKILL');
}

/** Runs a script by this Node, as the leader of a process group of its own. Killed when the tests end. */
export function startProcess(script: string, environment: NodeJS.ProcessEnv): ServiceProcess {
  const env = { ...process.env, NODE_TEST_CONTEXT: undefined, ...environment };
  const child = spawn(process.execPath, [script], { env, detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
  started.add(child);
  const lines: Record<string, unknown>[] = [];
  const errors: string[] = [];
  const checks = new Set<() => void>();
  createInterface({ input: child.stdout }).on('line', (text) => {
    if (!text.startsWith('{')) return;
    lines.push(JSON.parse(text) as Record<string, unknown>);
    for (const check of checks) check();
  });
  createInterface({ input: child.stderr }).on('line', (text) => errors.push(text));
  const ended = once(child, 'close').then(([code, signal]: unknown[]) => ({
    code: code as number | null,
    signal: signal as NodeJS.Signals | null,
  }));
  return {
    pid: child.pid ?? 0,
    process: child,
    errors,
    ended,
    line: (pick) =>
      new Promise((resolve, reject) => {
        const check = (): void => {
          for (const line of lines) {
            const picked = pick(line);
            if (picked === undefined) continue;
            checks.delete(check);
            resolve(picked);
            return;
          }
        };
        checks.add(check);
        check();
        void ended.then(() => reject(new Error(`ended without that line:\n${errors.join('\n')}`)));
      }),
  };
}

/** Resolves once there is no such process; one that only waits to be reaped counts as gone. */
export async function gone(pid: number): Promise<void> {
  while (commandLine(pid) !== null) await sleep(10);
}
