import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import { DemoError } from './service.ts';

export interface DemoOptions {
  files: number;
  once: boolean;
  workers: number;
  /** null: 3000, or a free one where that is taken. */
  port: number | null;
}

export const usage = `npm run demo -- [options]

Starts the service and a small file server, downloads the server's files and checks every byte.

  --files N     how many files of 100 bytes (default: 100000)
  --workers N   how many worker processes (default: one for each core)
  --port N      where the API listens (default: 3000, or a free port)
  --once        end after the check, with exit code 0 only if all is right
  --help        show this`;

/** Reads the demo's command line; null where it asks for help. Throws a DemoError of one line. */
export function readOptions(args: string[]): DemoOptions | null {
  const values = parse(args);
  if (values.help === true) return null;
  return {
    files: wholeNumber('--files', values.files ?? '100000', 1, 1_000_000_000),
    once: values.once ?? false,
    workers: wholeNumber('--workers', values.workers ?? String(availableParallelism()), 1, 1024),
    port: values.port === undefined ? null : wholeNumber('--port', values.port, 1, 65_535),
  };
}

/** The number that `text` says, from `min` to `max`. Throws a DemoError that names `option`. */
export function wholeNumber(option: string, text: string, min: number, max: number): number {
  const number = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
  if (number >= min && number <= max) return number;
  throw new DemoError(`${option} must be a whole number from ${min} to ${max}, not ${JSON.stringify(text)}`);
}

function parse(args: string[]) {
  try {
    return parseArgs({
      args,
      options: {
        files: { type: 'string' },
        workers: { type: 'string' },
        port: { type: 'string' },
        once: { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    }).values;
  } catch (error) {
    const message = error instanceof Error ? error.message.split('. ')[0] : String(error);
    throw new DemoError(`${message}; --help shows what there is`);
  }
}
