/** Places at which a test may end or stop this process: the suite in test/chaos arms them. */
import { readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { systemCode } from './errors.ts';

/** Each lies between two steps of the protocol and is named after the one that was just done. */
export const failpoints = [
  'created',
  'taken',
  'begun',
  'listed',
  'advanced',
  'enqueued',
  'written',
  'stored',
  'fetched',
  'finished',
  'committed',
  'sealed',
  'published',
  'dropped',
  'done',
] as const;

export type FailpointName = (typeof failpoints)[number];

const folder = process.env['GIGAFETCH_FAILPOINTS'];

/**
 * Does nothing unless GIGAFETCH_FAILPOINTS named a folder at the start. Then a file of this name in it, with the name of a
 * signal as its content, arms the point once: the first process that comes by takes it (the file is renamed to
 * `{name}.{pid}`) and sends itself that signal.
 */
export const failpoint: (name: FailpointName) => void = folder ? (name) => trip(folder, name) : () => {};

function trip(folder: string, name: FailpointName): void {
  const taken = join(folder, `${name}.${process.pid}`);
  try {
    renameSync(join(folder, name), taken);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return;
    throw error;
  }
  process.kill(process.pid, readFileSync(taken, 'utf8'));
}
