import { once } from 'node:events';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { demoBytes, demoIndex, demoName } from './files.ts';

export interface DemoServer {
  /** Where it listens, without a final slash: `http://127.0.0.1:3900`. */
  readonly url: string;
  /** Ends it and every connection to it. */
  close(): Promise<void>;
}

export interface DemoServerOptions {
  /** How many files there are. */
  files: number;
  /** Names a page of the listing. Default: 1,000. */
  pageSize?: number;
  /** 0, the default: a free one. */
  port?: number;
}

/**
 * Starts a file server on 127.0.0.1 that makes its files up. `GET /list` and `GET /list?next-marker=TOKEN` answer
 * `{"FileNames": […], "NextMarker": TOKEN}`, the last page without NextMarker; `GET /get/{name}` a file's bytes; anything
 * else 404. Rejects with the system's error where it cannot listen.
 */
export async function startDemoServer({ files, pageSize = 1000, port = 0 }: DemoServerOptions): Promise<DemoServer> {
  const server = createServer((request, response) => {
    const url = request.url ?? '';
    if (request.method !== 'GET') notFound(response);
    else if (url.startsWith('/get/')) sendFile(response, url.slice('/get/'.length), files);
    else sendPage(response, url, files, pageSize);
  });
  // Longer than any client keeps an idle connection: one that closes just as it is used again would be an error.
  server.keepAliveTimeout = 60_000;
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    async close() {
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}

/** One page of the listing, as the server answers it. */
export interface ListPage {
  FileNames: string[];
  NextMarker?: string;
}

/** The page that begins with file number `first`; the marker of a page is the name of its first file. */
export function listPage(first: number, files: number, pageSize: number): ListPage {
  const end = Math.min(first + pageSize, files);
  const names = Array.from({ length: end - first }, (_, i) => demoName(first + i));
  return end < files ? { FileNames: names, NextMarker: demoName(end) } : { FileNames: names };
}

function sendPage(response: ServerResponse, url: string, files: number, pageSize: number): void {
  const marker = /^\/list(?:\?next-marker=([^&]*))?$/.exec(url);
  if (!marker) return notFound(response);
  const first = marker[1] === undefined ? 0 : demoIndex(marker[1]);
  if (first === null || (first >= files && first > 0)) return notFound(response);
  const body = Buffer.from(JSON.stringify(listPage(first, files, pageSize)));
  send(response, 200, 'application/json', body);
}

function sendFile(response: ServerResponse, name: string, files: number): void {
  const index = demoIndex(name);
  if (index === null || index >= files) return notFound(response);
  send(response, 200, 'application/octet-stream', demoBytes(name));
}

function notFound(response: ServerResponse): void {
  send(response, 404, 'text/plain', Buffer.from('Not found\n'));
}

function send(response: ServerResponse, status: number, type: string, body: Buffer): void {
  response.writeHead(status, { 'content-type': type, 'content-length': body.length });
  response.end(body);
}
