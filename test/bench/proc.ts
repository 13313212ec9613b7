/** What Linux tells of a process (proc(5)). */
import { readdirSync, readFileSync } from 'node:fs';

/** All there are. */
export function processIds(): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

/** A file of /proc/PID, or nothing where the process has just ended. */
export function readProc(pid: number, file: 'cmdline' | 'environ' | 'stat' | 'status'): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'utf8');
  } catch {
    return '';
  }
}

/** With its arguments divided by spaces. */
export function readCommandLine(pid: number): string {
  return readProc(pid, 'cmdline').replaceAll('\0', ' ');
}

/** The fields of /proc/PID/stat from the third on, as the second may hold anything; null where the process has just ended. */
export function readStat(pid: number): { parent: number; cpuTicks: number; startedAt: string } | null {
  const text = readProc(pid, 'stat');
  if (text === '') return null;
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const cpuTicks = Number(fields[11]) + Number(fields[12]);
  return { parent: Number(fields[1]), cpuTicks, startedAt: fields[19] ?? '' };
}

/** Resident memory in bytes: the largest that it ever was, and what it is now. */
export function readMemory(pid: number): { peakBytes: number; residentBytes: number } {
  const status = readProc(pid, 'status');
  const bytes = (name: string): number =>
    Number(new RegExp(`^${name}:\\s*(\\d+) kB$`, 'm').exec(status)?.[1] ?? 0) * 1024;
  return { peakBytes: bytes('VmHWM'), residentBytes: bytes('VmRSS') };
}
