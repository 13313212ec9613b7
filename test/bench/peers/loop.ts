/**
 * Runs one way of getting files in a process of its own: `loop.ts WAY STORE ORIGIN FROM TO CONNECTIONS FOLDER WARM_FILES`. Of
 * those from FROM to TO - 1 WARM_FILES are got first, for the compiler; what it takes to get all is told as a line of JSON.
 */
import { closeSync, mkdirSync, openSync, renameSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { demoFileBytes } from '../../../src/demo/files.ts';
import { dispatch } from './dispatch.ts';
import { engine } from './engine.ts';
import { globalFetch, request } from './plain.ts';
import { rawSockets } from './raw-sockets.ts';
import type { Task, Way } from './way.ts';

const ways: Readonly<Record<string, Way>> = { dispatch, engine, request, fetch: globalFetch, raw: rawSockets };

function storeIn(folder: string, how: string): Task['store'] {
  if (how === 'fetch') {
    return (name, body) => {
      if (body.length !== demoFileBytes) throw new Error(`${name} has ${body.length} bytes`);
    };
  }
  mkdirSync(folder, { recursive: true });
  if (how === 'write') return (name, body) => write(`${folder}/${name}`, body);
  return (name, body) => {
    const temporary = `${folder}/.tmp-${name}`;
    write(temporary, body);
    renameSync(temporary, `${folder}/${name}`);
  };
}

function write(path: string, body: Uint8Array): void {
  const file = openSync(path, 'w');
  writeSync(file, body);
  closeSync(file);
}

const [wayName = '', how = '', origin = '', ...rest] = process.argv.slice(2);
const [first, end, connections, folder = '', warmFiles] = rest;
const way = ways[wayName];
if (!way) throw new Error(`no way is called "${wayName}"`);
const from = Number(first);
const task = { origin, from, connections: Number(connections) };
const warm = join(folder, `../warm-${from}`);
await way({ ...task, to: from + Number(warmFiles), store: storeIn(warm, how) });
rmSync(warm, { recursive: true, force: true });
const store = storeIn(folder, how);
const cpu = process.cpuUsage();
const began = performance.now();
await way({ ...task, to: Number(end), store });
const seconds = (performance.now() - began) / 1000;
const { user, system } = process.cpuUsage(cpu);
console.log(JSON.stringify({ seconds, cpuMs: (user + system) / 1000, warmFiles: Number(warmFiles) }));
