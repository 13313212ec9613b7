import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { checkFiles } from '../../src/demo/check.ts';
import { DemoError } from '../../src/demo/service.ts';
import type { Run } from './results.ts';
import type { CommandRow, CommonPlace } from './rows.ts';
import type { FileServer } from './site.ts';
import { touchMemory } from './target.ts';
import { watchRun, type Watched } from './watch.ts';

// `times` tells what the shell's children, and theirs, used (POSIX): exact, also for what ended between two samples.
// Node raises its limit of open files by itself, others do not.
const wrapper = 'ulimit -n "$(ulimit -Hn)"; "$@"; code=$?; times >&3; exit $code';
const tailBytes = 4000;
// Far more than the slowest needs.
const fileMsMax = 20;
const startMsMax = 60_000;

interface Ended {
  stdout: string;
  cpuMs: number;
}

/**
 * Runs a row that is a command, or several at the same time, and checks that everything is there. `folder` is empty and
 * stays as it then is. Rejects with a DemoError where the command fails or something is missing, or with the signal's reason.
 */
export async function runCommand(
  row: CommandRow,
  place: CommonPlace,
  server: FileServer,
  folder: string,
  env: NodeJS.ProcessEnv,
  signal: AbortSignal,
): Promise<Omit<Run, 'round'>> {
  const [files, scratch] = [join(folder, 'files'), join(folder, 'scratch')];
  for (const each of [files, scratch]) mkdirSync(each);
  const commands = row.commands({ ...place, folder: files, scratch });
  const limit = AbortSignal.timeout(startMsMax + place.files * fileMsMax);
  const children: ChildProcess[] = [];
  touchMemory(folder, place);
  const watch = await watchRun(server, [], wrapper);
  using processes = watch.processes;
  const began = performance.now();
  const runs = commands.map((command) => {
    const child = start(command, scratch, env);
    children.push(child);
    processes.add(child.pid ?? 0);
    return finished(child, command, AbortSignal.any([signal, limit]));
  });
  try {
    const ended = await Promise.all(runs);
    const seconds = (performance.now() - began) / 1000;
    const watched = await watch.stop();
    const cpuMs = { ...watched.cpuMs, client: ended.reduce((sum, { cpuMs }) => sum + cpuMs, 0) };
    await check(row, files, place, watched.requests, signal);
    return {
      seconds,
      ...watched,
      cpuMs,
      kills: 0,
      loopP99Ms: null,
      ...ownFigures(ended, watched, cpuMs),
    };
  } finally {
    for (const child of children) kill(child);
    await Promise.allSettled(runs);
  }
}

function start([command = '', ...args]: string[], cwd: string, env: NodeJS.ProcessEnv): ChildProcess {
  return spawn('sh', ['-c', wrapper, 'sh', command, ...args], {
    cwd,
    env,
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
  });
}

async function finished(child: ChildProcess, command: readonly string[], signal: AbortSignal): Promise<Ended> {
  const [stdout, stderr, times] = [1, 2, 3].map((at) => tail(child, at));
  const onAbort = (): void => kill(child);
  signal.addEventListener('abort', onAbort);
  try {
    const [code, killed] = (await once(child, 'close')) as [number | null, string | null];
    signal.throwIfAborted();
    if (code !== 0) {
      throw new DemoError(`${command[0]} ended with ${killed ?? `exit code ${code}`}: ${stderr?.() ?? ''}`.trim());
    }
    return { stdout: stdout?.() ?? '', cpuMs: childrenMs(times?.() ?? '') };
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

/** The last of what it prints. */
function tail(child: ChildProcess, at: number): () => string {
  let text = '';
  child.stdio[at]?.on('data', (chunk: Buffer) => {
    text = (text + chunk.toString()).slice(-tailBytes);
  });
  return () => text;
}

/** The second line of what `times` prints: "0m1.230000s 0m0.450000s". */
function childrenMs(times: string): number {
  const [, line = ''] = times.split('\n');
  const parts = [...line.matchAll(/(\d+)m([\d.]+)s/g)];
  if (parts.length !== 2) throw new Error(`not what times prints: ${times}`);
  return parts.reduce((sum, [, minutes, seconds]) => sum + Number(minutes) * 60_000 + Number(seconds) * 1000, 0);
}

/** What loops that were warmed up, each by itself, tell of themselves takes the place of what was measured from outside. */
function ownFigures(
  ended: readonly Ended[],
  { requests, connections }: Watched,
  cpuMs: Run['cpuMs'],
): Pick<Run, 'seconds' | 'cpuMs' | 'requests' | 'connections'> | Record<string, never> {
  if (!ended.every(({ stdout }) => stdout.startsWith('{'))) return {};
  const own = ended.map(({ stdout }) => JSON.parse(stdout) as { seconds: number; cpuMs: number; warmFiles: number });
  const warmFiles = own.reduce((sum, one) => sum + one.warmFiles, 0);
  const warmed = requests / (requests - warmFiles);
  // The file server's time is known for both together.
  const server = (cpuMs.server ?? 0) / warmed;
  return {
    seconds: Math.max(...own.map(({ seconds }) => seconds)),
    cpuMs: { client: own.reduce((sum, { cpuMs }) => sum + cpuMs, 0), server },
    requests: requests - warmFiles,
    // Warming up opened as many.
    connections: connections / 2,
  };
}

async function check(
  row: CommandRow,
  folder: string,
  { files, fileBytes }: Pick<CommonPlace, 'files' | 'fileBytes'>,
  requests: number,
  signal: AbortSignal,
): Promise<void> {
  if (requests < files) throw new DemoError(`there were ${requests} requests for ${files} files`);
  if (!row.stores) return;
  const found = await checkFiles(folder, files, signal, fileBytes);
  if (found.right !== files || found.extra > 0) throw new DemoError(`of ${files} files: ${JSON.stringify(found)}`);
}

function kill(child: ChildProcess): void {
  try {
    if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
  } catch {
    // Nothing of it is left.
  }
}
