/** What a person may ask of a job while everything else happens. */
import { call } from './calls.ts';
import type { Fault } from './faults.ts';
import type { RunningJob, World } from './world.ts';

function pick(world: World, dice: number): RunningJob | undefined {
  return world.jobs[Math.floor(dice * world.jobs.length)];
}

async function ask({ service }: World, { id }: RunningJob, verb: string): Promise<number> {
  return (await call(`${service.url}/jobs/${id}/${verb}`, 'POST')).status;
}

const pause: Fault = {
  weight: 4,
  lastsMs: [100, 3000],
  allows: { again: true },
  inject: async (world, dice) => {
    const job = pick(world, dice);
    if (job === undefined) return null;
    job.held += 1;
    // Where no answer came it may be paused all the same.
    const paused = (await ask(world, job, 'pause')) === 202;
    const fromMs = world.nowMs;
    return () => {
      job.held -= 1;
      if (paused && job.held === 0) job.quiet.push({ fromMs, toMs: world.nowMs });
    };
  },
};

const cancel: Fault = {
  weight: 1,
  lastsMs: [0, 0],
  allows: {},
  inject: async (world, dice) => {
    const job = pick(world, dice);
    if (job === undefined) return null;
    job.cancelAsked = true;
    if ((await ask(world, job, 'cancel')) !== 202) return null;
    job.cancelledMs = world.nowMs;
    return () => {};
  },
};

const retry: Fault = {
  weight: 4,
  lastsMs: [0, 0],
  allows: { again: true, retried: true },
  late: true,
  inject: async (world, dice) => {
    const job = pick(world, dice);
    if (job === undefined || (await ask(world, job, 'retry')) !== 202) return null;
    job.retried += 1;
    return () => {};
  },
};

/** Fewer requests at a time, and another priority, for a while. */
const change: Fault = {
  weight: 3,
  lastsMs: [100, 3000],
  allows: {},
  inject: async (world, dice) => {
    const job = pick(world, dice);
    if (job === undefined) return null;
    const { concurrency } = job.plan;
    const patch = async (most: number, priority: number): Promise<number> => {
      const url = `${world.service.url}/jobs/${job.id}`;
      return (await call(url, 'PATCH', { limits: { concurrency: most }, priority })).status;
    };
    await patch(Math.ceil(concurrency / 4), 1 + Math.floor(dice * 10));
    return async () => {
      let status = 0;
      while (status === 0 || status === 503) {
        status = await patch(concurrency, 5);
        await world.last(50);
      }
    };
  },
};

export const steering = { pause, cancel, retry, 'change limits': change } as const;
