import { pino, type Logger } from 'pino';
import type { Config } from './config.ts';

/** A logger to standard output: one JSON object a line, each with the process id and the role of its process. */
export function createLogger(config: Pick<Config, 'logLevel'>, role: string): Logger {
  return pino({ level: config.logLevel, base: { pid: process.pid, role }, timestamp: pino.stdTimeFunctions.isoTime });
}
