/** The whole service, the file servers and the disk of one round. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, statfsSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { signalProcess } from '../../src/processes.ts';
import type { Job } from '../../src/schemas.ts';
import { temporaryFolder } from '../helpers/folders.ts';
import type { ServiceProcess } from '../helpers/service-process.ts';
import { TestService } from '../helpers/service.ts';
import { makeJob, type JobWorld } from './content.ts';
import type { Plan } from './plan.ts';

const DISK_BYTES = 512 * 1024 * 1024;

/** One job of the round, once it was posted. */
export interface RunningJob extends JobWorld {
  readonly id: string;
  /** How many want it to be paused now. */
  held: number;
  /** When it was paused for certain. */
  readonly quiet: { fromMs: number; toMs: number }[];
  cancelAsked: boolean;
  /** When that was acknowledged; null: it was not. */
  cancelledMs: number | null;
  retried: number;
}

export class World {
  readonly plan: Plan;
  readonly service: TestService;
  /** Where failpoints are armed. */
  readonly failpoints = temporaryFolder();
  readonly jobs: RunningJob[] = [];
  /** Aborts when all jobs have ended: what still lasts is undone. */
  readonly over = new AbortController();
  /** Workers beside those of the supervisor. */
  readonly extra = new Set<ServiceProcess>();
  /** File servers in trouble now: how many faults see to that. */
  serversInTrouble = 0;
  /** What went wrong with a fault itself. */
  failure: unknown = null;
  /** How large the append-only file was when all jobs had been accepted. */
  acceptedBytes = 0;
  readonly #mounted: boolean;
  readonly #full = new Set<string>();
  /** When the round began, in ms since 1970. */
  readonly startedAt = Date.now();
  /** The same by performance.now(). */
  readonly startedMs = performance.now();
  #exclusive: Promise<unknown> = Promise.resolve();

  constructor(plan: Plan) {
    this.plan = plan;
    this.service = new TestService({
      PAGE_LOCK_MS: String(plan.lockMs),
      WORKERS: String(plan.workers),
      GIGAFETCH_FAILPOINTS: this.failpoints,
    });
    this.#mounted = mountSmall(this.service.dataDir) && mountSmall(this.service.stateDir);
  }

  /** Milliseconds since the round began. */
  get nowMs(): number {
    return Math.round(performance.now() - this.startedMs);
  }

  get redisDir(): string {
    return join(this.service.stateDir, 'redis');
  }

  /** The part of the append-only file that grows. */
  get appendOnlyFile(): string {
    const dir = join(this.redisDir, 'appendonlydir');
    const manifest = readFileSync(join(dir, 'appendonly.aof.manifest'), 'utf8');
    const name = /file (\S+\.incr\.aof)/.exec(manifest)?.[1];
    if (name === undefined) throw new Error(`no file that grows in:\n${manifest}`);
    return join(dir, name);
  }

  /** Which part of all requests was made; more than 1 where some had to be made again. */
  get share(): number {
    let made = 0;
    let planned = 0;
    for (const { server, requests } of this.jobs) {
      made += server.count();
      planned += requests;
    }
    return planned === 0 ? 0 : made / planned;
  }

  /** What starts or ends the whole tree, one after another. */
  exclusive<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#exclusive.then(work);
    this.#exclusive = done.catch(() => {});
    return done;
  }

  /** Waits, but not beyond the end of all jobs. */
  async last(ms: number): Promise<void> {
    await sleep(ms, undefined, { signal: this.over.signal }).catch(() => {});
  }

  /** Posts the jobs, again and again where whoever is asked is killed meanwhile. */
  async post(): Promise<void> {
    for (const [index, plan] of this.plan.jobs.entries()) {
      const made = await makeJob(plan, this.service.dataDir, `job-${index}`);
      const { id } = await this.#post(made, `key-${index}`);
      this.jobs.push({ ...made, id, held: 0, quiet: [], cancelAsked: false, cancelledMs: null, retried: 0 });
    }
    this.acceptedBytes = statSync(this.appendOnlyFile).size;
  }

  async #post(made: JobWorld, key: string): Promise<Job> {
    for (;;) {
      const answer = await fetch(`${this.service.url}/jobs`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'idempotency-key': key },
        body: JSON.stringify(made.request),
      }).catch(() => null);
      if (answer?.status === 202) return (await answer.json()) as Job;
      if (answer !== null && answer.status !== 503) throw new Error(`${answer.status} ${await answer.text()}`);
      await sleep(20);
    }
  }

  /**
   * Leaves no more than so many blocks free on a folder's disk. Returns what undoes it; null: it has none of its own, or is
   * full already.
   */
  fillDisk(folder: 'dataDir' | 'stateDir', blocks: number): (() => void) | null {
    const path = this.service[folder];
    if (!this.#mounted || this.#full.has(path)) return null;
    this.#full.add(path);
    for (;;) {
      const { bfree, blocks: all, bsize } = statfsSync(path);
      // It fails where more was written meanwhile.
      if (resize(path, (all - bfree + blocks) * bsize)) break;
    }
    return () => {
      resize(path, DISK_BYTES);
      this.#full.delete(path);
    };
  }

  /** Ends everything that this round started, and removes its files. */
  async end(): Promise<void> {
    for (const worker of this.extra) signalProcess(worker.pid, 'SIGKILL');
    this.service.killAll();
    await Promise.all(this.jobs.map(({ server }) => server.stop()));
    unmount(this.service.dataDir);
    unmount(this.service.stateDir);
    for (const folder of [dirname(this.service.dataDir), dirname(this.service.stateDir), this.failpoints]) {
      rmSync(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
    }
  }
}

const mounted = new Set<string>();
let unmountsAtExit = false;

/** Whether the folder is a small file system of its own now; only root may do that. */
function mountSmall(folder: string): boolean {
  mkdirSync(folder, { recursive: true });
  if (!mount('-t', 'tmpfs', '-o', `size=${DISK_BYTES}`, 'tmpfs', folder)) return false;
  // One listener for all of them: Node warns of a leak at the eleventh.
  // Before the folders are removed.
  if (!unmountsAtExit) process.prependOnceListener('exit', () => mounted.forEach(unmount));
  unmountsAtExit = true;
  mounted.add(folder);
  return true;
}

function unmount(folder: string): void {
  if (mounted.delete(folder)) execFileSync('umount', ['--lazy', folder]);
}

function resize(folder: string, bytes: number): boolean {
  return mount('-o', `remount,size=${bytes}`, folder);
}

function mount(...words: string[]): boolean {
  return spawnSync('mount', words, { stdio: 'pipe' }).status === 0;
}
