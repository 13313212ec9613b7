import { EventEmitter, once } from 'node:events';
import type { TestContext } from 'node:test';
import { Redis } from 'ioredis';
import { WakeUpListener, WakeUpSender, type Change } from '../../jobs/wake-ups.ts';

export interface HeardWakeUps {
  /** What was told of one job so far. */
  of(job: string): Change[];
  until(is: () => boolean): Promise<void>;
}

/** Hears all wake-ups on a Redis from when this resolves. */
export async function hearWakeUps(t: TestContext, redisUrl: string): Promise<HeardWakeUps> {
  const changes = new EventEmitter();
  const all: { job: string; change: Change }[] = [];
  const listener = new WakeUpListener(redisUrl, (job, change) => {
    all.push({ job, change });
    changes.emit('heard');
  });
  t.after(() => listener.close());
  const redis = new Redis(redisUrl);
  t.after(() => redis.disconnect());
  const sender = new WakeUpSender(redis);
  // It hears what comes once it listens, and nobody can tell when that is.
  while (all.length === 0) {
    sender.told('are you there', 'state');
    await redis.ping();
  }
  return {
    of: (job) => all.filter((one) => one.job === job).map(({ change }) => change),
    until: async (is) => {
      while (!is()) await once(changes, 'heard');
    },
  };
}
