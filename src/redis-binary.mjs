// Plain JavaScript: the set-up reads this before a Node that runs TypeScript is there.
import { spawnSync } from 'node:child_process';

/**
 * Finds a server on the path that speaks Redis, redis-server before valkey-server, a recent one before an old one.
 *
 * @param {string | undefined} path folders as in PATH
 * @returns {{ command: string, version: string, recent: boolean } | null} `recent`: at least version 6.2
 */
export function findRedis(path = process.env.PATH) {
  let old = null;
  for (const command of ['redis-server', 'valkey-server']) {
    const { stdout } = spawnSync(command, ['--version'], { encoding: 'utf8', env: { ...process.env, PATH: path } });
    const [, version, major, minor] = /\bv=((\d+)\.(\d+)\S*)/.exec(stdout ?? '') ?? [];
    if (version === undefined) continue;
    const recent = Number(major) > 6 || (Number(major) === 6 && Number(minor) >= 2);
    if (recent) return { command, version, recent };
    old ??= { command, version, recent };
  }
  return old;
}
