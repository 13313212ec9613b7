// Makes a fresh clone ready to run: packages, Node, Redis. Plain JavaScript, since an old Node (18 or later) runs it.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { findRedis } from './redis-binary.mjs';
import { redisInstallCommand, redisRemedies } from './redis-install.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const modules = join(root, 'node_modules');
const environment = { ...process.env };
// What `npm --prefix x start` hands on would make the npm of an install script install elsewhere.
delete environment.npm_config_prefix;
delete environment.npm_config_local_prefix;
// The Node among the packages goes away while they are installed: the system's runs the installation.
environment.PATH = (process.env.PATH ?? '')
  .split(delimiter)
  .filter((folder) => !/[\\/]node_modules[\\/]\.bin[\\/]?$/.test(folder))
  .join(delimiter);

installPackages();
installNode();
installRedis();

function installPackages() {
  if (packagesAreThere()) return;
  say('installing packages (npm ci), this may take a minute …');
  run(['npm', 'ci', '--no-audit', '--no-fund', '--loglevel=error']);
}

/** Whether what is installed is what package-lock.json says, optional packages apart. */
function packagesAreThere() {
  const wanted = readLock(join(root, 'package-lock.json'));
  const there = readLock(join(modules, '.package-lock.json'));
  if (there === null) return false;
  const withoutDev = !Object.values(there).some((entry) => entry.dev);
  return Object.entries(wanted ?? {}).every(([path, { version, dev, optional, devOptional }]) => {
    if (path === '' || (there[path] === undefined && (optional || devOptional || (dev && withoutDev)))) return true;
    return there[path]?.version === version;
  });
}

/**
 * @param {string} file
 * @returns {Record<string, { version?: string, dev?: boolean, optional?: boolean, devOptional?: boolean }> | null}
 */
function readLock(file) {
  return existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')).packages : null;
}

/** The npm package `node` brings Node by an install script, which settings of npm may have kept from running. */
function installNode() {
  const node = join(modules, '.bin', 'node');
  if (isRecent(node)) return;
  if (isRecent('node')) {
    // Where no prebuilt Node runs (Alpine's C library), the system's does.
    const options = { encoding: /** @type {const} */ ('utf8'), env: environment };
    rmSync(node, { force: true });
    symlinkSync(spawnSync('node', ['-p', 'process.execPath'], options).stdout.trim(), node);
    return;
  }
  say('installing Node 24 (npm rebuild node) …');
  run(['npm', 'rebuild', 'node', '--ignore-scripts=false', '--loglevel=error']);
  if (!isRecent(node)) fail('Node 24 could not be installed for this machine: install Node 24 or later yourself.');
}

/** @param {string} command */
function isRecent(command) {
  const { stdout } = spawnSync(command, ['--version'], { encoding: 'utf8', env: environment });
  return Number(/^v(\d+)\./.exec(stdout ?? '')?.[1]) >= 24;
}

function installRedis() {
  if (process.env.REDIS_URL) return;
  const found = findRedis(environment.PATH);
  if (found?.recent) return;
  // It may be in use: an upgrade is not for a set-up to decide.
  if (found) fail(`${found.command} ${found.version} is too old: Gigafetch needs 6.2 or later.\n${redisRemedies}`);
  const command = redisInstallCommand(environment, process.getuid?.());
  if (command === null) fail(`Gigafetch needs redis-server or valkey-server, 6.2 or later.\n${redisRemedies}`);
  say(`no redis-server or valkey-server here: installing it (${manager(command)}) …`);
  run(command);
  if (!findRedis(environment.PATH)?.recent) {
    fail(`What was installed is no Redis 6.2 or later.\n${redisRemedies}`);
  }
}

/** @param {string[]} command */
function manager(command) {
  return /apt-get|dnf|apk|brew/.exec(command.join(' '))?.[0];
}

/**
 * Runs a command without any input, its output shown only if it fails; a failure ends the set-up.
 *
 * @param {string[]} command
 */
function run([command = '', ...words]) {
  const options = { cwd: root, env: environment, encoding: /** @type {const} */ ('utf8'), maxBuffer: 2 ** 28 };
  const { status, stdout, stderr, error } = spawnSync(command, words, {
    ...options,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  if (status === 0) return;
  fail(`${stdout ?? ''}${stderr ?? ''}${error?.message ?? ''}\nset-up: ${command} failed (what it said is above).`);
}

/** @param {string} line */
function say(line) {
  process.stdout.write(`set-up: ${line}\n`);
}

/**
 * @param {string} text
 * @returns {never}
 */
function fail(text) {
  process.stderr.write(`${text}\n`);
  process.exit(1);
}
