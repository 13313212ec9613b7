/**
 * What the soak downloads: JSON documents and their listing from nginx, of whose answers one in a hundred is wrong. What nginx
 * cannot do wrong, a server of Node's does, to which it redirects.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { listPage } from '../../src/demo/server.ts';
import { freePort } from '../../src/demo/service.ts';
import { needTool, toolEnvironment } from '../bench/tools.ts';
import { startFileServer, type Fault } from '../helpers/file-server.ts';

const NAMES_A_PAGE = 1000;
const DOCUMENT = JSON.stringify({ id: 'a document of a hundred bytes', filler: 'x'.repeat(100 - 54) });

/** How often nginx answers otherwise, in percent: 0.6 wrong, 0.8 sent on, of which half goes wrong. */
const fates = { error500: 0.25, error502: 0.15, closed: 0.18, missing: 0.01, away: 0.8 };

/** Each as often as the others, and good answers as often as all of them together. */
const faults: readonly Fault[] = [
  { cut: { after: 'start', by: 'reset' } },
  { cut: { after: 50, by: 'reset' } },
  { cut: { after: 50, by: 'end' } },
  { cut: { after: 50, by: 'end' }, framing: 'chunked' },
  { cut: { after: 50, by: 'silence' } },
  { cut: { after: 'start', by: 'silence' } },
  { status: 503, body: 'busy' },
  { status: 504, body: 'late' },
  { slow: { bytes: 10, everyMs: 50 } },
  { http10: true, framing: 'close' },
  { codings: ['zstd'] },
  { close: true },
  { raw: 'what is this?\r\n\r\n' },
];

/** What fails for good, once in so many requests that are sent on. */
const forGood: readonly Fault[] = [
  { status: 403 },
  { status: 302, headers: { location: '/again' } },
  { status: 302, headers: { location: 'http://10.0.0.1/' } },
  { body: 'x'.repeat(4 * 1024 * 1024) },
  { body: DOCUMENT, contentEncoding: 'gzip' },
];
const FOR_GOOD_EVERY = 200;

export interface SoakServer {
  readonly url: string;
  stop(): Promise<void>;
}

/** Starts both, with a listing of `files` names below `folder`. */
export async function startSoakServer(folder: string, files: number): Promise<SoakServer> {
  const odd = await startFileServer({ keepLog: false });
  const good = { status: 200, body: DOCUMENT };
  odd.fault(() => true, good);
  for (const fault of faults) odd.fault(() => Math.random() < 1 / (2 * faults.length), { ...good, ...fault });
  for (const fault of forGood) odd.fault(() => Math.random() < 1 / (forGood.length * FOR_GOOD_EVERY), fault);
  odd.fault('/again', { status: 302, headers: { location: '/again' } });

  mkdirSync(join(folder, 'pages'), { recursive: true });
  for (let first = 0; first < files; first += NAMES_A_PAGE) {
    const page = listPage(first, files, NAMES_A_PAGE);
    writeFileSync(join(folder, 'pages', first === 0 ? 'first' : page.FileNames[0]!), JSON.stringify(page));
  }
  const port = await freePort(0);
  writeFileSync(join(folder, 'nginx.conf'), configuration(folder, port, odd.origin));
  needTool('nginx');
  const nginx = spawn('nginx', ['-p', folder, '-c', 'nginx.conf', '-e', join(folder, 'error.log')], {
    stdio: ['ignore', 'inherit', 'inherit'],
    env: toolEnvironment(),
  });
  const ended = once(nginx, 'exit');
  const url = `http://127.0.0.1:${port}`;
  while (!(await fetch(`${url}/up`).catch(() => null))) {
    if (nginx.exitCode !== null) throw new Error('nginx did not start');
    await sleep(20);
  }
  return {
    url,
    stop: async () => {
      nginx.kill('SIGTERM');
      await Promise.all([ended, odd.stop()]);
    },
  };
}

function configuration(folder: string, port: number, odd: string): string {
  const parts = Object.entries(fates).map(([fate, percent]) => `${percent}% ${fate};`);
  const answers =
    'if ($fate = error500) { return 500; } if ($fate = error502) { return 502; } if ($fate = closed) { return 444; }';
  return `
${process.getuid?.() === 0 ? 'user root;' : ''}
daemon off;
worker_processes 1;
worker_rlimit_nofile 65536;
pid ${folder}/nginx.pid;
events { worker_connections 16384; }
http {
  access_log off;
  client_body_temp_path ${folder}/tmp; proxy_temp_path ${folder}/tmp; fastcgi_temp_path ${folder}/tmp;
  uwsgi_temp_path ${folder}/tmp; scgi_temp_path ${folder}/tmp;
  keepalive_requests 10000;
  split_clients $request_id $fate { ${parts.join(' ')} * fine; }
  map $args $page { default none; "" first; "~^next-marker=(?<marker>[a-z0-9.-]+)$" $marker; }
  server {
    listen 127.0.0.1:${port} backlog=4096;
    root ${folder};
    location = /up { return 204; }
    location = /list { ${answers} default_type application/json; try_files /pages/$page =404; }
    location /get/ {
      ${answers}
      if ($fate = missing) { return 404; }
      if ($fate = away) { return 302 ${odd}$request_uri; }
      default_type application/json;
      return 200 '${DOCUMENT}';
    }
  }
}
`;
}
