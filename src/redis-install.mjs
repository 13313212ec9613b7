// Plain JavaScript: the set-up reads this before a Node that runs TypeScript is there.
import { spawnSync } from 'node:child_process';

/**
 * Installs Debian's redis-server, `$1` being the path of policy-rc.d, and leaves no daemon behind: while that policy
 * says 101, Debian's packages start nothing (https://www.debian.org/doc/debian-policy/ch-opersys.html, invoke-rc.d),
 * and afterwards the service is disabled, or it would start with the machine. A policy that is there already stays. A
 * package that was there already is somebody's: its service is left as it is.
 */
export const aptScript = `
export DEBIAN_FRONTEND=noninteractive
dpkg -s redis-server | grep -q '^Status:.* installed$' && known=yes
if [ ! -e "$1" ]; then
  trap 'rm -f "$1"' EXIT
  trap 'exit 1' HUP INT TERM
  printf '#!/bin/sh\\nexit 101\\n' > "$1" && chmod 755 "$1" || exit
fi
apt-get -q -o DPkg::Lock::Timeout=120 update
apt-get -q -y -o DPkg::Lock::Timeout=120 --no-install-recommends install redis-server || exit
[ "$known" ] && exit
if [ -d /run/systemd/system ]; then systemctl disable --now redis-server
elif command -v update-rc.d; then update-rc.d redis-server disable
fi
exit 0
`;

/** What a person types to get a Redis, where the set-up may not. */
export const redisRemedies = `Install it by one of these, then run the same command again:
  Debian, Ubuntu:  sudo apt-get update && sudo apt-get install redis-server
  Fedora, RHEL:    sudo dnf install valkey        (before Fedora 41 and RHEL 10: sudo dnf install redis)
  Alpine:          sudo apk add redis
  macOS:           brew install redis
or, with Docker, run it in a container:
  docker run -d --name gigafetch-redis -p 127.0.0.1:6379:6379 -v gigafetch-redis:/data redis:7 \\
    redis-server --appendonly yes --appendfsync always --maxmemory-policy noeviction
  REDIS_URL=redis://127.0.0.1:6379 npm start`;

/**
 * The command that installs Redis on this machine without asking anything, or null where there is none.
 *
 * @param {NodeJS.ProcessEnv} environment its PATH is where package managers are looked for
 * @param {number | undefined} userId 0 is root, who needs no sudo
 * @returns {string[] | null}
 */
export function redisInstallCommand(environment, userId) {
  /** @param {string} command @param {string[]} words */
  const works = (command, ...words) => spawnSync(command, words, { env: environment, stdio: 'ignore' }).status === 0;
  if (userId !== 0 && works('brew', '--version')) return ['brew', 'install', 'redis'];
  const prefix = userId === 0 ? [] : ['sudo', '-n'];
  if (userId !== 0 && !works('sudo', '-n', 'true')) return null;
  if (works('apt-get', '--version')) return [...prefix, 'sh', '-c', aptScript, 'sh', '/usr/sbin/policy-rc.d'];
  if (works('dnf', '--version')) return [...prefix, 'sh', '-c', 'dnf -y install valkey || dnf -y install redis'];
  if (works('apk', '--version')) return [...prefix, 'apk', 'add', 'redis'];
  return null;
}
