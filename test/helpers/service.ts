import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { JobRequest, Job, WorkerInfo } from '../../src/schemas.ts';
import { processesWith, signalProcess } from '../../src/processes.ts';
import { temporaryFolder } from './folders.ts';

const main = fileURLToPath(new URL('../../src/main.ts', import.meta.url));

export type Role = 'supervisor' | 'api' | 'worker' | 'redis';

const services: TestService[] = [];

/** The whole service as `npm start` runs it, on folders of its own. */
export class TestService {
  readonly dataDir = join(temporaryFolder(), 'data');
  readonly stateDir = join(temporaryFolder(), 'state');
  readonly #settings: Record<string, string>;
  #child: ChildProcess | null = null;
  #stopped = false;
  url = '';
  /** What the processes printed. */
  output = '';

  constructor(settings: Record<string, string> = {}) {
    this.#settings = settings;
    // One listener for all of them: Node warns of a leak at the eleventh.
    if (services.length === 0) process.once('exit', () => services.forEach((service) => service.killAll()));
    services.push(this);
  }

  /** Starts it, also again on the same folders; resolves when the API listens and has reached Redis. */
  async start(): Promise<this> {
    this.#stopped = false;
    const child = spawn(process.execPath, [main], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        ...process.env,
        REDIS_URL: '',
        PORT: '0',
        WORKERS: '2',
        ALLOWED_NETWORKS: '127.0.0.0/8',
        ALLOWED_HOSTS: '',
        // Tests ask as often as they can.
        RATE_LIMIT: '1000000',
        DATA_DIR: this.dataDir,
        STATE_DIR: this.stateDir,
        ...this.#settings,
      },
    });
    this.#child = child;
    child.stderr.on('data', (text: Buffer) => (this.output += text.toString()));
    const lines = createInterface({ input: child.stdout });
    await new Promise<void>((resolve, reject) => {
      lines.on('line', (line) => {
        this.output += `${line}\n`;
        const url = /"api":"([^"]+)"/.exec(line)?.[1];
        if (url === undefined) return;
        this.url = url; // another port each time the API is started again
        resolve();
      });
      lines.once('close', () => reject(new Error(`the service ended before it was ready:\n${this.output}`)));
    });
    while (child.exitCode === null && (await this.get('/readyz')) === null) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    return this;
  }

  /** The ids of the processes that run now. */
  pids(role: Role): number[] {
    const mark = `--supervised-in=${this.stateDir}`;
    switch (role) {
      case 'supervisor':
        return this.#child?.exitCode === null && this.#child.signalCode === null ? [this.#child.pid ?? 0] : [];
      case 'redis':
        return processesWith('--dir', join(this.stateDir, 'redis'));
      default:
        return processesWith(fileURLToPath(new URL(`../../src/${role}.ts`, import.meta.url)), mark);
    }
  }

  kill(...roles: Role[]): void {
    for (const pid of roles.flatMap((role) => this.pids(role))) signalProcess(pid, 'SIGKILL');
  }

  /** kill -9 of every process, as near to the same instant as can be. */
  killAll(): void {
    this.kill('supervisor', 'worker', 'api', 'redis');
  }

  /** For `after`, whatever became of the test: ends all processes at once, and whoever still waits for a job. */
  dispose(): void {
    this.#stopped = true;
    this.killAll();
  }

  /** SIGTERM; resolves with the exit code when the supervisor is gone. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    this.#stopped = true;
    const child = this.#child;
    if (child === null || child.exitCode !== null) return child?.exitCode ?? null;
    if (child.signalCode !== null) {
      this.killAll();
      return null;
    }
    child.kill(signal);
    const [code] = (await once(child, 'exit')) as [number | null];
    return code;
  }

  async post(request: JobRequest): Promise<Job> {
    const answer = await fetch(`${this.url}/jobs`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(request),
    });
    if (answer.status !== 202) throw new Error(`${answer.status} ${await answer.text()}`);
    return (await answer.json()) as Job;
  }

  /** GET; null where the API does not answer at the moment. */
  async get<T>(path: string): Promise<T | null> {
    try {
      const answer = await fetch(this.url + path);
      return answer.ok ? ((await answer.json()) as T) : null;
    } catch {
      return null;
    }
  }

  /** Asks for the job until `is` holds. `each` sees every answer on the way. */
  async until(id: string, is: (job: Job) => boolean, each: (job: Job) => void = () => {}): Promise<Job> {
    for (;;) {
      const job = await this.get<Job>(`/jobs/${id}`);
      if (job !== null) each(job);
      if (job !== null && is(job)) return job;
      // Else a test that failed meanwhile would wait for ever.
      if (this.#stopped) throw new Error('the service was stopped');
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
  }

  /** Resolves when the job is at its end or paused. */
  ended(id: string, each?: (job: Job) => void): Promise<Job> {
    return this.until(id, ({ state }) => state !== 'queued' && state !== 'running', each);
  }

  async workers(): Promise<WorkerInfo[]> {
    return (await this.get<{ workers: WorkerInfo[] }>('/workers'))?.workers ?? [];
  }
}
