/** Finding processes by their command lines: those that a killed supervisor left behind. */
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';

/** The words of a process's command line, joined by spaces; null where it is gone or only waits to be reaped. */
export function commandLine(pid: number): string | null {
  const command = process.platform === 'linux' ? read(`/proc/${pid}/cmdline`) : ps('-p', String(pid));
  return command === '' ? null : command;
}

/** The ids of all processes but this one whose command line holds `words` one after another. */
export function processesWith(...words: string[]): number[] {
  const wanted = ` ${words.join(' ')} `;
  return processIds().filter((pid) => pid !== process.pid && ` ${commandLine(pid) ?? ''} `.includes(wanted));
}

/** Sends a signal; a process that is gone already is none of our concern. */
export function signalProcess(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error;
  }
}

function processIds(): number[] {
  if (process.platform !== 'linux') return [...ps('-A').matchAll(/^ *(\d+) /gm)].map((match) => Number(match[1]));
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

function read(file: string): string {
  try {
    return readFileSync(file, 'utf8').replaceAll('\0', ' ').trim();
  } catch {
    return '';
  }
}

function ps(...which: string[]): string {
  const columns = which[0] === '-A' ? 'pid=,command=' : 'command=';
  return spawnSync('ps', ['-ww', '-o', columns, ...which], { encoding: 'utf8' }).stdout.trimEnd();
}
