import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { demoBytes, demoFileBytes, demoName } from '../../src/demo/files.ts';
import type { Options } from './options.ts';
import type { FileServer } from './site.ts';
import { compile } from './tools.ts';

/**
 * Starts a file server that answers requests for files after `delayMs`, and for pages of the listing after `listDelayMs`, as
 * a service far away does. It keeps its program and its files in `folder` and ends with this process. Throws a DemoError
 * where it cannot be compiled.
 */
export async function startDelayedServer(
  folder: string,
  { files, delayMs, listDelayMs, pageSize }: Pick<Options, 'files' | 'delayMs' | 'listDelayMs' | 'pageSize'>,
): Promise<FileServer> {
  const [program, bodies] = [join(folder, 'delayed'), join(folder, 'bodies')];
  compile(fileURLToPath(new URL('peers/delayed.c', import.meta.url)), program);
  await pipeline(bodiesOf(files), createWriteStream(bodies));
  const child = spawn(program, [delayMs, listDelayMs, bodies, demoFileBytes, pageSize].map(String), {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const [port] = (await once(createInterface({ input: child.stdout }), 'line')) as [string];
  return {
    url: `http://127.0.0.1:${port}`,
    pid: child.pid ?? 0,
    version: `one of its own (C, epoll) that answers after ${delayMs} ms, for the listing ${listDelayMs} ms`,
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const exit = once(child, 'exit');
      child.stdin.end();
      await exit;
    },
  };
}

function* bodiesOf(files: number): Generator<Buffer> {
  for (let index = 0; index < files; index += 1) yield demoBytes(demoName(index));
}
