/** Looks at a job all the time, as a client does who polls, and resumes it where it paused itself. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Job } from '../../src/schemas.ts';
import { call } from './calls.ts';
import type { RunningJob, World } from './world.ts';

const POLL_MS = 25;

/** Counts that go up alone, unless Redis is rolled back. */
export const firmCounts = ['pagesListed', 'pagesDone', 'filesListed'] as const;
/** Counts with those of pages in work in them. */
export const liveCounts = ['filesDownloaded', 'filesSkipped', 'filesFailed', 'bytesDownloaded'] as const;

export interface Seen {
  readonly atMs: number;
  readonly job: Job;
}

/** What was seen of one job: the first and the last of answers that say the same, and everything between in order. */
export class Watch {
  /** Each answer in which the state differs from the one before. */
  readonly states: Seen[] = [];
  /** Each two answers after one another in which a count went back. */
  readonly setbacks: { before: Job; after: Seen; field: string }[] = [];
  /** Answers in which the counts do not add up. */
  readonly unequal: Seen[] = [];
  latest: Job | null = null;
  readonly #world: World;
  readonly #running: RunningJob;

  constructor(world: World, running: RunningJob) {
    this.#world = world;
    this.#running = running;
  }

  get ended(): boolean {
    return this.latest !== null && !['queued', 'running', 'paused'].includes(this.latest.state);
  }

  /** Watches until `signal` aborts. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const job = await this.#call('GET');
      if (job !== null) {
        this.#note(job);
        if (job.state === 'paused') await this.#resume(job);
      }
      await sleep(POLL_MS);
    }
  }

  async #call(method: string, path = ''): Promise<Job | null> {
    return (await call(`${this.#world.service.url}/jobs/${this.#running.id}${path}`, method)).body;
  }

  async #resume({ pausedReason }: Job): Promise<void> {
    if (this.#running.held > 0 || (pausedReason === 'outage' && this.#world.serversInTrouble > 0)) return;
    const job = await this.#call('POST', '/resume');
    if (job !== null) this.#note(job);
  }

  #note(job: Job): void {
    const seen = { atMs: this.#world.nowMs, job };
    const before = this.latest;
    this.latest = job;
    if (before?.state !== job.state) this.states.push(seen);
    const { filesListed, filesDownloaded, filesSkipped, filesFailed, filesPending } = job.progress;
    if (filesListed !== filesDownloaded + filesSkipped + filesFailed + filesPending) this.unequal.push(seen);
    if (before === null) return;
    for (const field of [...firmCounts, ...liveCounts]) {
      if (job.progress[field] < before.progress[field]) this.setbacks.push({ before, after: seen, field });
    }
  }
}
