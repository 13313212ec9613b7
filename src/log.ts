import { pino, type Logger } from 'pino';
import type { Config } from './config.ts';
import { systemCode } from './errors.ts';
import { LogOutput } from './log-output.ts';

/** A logger to standard output: one JSON object a line, each with the process id and the role of its process. */
export function createLogger(config: Pick<Config, 'logLevel'>, role: string): Logger {
  const options = {
    level: config.logLevel,
    base: { pid: process.pid, role },
    timestamp: pino.stdTimeFunctions.isoTime,
    serializers: { err: shownError },
    hooks: { streamWrite: withoutQueries },
  };
  // By asking for its stdout, Node makes a pipe one whose writes do not wait.
  return pino(options, new LogOutput(process.stdout.fd));
}

/** A text whose URLs have no queries: there are secrets in those that are signed beforehand. */
export function withoutQueries(text: string): string {
  return text.replaceAll(/(https?:\/\/[^\s"'<>?\\]*)\?[^\s"'<>\\]*/gi, '$1?…');
}

/** Libraries hang things on errors that are not for a log: ioredis the whole command, a job's secret headers included. */
function shownError(error: Error): object {
  const { type, message, stack } = pino.stdSerializers.err(error);
  return { type, message, stack, code: systemCode(error) };
}
