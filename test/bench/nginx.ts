import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { demoFileBytes, demoName } from '../../src/demo/files.ts';
import { DemoError, freePort } from '../../src/demo/service.ts';
import type { FileServer } from './site.ts';

/**
 * Starts an nginx with one worker process, bound to one core, on the site in `folder`, on a free port of 127.0.0.1. With
 * `env`, so that whoever cleans up finds it by that. Throws a DemoError where it does not start.
 */
export async function startNginx(
  nginx: string,
  version: string,
  folder: string,
  env: NodeJS.ProcessEnv,
): Promise<FileServer> {
  const port = await freePort(0);
  writeFileSync(join(folder, 'nginx.conf'), configuration(folder, port));
  const settings = ['-p', folder, '-c', join(folder, 'nginx.conf'), '-e', join(folder, 'error.log')];
  const child = spawn(nginx, settings, { stdio: ['ignore', 'inherit', 'inherit'], env, detached: true });
  child.once('error', () => {});
  const url = `http://127.0.0.1:${port}`;
  while (!(await answers(`${url}/status`))) {
    if (ended(child)) throw new DemoError(`nginx did not start: ${readFileSync(join(folder, 'error.log'), 'utf8')}`);
    await setTimeout(20);
  }
  return {
    url,
    pid: child.pid ?? 0,
    version,
    async stop() {
      if (ended(child)) return;
      const exit = once(child, 'exit');
      child.kill('SIGTERM');
      await exit;
    },
  };
}

function configuration(folder: string, port: number): string {
  return `
${process.getuid?.() === 0 ? 'user root;' : ''}
daemon off;
worker_processes 1;
worker_cpu_affinity auto;
worker_rlimit_nofile 65536;
pid ${folder}/nginx.pid;
events { worker_connections 16384; }
http {
  access_log off;
  client_body_temp_path ${folder}/tmp; proxy_temp_path ${folder}/tmp; fastcgi_temp_path ${folder}/tmp;
  uwsgi_temp_path ${folder}/tmp; scgi_temp_path ${folder}/tmp;
  keepalive_requests 1000000000;
  keepalive_timeout 75s;
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
    location = /status { stub_status; }
    location ~ ^/list-(?<files>\\d+)$ { default_type application/json; try_files /pages/$files/$page.json =404; }
    location /get/ { default_type application/octet-stream; }
    # The same bytes for each file, from memory.
    location /fixed/ { default_type application/octet-stream; return 200 "${'x'.repeat(demoFileBytes)}"; }
    location /documents/ { default_type application/json; }
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
