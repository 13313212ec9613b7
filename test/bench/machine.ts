import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { arch, availableParallelism, cpus, release, totalmem, type } from 'node:os';
import manifest from '../../package.json' with { type: 'json' };
import { findRedis } from '../../src/redis-binary.mjs';
import type { Results } from './results.ts';

/** What the figures were measured on. */
export function describeMachine(): Results['machine'] {
  return {
    processor: cpus()[0]?.model ?? arch(),
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    system: /^PRETTY_NAME="(.*)"$/m.exec(read('/etc/os-release'))?.[1] ?? type(),
    kernel: `${type()} ${release()} ${arch()}`,
  };
}

/** Versions of this project and of what it stands on. */
export function ownVersions(): Record<string, string> {
  const commit = output('git', ['-C', import.meta.dirname, 'rev-parse', '--short', 'HEAD']);
  const redis = findRedis();
  return {
    gigafetch: commit === '' ? manifest.version : `${manifest.version} (${commit})`,
    node: process.versions.node,
    undici: manifest.dependencies.undici,
    bullmq: manifest.dependencies.bullmq,
    redis: redis ? `${redis.command} ${redis.version}` : 'none',
  };
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

function output(command: string, args: string[]): string {
  try {
    return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  } catch {
    return '';
  }
}
