import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createReadStream, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout } from 'node:timers/promises';
import { demoBytes, demoIndex, demoName } from '../../src/demo/files.ts';
import { listPage } from '../../src/demo/server.ts';
import { DemoError, freePort } from '../../src/demo/service.ts';

/** A private nginx with the demo's files as real files. */
export interface NginxServer {
  /** Without a final slash. */
  readonly url: string;
  readonly pid: number;
  /** Resolves when it is gone; may be called twice. */
  stop(): Promise<void>;
}

export interface RequestCounts {
  lists: number;
  gets: number;
  /** Requests for files that were asked for before. */
  getsAgain: number;
  /** Files that were never asked for. */
  neverAsked: number;
}

const pageSize = 1000;

/**
 * The nginx of the path; without one, Debian's package unpacked into `folder`, which changes nothing else on the machine
 * and starts no service. Throws a DemoError that says what to install.
 */
export function findNginx(folder: string): string {
  if (runs('nginx')) return 'nginx';
  console.error('There is no nginx here: fetching its package with apt-get');
  const fetchPackage = 'apt-get -qq -o APT::Sandbox::User=root download nginx';
  const script = `${fetchPackage} || { apt-get -qq update && ${fetchPackage}; } && dpkg-deb -x nginx_*.deb .`;
  const unpacked = join(folder, 'package');
  mkdirSync(unpacked);
  spawnSync('sh', ['-c', script], { cwd: unpacked, stdio: ['ignore', 'ignore', 'inherit'] });
  const nginx = join(unpacked, 'usr/sbin/nginx');
  if (runs(nginx)) return nginx;
  throw new DemoError('this needs nginx: apt-get install nginx, dnf install nginx or apk add nginx');
}

/** Writes the first `files` demo files and the pages of their listing below `folder`, for an nginx to serve. */
export function writeSite(folder: string, files: number): void {
  mkdirSync(join(folder, 'get'), { recursive: true });
  mkdirSync(join(folder, 'pages'));
  for (let first = 0; first < files; first += pageSize) {
    const page = listPage(first, files, pageSize);
    writeFileSync(join(folder, 'pages', `${demoName(first)}.json`), JSON.stringify(page));
    for (const name of page.FileNames) writeFileSync(join(folder, 'get', name), demoBytes(name));
  }
}

/** Starts an nginx with one worker process on the site in `folder`, on a free port of 127.0.0.1. */
export async function startNginx(nginx: string, folder: string): Promise<NginxServer> {
  const port = await freePort(0);
  writeFileSync(join(folder, 'nginx.conf'), configuration(folder, port));
  const settings = ['-p', folder, '-c', join(folder, 'nginx.conf'), '-e', join(folder, 'error.log')];
  const child = spawn(nginx, settings, { stdio: ['ignore', 'inherit', 'inherit'] });
  child.once('error', () => {});
  const url = `http://127.0.0.1:${port}`;
  while (!(await answers(`${url}/up`))) {
    if (ended(child)) throw new DemoError(`nginx did not start: ${readFileSync(join(folder, 'error.log'), 'utf8')}`);
    await setTimeout(20);
  }
  return {
    url,
    pid: child.pid ?? 0,
    async stop() {
      if (ended(child)) return;
      const exit = once(child, 'exit');
      child.kill('SIGTERM');
      await exit;
    },
  };
}

/** Counts the requests for the first `files` demo files in the access log of a stopped nginx. */
export async function countRequests(folder: string, files: number): Promise<RequestCounts> {
  const counts: RequestCounts = { lists: 0, gets: 0, getsAgain: 0, neverAsked: files };
  const asked = new Uint8Array(files);
  for await (const uri of createInterface({ input: createReadStream(join(folder, 'access.log')) })) {
    if (!uri.startsWith('/get/')) {
      counts.lists += 1;
      continue;
    }
    counts.gets += 1;
    const index = demoIndex(uri.slice('/get/'.length));
    if (index === null || index >= files) continue;
    if (asked[index]) counts.getsAgain += 1;
    else counts.neverAsked -= 1;
    asked[index] = 1;
  }
  return counts;
}

function configuration(folder: string, port: number): string {
  return `
${process.getuid?.() === 0 ? 'user root;' : ''}
daemon off;
worker_processes 1;
worker_rlimit_nofile 65536;
pid ${folder}/nginx.pid;
events { worker_connections 16384; }
http {
  log_format request '$request_uri';
  access_log ${folder}/access.log request buffer=1m flush=1s;
  client_body_temp_path ${folder}/tmp; proxy_temp_path ${folder}/tmp; fastcgi_temp_path ${folder}/tmp;
  uwsgi_temp_path ${folder}/tmp; scgi_temp_path ${folder}/tmp;
  keepalive_requests 1000000000;
  tcp_nodelay on;
  # $arg_ takes no name with a "-".
  map $args $page {
    default none;
    "" ${demoName(0)};
    "~^next-marker=(?<marker>[a-z0-9.-]+)$" $marker;
  }
  server {
    listen 127.0.0.1:${port} backlog=4096;
    root ${folder};
    # Asked for by this script itself, to see whether nginx is up.
    location = /up { access_log off; return 204; }
    location = /list { default_type application/json; try_files /pages/$page.json =404; }
    location /get/ { default_type application/octet-stream; }
  }
}
`;
}

async function answers(url: string): Promise<boolean> {
  try {
    return (await fetch(url)).ok;
  } catch {
    return false;
  }
}

function ended(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null || child.pid === undefined;
}

function runs(nginx: string): boolean {
  return spawnSync(nginx, ['-v'], { stdio: 'ignore' }).status === 0;
}
