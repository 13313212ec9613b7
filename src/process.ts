/** How the processes of the service begin and end: the supervisor, and the roles (API, worker) with or without it. */
import { flushCompileCache } from 'node:module';
import type { Config } from './config.ts';
import { StartError } from './errors.ts';
import { withoutQueries } from './log.ts';

/** The exit code of a process that cannot start as it is set up (EX_CONFIG of sysexits.h): starting it again is no help. */
export const startErrorExitCode = 78;

const closeMs = 7_000;
/** Without its supervisor, Redis is gone too as a rule; the next start waits for the end of all that is left. */
const orphanCloseMs = 2_000;
/** On Ctrl-C npm passes on the signal that the terminal has sent already: signals this close together are one. */
const sameSignalMs = 500;

/**
 * Runs a role until its end: SIGTERM, SIGINT, SIGHUP or, under a supervisor, SIGTERM or the supervisor's death. Then what
 * `main` gave is closed, within 7 s (2 s after that death), and the process exits with 0; a second signal exits at once. A StartError from
 * `main` is printed as one line and exits with 78; any other error, at any time, is printed with its stack and exits with 1.
 */
export async function runRole(main: () => Promise<{ close(): Promise<void> }>): Promise<void> {
  process.once('uncaughtException', (error) => exitWith(1, error));
  const { promise: asked, resolve: ask } = Promise.withResolvers<void>();
  let ending = false;
  const end = (withinMs: number): void => {
    if (ending) process.exit(1);
    ending = true;
    setTimeout(() => exitWith(1, new Error(`not closed within ${withinMs} ms`)), withinMs);
    ask();
  };
  if (process.send === undefined) {
    onEndSignals({ first: () => end(closeMs), again: () => end(closeMs) });
  } else {
    if (!process.connected) process.exit(0);
    process.once('disconnect', () => ending || end(orphanCloseMs));
    process.on('SIGTERM', () => end(closeMs));
    // A terminal's Ctrl-C reaches all its processes: the supervisor decides what it means.
    for (const signal of ['SIGINT', 'SIGHUP']) process.on(signal, () => {});
  }
  try {
    const role = await main();
    // Else it is written at the end of a process alone, and one that is killed has none.
    flushCompileCache();
    await asked;
    await role.close();
  } catch (error) {
    exitWith(error instanceof StartError ? startErrorExitCode : 1, error);
  }
  process.exit(0);
}

/** Ends the process. A StartError is printed as one line, any other error with its stack. */
export function exitWith(exitCode: number, error: unknown): never {
  const shown = error instanceof Error ? (error.stack ?? error.message) : String(error);
  process.stderr.write(`gigafetch: ${withoutQueries(error instanceof StartError ? error.message : shown)}\n`);
  process.exit(exitCode);
}

/**
 * Listens to SIGTERM, SIGINT and SIGHUP: the first calls `first`, every later one `again`. Returns what stops listening.
 */
export function onEndSignals(handlers: { first: () => void; again: () => void }): () => void {
  let firstAt: number | undefined;
  const listener = (): void => {
    if (firstAt === undefined) {
      firstAt = performance.now();
      handlers.first();
    } else if (performance.now() - firstAt > sameSignalMs) {
      handlers.again();
    }
  };
  const signals = ['SIGTERM', 'SIGINT', 'SIGHUP'];
  for (const signal of signals) process.on(signal, listener);
  return () => {
    for (const signal of signals) process.removeListener(signal, listener);
  };
}

/** Tells the supervisor, if there is one, that the API listens at `url` (http://host:port). */
export function announceReady(url: string): void {
  if (process.connected) process.send?.({ ready: { url } });
}

/** The URL in a message of `announceReady`, null for any other message. */
export function readyUrl(message: unknown): string | null {
  if (typeof message !== 'object' || message === null || !('ready' in message)) return null;
  const { ready } = message;
  if (typeof ready !== 'object' || ready === null || !('url' in ready)) return null;
  return typeof ready.url === 'string' ? ready.url : null;
}

/** Where a role finds Redis. Throws StartError where nobody said so. */
export function requireRedisUrl(config: Pick<Config, 'redisUrl'>): string {
  if (config.redisUrl !== null) return config.redisUrl;
  throw new StartError(
    'REDIS_URL is not set: a single role needs it (npm start runs all of them with a Redis of their own)',
  );
}
