import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { aptScript, redisInstallCommand } from '../src/redis-install.mjs';
import { temporaryFolder } from './helpers/folders.ts';

const root = temporaryFolder();
const source = fileURLToPath(new URL('../src/', import.meta.url));
const lock = {
  packages: { '': {}, 'node_modules/a': { version: '1.0.0' }, 'node_modules/b': { version: '1.0.0', dev: true } },
};

/** A clone of the set-up and a folder of commands that is its whole path. */
class Clone {
  readonly root = mkdtempSync(join(root, 'clone-'));
  readonly bin = join(this.root, 'bin');
  readonly modules = join(this.root, 'node_modules');

  constructor() {
    mkdirSync(this.bin);
    mkdirSync(join(this.root, 'src'));
    for (const name of ['setup.mjs', 'redis-binary.mjs', 'redis-install.mjs']) {
      cpSync(join(source, name), join(this.root, 'src', name));
    }
    this.write('package-lock.json', lock);
    const path = (process.env['PATH'] ?? '').split(delimiter);
    for (const name of ['sh', 'true', 'mkdir', 'cp', 'ln', 'cat', 'chmod', 'rm', 'grep']) {
      const folder = path.find((folder) => existsSync(join(folder, name)));
      symlinkSync(join(folder ?? '', name), join(this.bin, name));
    }
    this.command('sudo', '[ "$1" = -n ] && shift; exec "$@"');
    this.command(
      'npm',
      `cd "${this.root}"; mkdir -p node_modules/.bin; cp package-lock.json node_modules/.package-lock.json
      ln -sf "${process.execPath}" node_modules/.bin/node`,
    );
  }

  /** A command that notes its call and then does as told. */
  command(name: string, script = ''): void {
    const note = `echo ${name} "$@" >> "${this.root}/calls"`;
    writeFileSync(join(this.bin, name), `#!/bin/sh\n${note}\n${script}\n`, { mode: 0o755 });
  }

  server(name: string, version: string): void {
    writeFileSync(join(this.bin, name), `#!/bin/sh\necho 'Server v=${version} sha=0'\n`, { mode: 0o755 });
  }

  write(file: string, content: object): void {
    writeFileSync(join(this.root, file), JSON.stringify(content));
  }

  /** Everything that is there after a set-up. */
  installed(): this {
    mkdirSync(join(this.modules, '.bin'), { recursive: true });
    this.write('node_modules/.package-lock.json', lock);
    symlinkSync(process.execPath, join(this.modules, '.bin', 'node'));
    return this;
  }

  /** The calls of commands but for those that only ask. */
  get calls(): string[] {
    const file = join(this.root, 'calls');
    const lines = existsSync(file) ? readFileSync(file, 'utf8').trim().split('\n') : [];
    return lines.filter((line) => !/--version$|^sudo /.test(line));
  }

  setUp(environment: NodeJS.ProcessEnv = {}): { code: number | null; out: string; err: string } {
    const env = { PATH: this.bin, ...environment };
    const script = join(this.root, 'src', 'setup.mjs');
    const { status, stdout, stderr } = spawnSync(process.execPath, [script], { env, encoding: 'utf8' });
    return { code: status, out: stdout, err: stderr };
  }
}

const npmCi = 'npm ci --no-audit --no-fund --loglevel=error';

test('a fresh clone gets its packages and Redis, each said in one line, and the second time nothing happens', () => {
  const clone = new Clone();
  clone.command(
    'dnf',
    `printf '#!/bin/sh\\necho Server v=8.0.1\\n' > ${clone.bin}/valkey-server; chmod 755 ${clone.bin}/valkey-server`,
  );
  const first = clone.setUp();
  assert.deepEqual(first, {
    code: 0,
    out:
      'set-up: installing packages (npm ci), this may take a minute …\n' +
      'set-up: no redis-server or valkey-server here: installing it (dnf) …\n',
    err: '',
  });
  assert.deepEqual(clone.calls, [npmCi, 'dnf -y install valkey']);
  assert.deepEqual(clone.setUp(), { code: 0, out: '', err: '' });
  assert.equal(clone.calls.length, 2);
});

test('packages are installed again where they are not what the lock file says', () => {
  const clone = new Clone().installed();
  clone.server('redis-server', '7.0.15');
  assert.deepEqual(clone.setUp(), { code: 0, out: '', err: '' });
  clone.write('package-lock.json', { packages: { ...lock.packages, 'node_modules/a': { version: '1.0.1' } } });
  assert.equal(clone.setUp().code, 0);
  assert.deepEqual(clone.calls, [npmCi]);
});

test('packages that are left out on purpose (development, other systems) are not missed', () => {
  const clone = new Clone().installed();
  clone.server('redis-server', '7.0.15');
  const optional = { version: '1.0.0', optional: true };
  clone.write('package-lock.json', { packages: { ...lock.packages, 'node_modules/c': optional } });
  clone.write('node_modules/.package-lock.json', { packages: { 'node_modules/a': { version: '1.0.0' } } });
  assert.deepEqual(clone.setUp(), { code: 0, out: '', err: '' });
  assert.deepEqual(clone.calls, []);
});

test('packages that cannot be installed end the set-up with what npm said', () => {
  const clone = new Clone();
  clone.command('npm', 'echo "npm error network" >&2; exit 1');
  const { code, err } = clone.setUp();
  assert.equal(code, 1);
  assert.match(err, /npm error network\n+set-up: npm failed/);
});

test('where install scripts were kept from running, Node is installed by itself or taken from the system', () => {
  const clone = new Clone();
  clone.server('redis-server', '7.0.15');
  clone.command(
    'npm',
    `cd "${clone.root}"; mkdir -p node_modules/.bin; cp package-lock.json node_modules/.package-lock.json
    [ "$1" = ci ] || ln -sf "${process.execPath}" node_modules/.bin/node`,
  );
  assert.equal(clone.setUp().code, 0);
  assert.deepEqual(clone.calls, [npmCi, 'npm rebuild node --ignore-scripts=false --loglevel=error']);

  const other = new Clone();
  other.server('redis-server', '7.0.15');
  other.command(
    'npm',
    `cd "${other.root}"; mkdir -p node_modules/.bin; cp package-lock.json node_modules/.package-lock.json`,
  );
  symlinkSync(process.execPath, join(other.bin, 'node'));
  assert.equal(other.setUp().code, 0);
  assert.deepEqual(other.calls, [npmCi]);
  const node = spawnSync(join(other.modules, '.bin', 'node'), ['--version'], { encoding: 'utf8' });
  assert.equal(node.stdout.trim(), process.version);
});

test('a machine that gets no Node 24 is told so', () => {
  const clone = new Clone();
  clone.command(
    'npm',
    `cd "${clone.root}"; mkdir -p node_modules; cp package-lock.json node_modules/.package-lock.json`,
  );
  const { code, err } = clone.setUp();
  assert.equal(code, 1);
  assert.match(err, /install Node 24 or later yourself/);
});

test('REDIS_URL, or a redis-server or valkey-server of 6.2 or later, is all that is needed', () => {
  assert.deepEqual(new Clone().installed().setUp({ REDIS_URL: 'redis://host' }), { code: 0, out: '', err: '' });
  for (const [name, version] of [
    ['redis-server', '6.2.0'],
    ['redis-server', '10.0.0'],
    ['valkey-server', '7.2.5'],
  ] as const) {
    const clone = new Clone().installed();
    clone.server(name, version);
    assert.deepEqual(clone.setUp(), { code: 0, out: '', err: '' });
  }
});

test('where nothing may be installed without a question, the commands to type are printed', () => {
  const clone = new Clone().installed();
  const { code, out, err } = clone.setUp();
  assert.equal(code, 1);
  assert.equal(out, '');
  for (const words of [
    'apt-get install',
    'dnf install',
    'apk add',
    'brew install',
    '-p 127.0.0.1:6379:6379',
    '--appendfsync always',
  ]) {
    assert.ok(err.includes(words), words);
  }
  assert.match(err, /REDIS_URL=redis:\/\/127.0.0.1:6379 npm start/);
});

test('an old Redis is left as it is', () => {
  const clone = new Clone().installed();
  clone.server('redis-server', '6.0.16');
  clone.command('dnf');
  const { code, err } = clone.setUp();
  assert.equal(code, 1);
  assert.match(err, /^redis-server 6\.0\.16 is too old: Gigafetch needs 6\.2 or later/);
  assert.deepEqual(clone.calls, []);
});

test('a package manager that fails, or brings an old Redis, ends the set-up', () => {
  const failing = new Clone().installed();
  failing.command('apk', 'echo no network; [ "$1" = --version ]');
  const { code, err } = failing.setUp();
  assert.equal(code, 1);
  assert.match(err, /no network\n/);
  const old = new Clone().installed();
  old.command(
    'apk',
    `printf '#!/bin/sh\\necho Server v=5.0.7\\n' > ${old.bin}/redis-server; chmod 755 ${old.bin}/redis-server`,
  );
  assert.equal(old.setUp().code, 1);
});

test('only root and password-less sudo install by the system, Homebrew never as root', () => {
  const clone = new Clone();
  const environment = { PATH: clone.bin };
  clone.command('apk');
  assert.deepEqual(redisInstallCommand(environment, 0), ['apk', 'add', 'redis']);
  assert.deepEqual(redisInstallCommand(environment, 1000), ['sudo', '-n', 'apk', 'add', 'redis']);
  clone.command('sudo', 'exit 1');
  assert.equal(redisInstallCommand(environment, 1000), null);
  clone.command('brew');
  assert.deepEqual(redisInstallCommand(environment, 1000), ['brew', 'install', 'redis']);
  assert.deepEqual(redisInstallCommand(environment, 0), ['apk', 'add', 'redis']);
  clone.command('apt-get');
  assert.equal(redisInstallCommand(environment, 0)?.[2], aptScript);
});

/** Runs the script for Debian; gives its exit status and what it called. */
function runApt(clone: Clone, policy: string): { status: number | null; calls: string[] } {
  for (const name of ['systemctl', 'update-rc.d']) clone.command(name);
  const { status } = spawnSync('sh', ['-c', aptScript, 'sh', policy], { env: { PATH: clone.bin } });
  return { status, calls: clone.calls.map((call) => call.replace(/ -o DPkg::Lock::Timeout=\d+/, '')) };
}

const aptCalls = [
  'dpkg -s redis-server',
  'apt-get -q update',
  'apt-get -q -y --no-install-recommends install redis-server',
];

test("Debian's package is installed without its service being started, now or with the machine", () => {
  const clone = new Clone();
  const policy = join(clone.root, 'policy-rc.d');
  clone.command('dpkg', 'exit 1');
  clone.command(
    'apt-get',
    `"${policy}"; echo policy $? >> "${clone.root}/calls"; [ "$DEBIAN_FRONTEND" = noninteractive ]`,
  );
  const { status, calls } = runApt(clone, policy);
  assert.equal(status, 0);
  const [known, update, , install, denied, disable] = calls;
  assert.deepEqual([known, update, install], aptCalls);
  assert.equal(denied, 'policy 101');
  assert.match(disable ?? '', /^systemctl disable --now redis-server$|^update-rc\.d redis-server disable$/);
  assert.equal(existsSync(policy), false);
});

test('a failed installation leaves no policy behind, a policy of the machine stays, and so does a service known before', () => {
  const failing = new Clone();
  const policy = join(failing.root, 'policy-rc.d');
  failing.command('dpkg', 'exit 1');
  failing.command('apt-get', 'exit 100');
  assert.deepEqual(runApt(failing, policy), { status: 100, calls: aptCalls });
  assert.equal(existsSync(policy), false);

  const known = new Clone();
  const own = join(known.root, 'policy-rc.d');
  writeFileSync(own, 'own');
  known.command('dpkg', 'echo "Status: install ok installed"');
  known.command('apt-get');
  assert.deepEqual(runApt(known, own), { status: 0, calls: aptCalls });
  assert.equal(readFileSync(own, 'utf8'), 'own');
});
