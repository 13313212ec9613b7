import type { Redis } from 'ioredis';
import { connectRedis } from '../src/redis.ts';
import { jobKeys } from './store.ts';

/**
 * Hears, over a connection of its own, when a worker lacks its share of a job's `concurrency` that others hold (pulse.lua
 * tells). A call may get lost: whoever has too much also learns it at its next pulse.
 */
export class ShareCalls {
  readonly #redis: Redis;
  /** By channel. */
  readonly #jobs = new Map<string, string>();

  /** `heard` is told the job, and the largest share that any worker is entitled to. */
  constructor(redisUrl: string, heard: (job: string, share: number) => void) {
    this.#redis = connectRedis(redisUrl, { patient: true });
    this.#redis.on('message', (channel: string, share: string) => {
      const job = this.#jobs.get(channel);
      if (job !== undefined) heard(job, Number(share));
    });
  }

  listen(job: string): void {
    const channel = jobKeys(job).leases;
    this.#jobs.set(channel, job);
    this.#redis.subscribe(channel).catch(() => {});
  }

  leave(job: string): void {
    const channel = jobKeys(job).leases;
    this.#jobs.delete(channel);
    this.#redis.unsubscribe(channel).catch(() => {});
  }

  close(): void {
    this.#redis.disconnect();
  }
}
