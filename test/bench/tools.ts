import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { DemoError } from '../../src/demo/service.ts';

/** The Python that Debian's packages are for; another may come before it on the path. */
export const pythonPath = existsSync('/usr/bin/python3') ? '/usr/bin/python3' : 'python3';

/** What must be on the machine for a row: how to see that it is there, which tells its version too, and its package. */
const needs = {
  nginx: { probe: ['nginx', '-v'], packages: ['nginx'] },
  aria2c: { probe: ['aria2c', '--version'], packages: ['aria2'] },
  curl: { probe: ['curl', '--version'], packages: ['curl'] },
  wget2: { probe: ['wget2', '--version'], packages: ['wget2'] },
  rclone: { probe: ['rclone', 'version'], packages: ['rclone'] },
  aiohttp: {
    probe: python('import aiohttp, uvloop; print("aiohttp", aiohttp.__version__, "uvloop", uvloop.__version__)'),
    packages: ['python3-aiohttp', 'python3-uvloop'],
  },
  requests: {
    probe: python('import requests, urllib3; print("requests", requests.__version__, "urllib3", urllib3.__version__)'),
    packages: ['python3-requests'],
  },
  cc: { probe: ['cc', '--version'], packages: ['gcc', 'libc6-dev'] },
} as const satisfies Record<string, { probe: readonly string[]; packages: readonly string[] }>;

export type Need = keyof typeof needs;

/** Unpacked packages; kept, so that they are fetched once. */
const cache = fileURLToPath(new URL('../../node_modules/.cache/bench-tools', import.meta.url));

function python(program: string): string[] {
  return [pythonPath, '-c', `import sys; ${program}; print("Python", sys.version.split()[0])`];
}

/** The environment in which what was unpacked is found after what the machine has itself. */
export function toolEnvironment(): NodeJS.ProcessEnv {
  const libraries = join(cache, 'usr/lib');
  const system = existsSync(libraries) ? readdirSync(libraries).filter((name) => name.endsWith('-linux-gnu')) : [];
  return {
    ...process.env,
    PATH: joined(process.env.PATH, join(cache, 'usr/bin'), join(cache, 'usr/sbin')),
    LD_LIBRARY_PATH: joined(process.env.LD_LIBRARY_PATH, libraries, ...system.map((name) => join(libraries, name))),
    PYTHONPATH: joined(process.env.PYTHONPATH, join(libraries, 'python3/dist-packages')),
    PYTHONDONTWRITEBYTECODE: '1',
  };
}

function joined(...paths: (string | undefined)[]): string {
  return paths.filter((path) => path !== undefined && path !== '').join(delimiter);
}

/** The versions of those that are there, null for those that are missing. */
export function findTools(wanted: Iterable<Need>): Map<Need, string | null> {
  return new Map([...new Set(wanted)].map((need) => [need, versionOf(need)]));
}

/** Sees to it that it is there, in `toolEnvironment`. Throws a DemoError where it cannot be had. */
export function needTool(need: Need): void {
  if (versionOf(need) !== null) return;
  installTools([need]);
  if (versionOf(need) === null) throw new DemoError(`there is no ${need}: ${remedy(need)}`);
}

/** How a person installs it. */
export function remedy(need: Need): string {
  return `apt-get install ${needs[need].packages.join(' ')}`;
}

/**
 * Unpacks the Debian packages of what is missing, and those that they need, into a folder of this project's: no root is
 * needed, nothing else on the machine changes, no service is started. What cannot be had is told on standard error.
 */
export function installTools(missing: readonly Need[]): void {
  const packages = missing.flatMap((need) => needs[need].packages);
  const downloads = join(cache, 'downloads');
  mkdirSync(downloads, { recursive: true });
  const script = `
    wanted() { apt-get -s install --no-install-recommends "$@" | sed -n 's/^Inst \\([^ ]*\\).*/\\1/p'; }
    fetch() { apt-get -qq -o APT::Sandbox::User=root download $(wanted "$@"); }
    fetch "$@" || { apt-get -qq update && fetch "$@"; } || exit
    for package in *.deb; do dpkg-deb -x "$package" .. || exit; done`;
  console.error(`fetching ${packages.join(', ')} with apt-get into ${cache}`);
  const { status } = spawnSync('sh', ['-c', script, 'sh', ...packages], {
    cwd: downloads,
    stdio: ['ignore', 'ignore', 'inherit'],
    timeout: 300_000,
  });
  rmSync(downloads, { recursive: true, force: true });
  if (status !== 0) console.error('not all packages could be had');
}

/** Compiles a C program. Throws a DemoError with the compiler's words. */
export function compile(source: string, program: string): void {
  try {
    execFileSync('cc', ['-O2', '-Wall', '-o', program, source], { stdio: ['ignore', 'ignore', 'pipe'] });
  } catch (error) {
    throw new DemoError(`cc: ${String((error as { stderr?: Buffer }).stderr ?? error)}`);
  }
}

/** The line of what it says of itself that has a number in it, null where it cannot be run. */
function versionOf(need: Need): string | null {
  const [command = '', ...args] = needs[need].probe;
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8', env: toolEnvironment() });
  if (status !== 0) return null;
  const lines = `${stdout}${stderr}`.trim().split('\n');
  return (lines.find((line) => /\d/.test(line)) ?? '').replace('nginx version: ', '').slice(0, 120);
}
