import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { demoBytes, demoFileBytes, demoName } from '../../src/demo/files.ts';
import { listPage } from '../../src/demo/server.ts';

/** A file server in processes of its own. `/list-N` lists the first N files, whatever N it was started with. */
export interface FileServer {
  /** Without a final slash. */
  readonly url: string;
  readonly pid: number;
  /** "nginx/1.22.1" */
  readonly version: string;
  /** Resolves when it is gone; may be called twice. */
  stop(): Promise<void>;
}

/** What a server has done since it was started, these questions left out. */
export interface ServerCounts {
  connections: number;
  requests: number;
}

/** Asks a server at `/status`, which answers as nginx's stub_status module does. */
export async function serverCounts({ url }: FileServer): Promise<ServerCounts> {
  const text = await (await fetch(`${url}/status`, { headers: { connection: 'close' } })).text();
  const [, connections, requests] = /^ (\d+) \d+ (\d+) $/m.exec(text) ?? [];
  if (connections === undefined || requests === undefined) throw new Error(`not a status: ${text}`);
  return { connections: Number(connections), requests: Number(requests) };
}

/** The body of a file below `/documents/`: JSON that is as long as the other files are. */
export function documentBytes(name: string): Buffer {
  const begin = `{"name":"${name}","data":"`;
  const data = demoBytes(name)
    .toString('hex')
    .slice(0, demoFileBytes - begin.length - 2);
  return Buffer.from(`${begin}${data}"}`);
}

/**
 * Writes a site below `folder` for nginx to serve: the first `files` demo files in `get`, of `fileBytes` each; small ones as JSON in `documents` if wanted,
 * and in `pages` the pages of a listing for each of the numbers in `listings`.
 */
export function writeSite(
  folder: string,
  { files, fileBytes, pageSize }: { files: number; fileBytes: number; pageSize: number },
  listings: readonly number[],
  documents: boolean,
): void {
  for (const listed of new Set(listings)) {
    const pages = join(folder, 'pages', String(listed));
    mkdirSync(pages, { recursive: true });
    for (let first = 0; first < listed; first += pageSize) {
      const page = JSON.stringify(listPage(first, listed, pageSize));
      writeFileSync(join(pages, `${demoName(first)}.json`), page);
    }
  }
  mkdirSync(join(folder, 'get'));
  if (documents) mkdirSync(join(folder, 'documents'));
  for (let index = 0; index < files; index += 1) {
    const name = demoName(index);
    writeFileSync(join(folder, 'get', name), demoBytes(name, fileBytes));
    if (documents) writeFileSync(join(folder, 'documents', name), documentBytes(name));
  }
}
