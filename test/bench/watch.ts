import { ProcessWatch, type RoleFigures } from './process-figures.ts';
import type { Role, Run } from './results.ts';
import { serverCounts, type FileServer } from './site.ts';

const everyMs = 250;

/** What a run needs beside what it measures itself. */
export type Watched = Omit<Run, 'round' | 'seconds' | 'kills' | 'loopP99Ms'>;

export interface RunWatch {
  readonly processes: ProcessWatch;
  /** Ends it. */
  stop(): Promise<Watched>;
}

/** Watches the file server and the processes `roots` with all their descendants, from now on. */
export async function watchRun(server: FileServer, roots: readonly number[], wrapper = ''): Promise<RunWatch> {
  const before = await serverCounts(server);
  const processes = new ProcessWatch([server.pid, ...roots], (line) => roleOf(line, wrapper), everyMs);
  return {
    processes,
    async stop() {
      const roles = processes.stop();
      const after = await serverCounts(server);
      return {
        cpuMs: figures(roles, 'cpuMs'),
        peakBytes: figures(roles, 'peakBytes'),
        meanBytes: figures(roles, 'meanBytes'),
        // The second question is in its own answer.
        requests: after.requests - before.requests - 1,
        connections: after.connections - before.connections - 1,
      };
    },
  };
}

/** No role is what is still the bench itself, just forked, or only waits for others. */
export function roleOf(commandLine: string, wrapper = ''): Role | '' {
  if (commandLine === '' || commandLine.includes('test/bench/bench.ts')) return '';
  if (wrapper !== '' && commandLine.includes(wrapper)) return '';
  if (/nginx: |nginx -p |test\/bench\/node-server\.ts|\/delayed \d/.test(commandLine)) return 'server';
  if (wrapper !== '') return 'client';
  if (commandLine.includes('src/worker.ts')) return 'worker';
  if (commandLine.includes('src/api.ts')) return 'api';
  if (commandLine.includes('src/main.ts')) return 'supervisor';
  return /redis-server|valkey-server/.test(commandLine) ? 'redis' : '';
}

function figures(
  roles: Readonly<Record<string, RoleFigures>>,
  figure: 'cpuMs' | 'peakBytes' | 'meanBytes',
): Partial<Record<Role, number>> {
  return Object.fromEntries(
    Object.entries(roles)
      .filter(([role]) => role !== '')
      .map(([role, figures]) => [role, figures[figure]]),
  );
}
