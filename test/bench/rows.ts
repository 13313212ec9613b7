/** All that is compared: what it is called, what it needs, how it is run. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { demoFileBytes, demoName } from '../../src/demo/files.ts';
import type { JobRequest } from '../../src/schemas.ts';
import type { Options } from './options.ts';
import { pythonPath, type Need } from './tools.ts';

export type RowGroup = 'service' | 'tool' | 'loop' | 'limit';

/** What a row runs on. */
export interface Place {
  /** Of the file server, without a final slash. */
  url: string;
  files: number;
  fileBytes: number;
  /** Got first, by those that have a compiler to warm up. */
  warmFiles: number;
  /** An empty folder for the files. */
  folder: string;
  /** For lists and the like. */
  scratch: string;
  workers: number;
  /** At a time, in all processes together, but where a row's settings say otherwise. */
  connections: number;
  /** 0: the file server answers as soon as it can. */
  delayMs: number;
  /** The compiled C client. */
  epoll: string;
}

export type CommonPlace = Omit<Place, 'folder' | 'scratch'>;

interface Common {
  readonly id: string;
  readonly title: string;
  readonly group: RowGroup;
  /** What a reader must know to do the same. */
  readonly settings: string;
  readonly needs: readonly Need[];
  /** Which part of --files it takes. */
  readonly share: number;
}

export interface ServiceRow extends Common {
  readonly group: 'service';
  /** Runs with --all alone. */
  readonly extra: boolean;
  readonly sink: Record<string, unknown> & { type: NonNullable<JobRequest['sink']>['type'] };
  readonly oneWorker: boolean;
  /** A worker is killed every so many milliseconds; 0: none is. */
  readonly killEveryMs: number;
}

export interface CommandRow extends Common {
  readonly group: Exclude<RowGroup, 'service'>;
  readonly stores: boolean;
  /** Writes its lists, which takes no part in the time, and returns what to run: several at the same time. */
  readonly commands: (place: Place) => string[][];
}

export type Row = ServiceRow | CommandRow;

function service(
  id: string,
  title: string,
  sink: ServiceRow['sink'],
  rest: Partial<Pick<ServiceRow, 'extra' | 'oneWorker' | 'killEveryMs'>> = {},
): ServiceRow {
  const workers = rest.oneWorker === true ? 'one worker' : 'all workers';
  const settings = `${JSON.stringify(sink)}, ${workers}, all else by default; posted when the workers are warm`;
  const common = { group: 'service', settings, needs: [], share: 1 } as const;
  return { id, title, sink, extra: true, oneWorker: false, killEveryMs: 0, ...common, ...rest };
}

const serviceRows: readonly ServiceRow[] = [
  service('directory', 'gigafetch, directory sink', { type: 'directory' }, { extra: false }),
  service('tar', 'gigafetch, tar sink with SHA-256 index', { type: 'tar' }, { extra: false }),
  service(
    'directory-1',
    'gigafetch, directory sink, one worker',
    { type: 'directory' },
    { extra: false, oneWorker: true },
  ),
  service('tar-1', 'gigafetch, tar sink, one worker', { type: 'tar' }, { extra: false, oneWorker: true }),
  service('tar-zst', 'gigafetch, tar.zst sink', { type: 'tar', compression: 'zstd' }),
  service('ndjson', 'gigafetch, ndjson sink', { type: 'ndjson' }),
  service('directory-power', 'gigafetch, directory sink, synced to disk', { type: 'directory', durability: 'power' }),
  service('tar-power', 'gigafetch, tar sink, synced to disk', { type: 'tar', durability: 'power' }),
  service('ndjson-power', 'gigafetch, ndjson sink, synced to disk', { type: 'ndjson', durability: 'power' }),
  service(
    'killed',
    'gigafetch, directory sink, a worker killed every 3 s',
    { type: 'directory' },
    { killEveryMs: 3000 },
  ),
];

const peer = (name: string): string => fileURLToPath(new URL(`peers/${name}`, import.meta.url));
const listing = ({ url, files }: Place): string => `${url}/list-${files}`;

/** Writes a line for each file from `from` to `to` - 1; returns the path of the list. */
function list(place: Place, line: (name: string) => string, from = 0, to = place.files): string {
  const path = join(place.scratch, `list-${from}`);
  writeFileSync(path, Array.from({ length: to - from }, (_, index) => `${line(demoName(from + index))}\n`).join(''));
  return path;
}

function curl(place: Place, from: number, to: number, at: number): string[] {
  const line = (name: string): string => `url = "${place.url}/get/${name}"\noutput = "${place.folder}/${name}"`;
  const config = list(place, line, from, to);
  const options = ['--no-progress-meter', '--fail', '--parallel', '--parallel-immediate', '--parallel-max', String(at)];
  return ['curl', '--disable', ...options, '--config', config];
}

/** Two commands, each for half of the files over half of the connections. */
function onHalves(
  { files, connections }: Pick<Place, 'files' | 'connections'>,
  command: (from: number, to: number, connections: number) => string[],
): string[][] {
  const [half, each] = [files >> 1, connections >> 1];
  return [command(0, half, each), command(half, files, each)];
}

const toolRows: readonly CommandRow[] = [
  {
    id: 'asyncio',
    title: 'asyncio, one process (aiohttp, uvloop)',
    group: 'tool',
    settings: 'the next page listed ahead, plain writes',
    needs: ['aiohttp'],
    share: 1 / 4,
    stores: true,
    commands: (place) => [
      [pythonPath, peer('event_loop.py'), listing(place), `${place.url}/get/`, place.folder, String(place.connections)],
    ],
  },
  {
    id: 'combo',
    title: 'combo: an event loop in each process, queues of page tokens',
    group: 'tool',
    settings: 'as many processes as there are workers, plain writes',
    needs: ['aiohttp'],
    share: 1 / 4,
    stores: true,
    commands: (place) => {
      const numbers = [String(place.connections), String(place.workers)];
      return [[pythonPath, peer('combo.py'), listing(place), `${place.url}/get/`, place.folder, ...numbers]];
    },
  },
  {
    id: 'numbered',
    title: 'asyncio, one process, numbered files (aiohttp, uvloop)',
    group: 'tool',
    settings: 'no listing, never more in flight than connections, plain writes',
    needs: ['aiohttp'],
    share: 1,
    stores: true,
    commands: ({ url, files, folder, connections }) => [
      [pythonPath, peer('numbered.py'), `${url}/get/`, String(files), folder, String(connections)],
    ],
  },
  {
    id: 'requests',
    title: 'python3-requests, one thread',
    group: 'tool',
    settings: 'one Session, one connection, plain writes',
    needs: ['requests'],
    share: 1 / 20,
    stores: true,
    commands: (place) => [[pythonPath, peer('one_thread.py'), listing(place), `${place.url}/get/`, place.folder]],
  },
  {
    id: 'aria2c',
    title: 'aria2c',
    group: 'tool',
    settings: '--input-file, --max-concurrent-downloads, --file-allocation none, quiet',
    needs: ['aria2c'],
    share: 1 / 40,
    stores: true,
    commands: (place) => {
      const input = list(place, (name) => `${place.url}/get/${name}`);
      const quiet = ['--quiet', '--download-result=hide', '--summary-interval=0', '--console-log-level=error'];
      const quick = [
        '--file-allocation=none',
        '--async-dns=false',
        '--disable-ipv6',
        `-j${place.connections}`,
        '-x1',
        '-s1',
      ];
      return [['aria2c', '--no-conf', ...quiet, ...quick, '--dir', place.folder, '--input-file', input]];
    },
  },
  {
    id: 'wget2',
    title: 'wget2',
    group: 'tool',
    settings: '--input-file, --max-threads, quiet',
    needs: ['wget2'],
    share: 1 / 4,
    stores: true,
    commands: (place) => {
      const input = list(place, (name) => `${place.url}/get/${name}`);
      const quiet = ['--no-config', '--quiet', '--no-hsts', '--no-compression', '--no-robots', '--no-cookies'];
      return [['wget2', ...quiet, `--max-threads=${place.connections}`, '-P', place.folder, '-i', input]];
    },
  },
  {
    id: 'rclone',
    title: 'rclone copy',
    group: 'tool',
    settings: '--files-from-raw, --no-traverse, --http-no-head, --transfers, no checks of the destination',
    needs: ['rclone'],
    share: 1 / 4,
    stores: true,
    commands: (place) => {
      const names = list(place, (name) => name);
      const from = ['--http-url', `${place.url}/get/`, '--http-no-head', '--files-from-raw', names];
      const quick = ['--no-traverse', '--no-check-dest', '--ignore-checksum', '--no-update-modtime'];
      const wide = ['--transfers', String(place.connections), '--checkers', '8', '--multi-thread-streams', '0'];
      const quiet = ['--config', '', '--stats', '0', '--retries', '1', '--low-level-retries', '3'];
      return [['rclone', 'copy', ':http:', place.folder, ...from, ...quick, ...wide, ...quiet]];
    },
  },
  {
    id: 'curl',
    title: 'curl --parallel',
    group: 'tool',
    settings: '--parallel-max, a --config with each URL and its output',
    needs: ['curl'],
    share: 1 / 2,
    stores: true,
    commands: (place) => [curl(place, 0, place.files, place.connections)],
  },
  {
    id: 'two-curls',
    title: 'curl --parallel, two at once on halves',
    group: 'tool',
    settings: '--parallel-max of half as many each, a --config with each URL and its output',
    needs: ['curl'],
    share: 1,
    stores: true,
    commands: (place) => onHalves(place, (from, to, at) => curl(place, from, to, at)),
  },
];

type Store = 'fetch' | 'write' | 'rename';
const stored: Record<Store, string> = { fetch: 'only fetched', write: 'written', rename: 'written and renamed' };

/** A bare loop in Node. */
function loop(
  way: string,
  store: Store,
  title: string,
  { two = false, ...rest }: Partial<Pick<CommandRow, 'id' | 'group' | 'share'>> & { two?: boolean } = {},
): CommandRow {
  const processes = two ? 'two processes at once on halves' : 'one process';
  return {
    id: `${way}${store === 'fetch' ? '' : `-${store}`}${two ? '-2' : ''}`,
    title: `${title}${two ? ', two processes' : ''}: ${stored[store]}`,
    group: 'loop',
    settings: `${processes}, a Client (or a place in the Pool) for each connection, names made up by number, writeSync; warm`,
    needs: [],
    share: 1,
    stores: store !== 'fetch',
    commands: ({ url, files, connections, folder, warmFiles: warmFilesMax }) => {
      const command = (from: number, to: number, connections: number): string[] => {
        const warmFiles = Math.min(warmFilesMax, to - from);
        const args = [way, store, url, from, to, connections, folder, warmFiles].map(String);
        return [process.execPath, peer('loop.ts'), ...args];
      };
      return two ? onHalves({ files, connections }, command) : [command(0, files, connections)];
    },
    ...rest,
  };
}

function epoll(store: Store): CommandRow {
  return {
    id: `epoll-${store}`,
    title: `C, epoll: ${stored[store]}`,
    group: 'limit',
    settings: 'one thread, names made up by number, cc -O2',
    needs: ['cc'],
    share: 1,
    stores: store !== 'fetch',
    commands: ({ url, files, connections, folder, epoll }) => [
      [epoll, new URL(url).port, String(files), String(connections), store, folder],
    ],
  };
}

const loopRows: readonly CommandRow[] = [
  loop('engine', 'fetch', "gigafetch's fetch engine alone"),
  loop('dispatch', 'fetch', 'undici dispatch'),
  loop('dispatch', 'write', 'undici dispatch'),
  loop('dispatch', 'rename', 'undici dispatch'),
  loop('dispatch', 'fetch', 'undici dispatch', { two: true }),
  loop('dispatch', 'rename', 'undici dispatch', { two: true }),
  loop('request', 'write', 'undici request, a Pool', { id: 'request', share: 1 / 2 }),
  loop('fetch', 'write', 'global fetch', { id: 'fetch', share: 1 / 4 }),
  loop('raw', 'fetch', 'Node, raw sockets', { group: 'limit' }),
  epoll('fetch'),
  epoll('write'),
  epoll('rename'),
];

/** Those that run with --delay: they have as many in flight as they are told, whatever the listing takes. */
const patientRows = new Set([
  'directory',
  'tar',
  'numbered',
  'dispatch',
  'dispatch-rename',
  'request',
  'fetch',
  'raw',
  'epoll-fetch',
]);

/** Those that walk a listing. */
const listingRows = new Set(['directory', 'tar', 'asyncio', 'combo']);

/** Those that run with large files: bare loops hold each body as a whole. */
const largeRows = new Set(['directory', 'tar', 'curl', 'two-curls']);

export const rows: readonly Row[] = [...serviceRows, ...toolRows, ...loopRows];

/** What runs where no rows are named. */
export function defaultRows({ all, delayMs, listDelayMs, fileBytes }: Options): Row[] {
  return rows.filter((row) => {
    if (fileBytes > demoFileBytes) return largeRows.has(row.id);
    if (delayMs > 0) return patientRows.has(row.id);
    if (listDelayMs > 0) return listingRows.has(row.id);
    return row.group === 'service' ? all || !row.extra : row.id !== 'numbered';
  });
}
