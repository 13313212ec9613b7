import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import { demoFileBytes } from '../../src/demo/files.ts';
import { wholeNumber } from '../../src/demo/options.ts';
import { DemoError } from '../../src/demo/service.ts';

export interface Options {
  /** What the quickest rows get; others get a share of it. */
  files: number;
  rounds: number;
  /** Ids of rows; null: those that --all is not needed for. */
  only: string[] | null;
  all: boolean;
  json: boolean;
  install: boolean;
  /** For `makeTarget`. */
  target: string;
  server: 'nginx' | 'node';
  workers: number;
  /** At a time, of every row in all its processes together. */
  connections: number;
  fileBytes: number;
  /** Names a page of the listing. */
  pageSize: number;
  /** How long the file server takes for each answer; 0: as long as it needs. */
  delayMs: number;
  /** The same for pages of the listing, where the server has no other delay. */
  listDelayMs: number;
}

export const usage = `npm run bench -- [options]

Downloads the same small files with this service, other tools and bare loops, in turns, and compares.

  --files N      files for each row; slow ones take a part of them (default: 200000)
  --rounds N     how often each row runs, after a first time that does not count (default: 5)
  --only A,B     these rows alone, by their ids
  --all          more rows of this service: other sinks, one worker, workers that are killed
  --install      fetch the Debian packages of what is missing, into node_modules/.cache
  --target WHERE where the files go: tmpfs (default), ext4 (with a journal, mounted for this; needs root),
                 or ext4:FOLDER, with its image in that folder
  --workers N    worker processes, and processes of others that take a number (default: one for each core)
  --connections N
                 requests in flight, of each row in all its processes together (default: 64)
  --file-bytes N
                 size of each file (default: 100); of large ones it is fewer, and rows that are made for them
  --page-size N  names a page of the listing (default: 1000)
  --delay MS     a server that takes so long for each answer; then the rows are those that need no listing
  --list-delay MS
                 a server that takes so long for each page of the listing, and no time for files
  --server node  a file server in Node, where there is no nginx
  --json         print everything as JSON, for report.ts
  --help         show this`;

/** Reads the command line; null where it asks for help. Throws a DemoError of one line. */
export function readOptions(args: string[]): Options | null {
  const values = parse(args);
  if (values.help) return null;
  const { server, target } = values;
  if (server !== 'nginx' && server !== 'node') throw new DemoError(`--server is nginx or node, not "${server}"`);
  const delayMs = wholeNumber('--delay', values.delay, 0, 60_000);
  return {
    files: wholeNumber('--files', values.files, 1, 10_000_000),
    rounds: wholeNumber('--rounds', values.rounds, 1, 1000),
    only: values.only?.split(',') ?? null,
    all: values.all,
    json: values.json,
    install: values.install,
    target,
    server,
    workers: wholeNumber('--workers', values.workers, 1, 1024),
    connections: wholeNumber('--connections', values.connections, 2, 65_536),
    fileBytes: wholeNumber('--file-bytes', values['file-bytes'], 1, 1_073_741_824),
    pageSize: wholeNumber('--page-size', values['page-size'], 1, 100_000),
    delayMs,
    listDelayMs: Math.max(delayMs, wholeNumber('--list-delay', values['list-delay'], 0, 60_000)),
  };
}

function parse(args: string[]) {
  try {
    return parseArgs({
      args,
      options: {
        files: { type: 'string', default: '200000' },
        rounds: { type: 'string', default: '5' },
        only: { type: 'string' },
        all: { type: 'boolean', default: false },
        install: { type: 'boolean', default: false },
        target: { type: 'string', default: 'tmpfs' },
        workers: { type: 'string', default: String(availableParallelism()) },
        connections: { type: 'string', default: '64' },
        'file-bytes': { type: 'string', default: String(demoFileBytes) },
        'page-size': { type: 'string', default: '1000' },
        delay: { type: 'string', default: '0' },
        'list-delay': { type: 'string', default: '0' },
        server: { type: 'string', default: 'nginx' },
        json: { type: 'boolean', default: false },
        help: { type: 'boolean', short: 'h', default: false },
      },
    }).values;
  } catch (error) {
    throw new DemoError(`${(error as Error).message.split('. ')[0]}; --help shows what there is`);
  }
}
