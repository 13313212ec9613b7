/** The bench's file server where there is no nginx: the same answers from Node, which is several times slower. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';
import { demoBytes, demoIndex } from '../../src/demo/files.ts';
import { listPage } from '../../src/demo/server.ts';
import { documentBytes, type FileServer } from './site.ts';

const file = fileURLToPath(import.meta.url);

/** Starts it in a process of its own, which ends with this one. */
export async function startNodeServer(pageSize: number, fileBytes: number): Promise<FileServer> {
  const child = fork(file, [pageSize, fileBytes].map(String));
  const [port] = (await once(child, 'message')) as [number];
  return {
    url: `http://127.0.0.1:${port}`,
    pid: child.pid ?? 0,
    version: `Node's http server, Node ${process.versions.node}`,
    async stop() {
      if (!child.connected) return;
      const exit = once(child, 'exit');
      child.disconnect();
      await exit;
    },
  };
}

/** The body that a path is answered with, or null. */
function bodyFor(path: string, pageSize: number, fileBytes: number): Buffer | null {
  const [, folder, name = ''] = /^\/(get|documents)\/(.*)$/.exec(path) ?? [];
  if (folder !== undefined && demoIndex(name) !== null) {
    return folder === 'get' ? demoBytes(name, fileBytes) : documentBytes(name);
  }
  const [, listed, marker] = /^\/list-(\d+)(?:\?next-marker=(.*))?$/.exec(path) ?? [];
  const first = marker === undefined ? 0 : demoIndex(marker);
  if (listed === undefined || first === null) return null;
  return Buffer.from(JSON.stringify(listPage(first, Number(listed), pageSize)));
}

async function serve(pageSize: number, fileBytes: number): Promise<void> {
  let connections = 0;
  let requests = 0;
  const server = createServer((request, response) => {
    const path = request.url ?? '';
    requests += 1;
    const status = `server accepts handled requests\n ${connections} ${connections} ${requests} \n`;
    const body = path === '/status' ? Buffer.from(status) : bodyFor(path, pageSize, fileBytes);
    response.writeHead(body === null ? 404 : 200, { 'content-length': body?.length ?? 0 });
    response.end(body ?? '');
  });
  server.on('connection', () => (connections += 1));
  server.keepAliveTimeout = 60_000;
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  process.send?.((server.address() as AddressInfo).port);
  process.once('disconnect', () => process.exit());
}

if (process.argv[1] === file) await serve(Number(process.argv[2]), Number(process.argv[3]));
