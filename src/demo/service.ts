import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

/** Something that the person in front of the demo should read as one message, without a stack. */
export class DemoError extends Error {
  override readonly name = 'DemoError';
}

export interface ServiceOptions {
  port: number;
  dataDir: string;
  stateDir: string;
  /** Takes all that the service prints. */
  logFile: string;
  /** Further settings, by their names in the environment; an empty one counts as unset. */
  settings?: Record<string, string>;
}

/** The service as `npm start` runs it, as a child process in a process group of its own. */
export interface Service {
  /** Without a final slash. */
  readonly url: string;
  readonly pid: number;
  /** Aborted, with a DemoError that shows the end of the log, when the service ends without having been asked to. */
  readonly gone: AbortSignal;
  /** Ends all its processes; resolves when they are gone. May be called at any time, also twice. */
  stop(): Promise<void>;
}

const stopMs = 12_000;
const killMs = 3000;

/** Starts the service on 127.0.0.1; it is not ready yet. */
export function startService({ port, dataDir, stateDir, logFile, settings }: ServiceOptions): Service {
  const log = openSync(logFile, 'a');
  const main = fileURLToPath(new URL('../main.ts', import.meta.url));
  const child = spawn(process.execPath, [main], {
    // Not in this process's group: Ctrl-C reaches this process alone, which then stops the service in order.
    detached: true,
    stdio: ['ignore', log, log],
    env: {
      ...process.env,
      HOST: '127.0.0.1',
      PORT: String(port),
      DATA_DIR: dataDir,
      STATE_DIR: stateDir,
      ...settings,
    },
  });
  closeSync(log);
  const gone = new AbortController();
  let stopping: Promise<void> | undefined;
  const ended = (how: string): void => {
    if (!stopping) gone.abort(new DemoError(`the service ${how}; its log ends with:\n${tail(logFile)}`));
  };
  child.once('error', (error) => ended(`did not start (${error.message})`));
  child.once('exit', (code, signal) => ended(`ended by itself (${signal ?? `exit code ${code}`})`));
  return {
    url: `http://127.0.0.1:${port}`,
    pid: child.pid ?? 0,
    gone: gone.signal,
    stop: () => (stopping ??= stop(child)),
  };
}

/**
 * Resolves when the service answers that it is ready. Rejects with a DemoError that shows the end of the log after
 * `timeoutMs`, or with the reason of `signal`.
 */
export async function serviceReady(
  service: Service,
  logFile: string,
  signal: AbortSignal,
  timeoutMs = 60_000,
): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (Date.now() < deadline) {
    try {
      const answer = await fetch(`${service.url}/readyz`, {
        signal: AbortSignal.any([signal, AbortSignal.timeout(2000)]),
      });
      await answer.body?.cancel();
      if (answer.ok) return;
    } catch {
      signal.throwIfAborted();
    }
    await pause(100, signal);
  }
  throw new DemoError(`the service is not ready after ${timeoutMs / 1000} s; its log ends with:\n${tail(logFile)}`);
}

/** Resolves after `ms`; rejects with the signal's reason once that is aborted. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  try {
    await setTimeout(ms, undefined, { signal });
  } catch {
    signal.throwIfAborted();
  }
}

/** `wanted` if it is free on 127.0.0.1, else (and for 0) one that is. */
export async function freePort(wanted: number): Promise<number> {
  const probe = createServer();
  try {
    probe.listen(wanted, '127.0.0.1');
    await once(probe, 'listening');
  } catch (error) {
    if (wanted === 0) throw error;
    return freePort(0);
  }
  const address = probe.address();
  probe.close();
  await once(probe, 'close');
  return typeof address === 'object' && address ? address.port : wanted;
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.pid === undefined) return;
  const running = (): boolean => child.exitCode === null && child.signalCode === null;
  const exit = running() ? once(child, 'exit') : Promise.resolve();
  // The first signal asks the service to end in order, the second makes it kill its children at once.
  for (const waitMs of [stopMs, killMs]) {
    if (!running()) break;
    child.kill('SIGTERM');
    const patience = new AbortController();
    await Promise.race([exit, setTimeout(waitMs, undefined, { signal: patience.signal }).catch(() => {})]);
    patience.abort();
  }
  try {
    process.kill(-child.pid, 'SIGKILL');
  } catch {
    // No process of the group is left: as it should be.
  }
  await exit;
}

function tail(logFile: string): string {
  return readFileSync(logFile, 'utf8').trimEnd().split('\n').slice(-20).join('\n');
}
