import type { Redis } from 'ioredis';
import { Script } from '../src/redis.ts';
import type { JobState } from '../src/schemas.ts';
import { jobKeys } from './store.ts';

/** What workers tell each other of an origin. */
export interface OriginNews {
  /** For how many ms it asked to be left alone (Retry-After). */
  readonly holdMs?: number;
  /** For how many ms it has been in trouble; 0: it is well. */
  readonly troubleMs?: number;
  /** URLs that were told to come back later again and again: for how many ms, by path. */
  readonly throttled?: Readonly<Record<string, number>>;
  /** The path of a file that was fetched there, for others to probe with. */
  readonly goodFile?: string;
}

/** What a worker tells about one job it has pages of. */
export interface PulseRequest {
  readonly worker: string;
  readonly job: string;
  readonly wanted: number;
  readonly inFlight: number;
  readonly concurrency: number;
  /** Places of it that are left to the request for the next page, as long as there is one to be listed. */
  readonly leftToListing: number;
  readonly startsWanted: number;
  /** 0: no limit. */
  readonly startsPerSecond: number;
  /** Finished since the last pulse. */
  readonly files: number;
  readonly bytes: number;
  /** By origin; as it was learned in this epoch. */
  readonly origins: Readonly<Record<string, OriginNews>>;
  readonly epoch: number;
  /** How often was looked, since the last pulse, whether more requests could be made than there are, and how often that was so. */
  readonly looks: number;
  readonly idle: number;
  /** The attempts in work; `counts`: what they counted so far, null where that did not change. */
  readonly pages: readonly { seq: number; nonce: string; counts: Readonly<Record<string, number>> | null }[];
}

export interface PulseAnswer {
  /** `gone`: there is no such job any more. */
  readonly state: JobState | 'gone';
  readonly epoch: number;
  /** Requests that may be in flight here, for LEASE_MS. */
  readonly granted: number;
  /** What it is entitled to: more than what was granted where others still hold it. */
  readonly share: number;
  readonly startDelayMs: number;
  readonly starts: number;
  /** What any worker told of origins, files apart. */
  readonly origins: Readonly<Record<string, Omit<OriginNews, 'goodFile'>>>;
  /** Of the job's record: another one where its order was changed. */
  readonly version: number;
  /** Pages that others have by now. */
  readonly lost: readonly number[];
}

/** How long a granted share of a job's concurrency stays with a worker that is not heard of. */
export const LEASE_MS = 5000;

const script = new Script('pulse.lua', import.meta.url);

/** A file that any worker fetched from the origin; null: none was told of. */
export function readGoodFile(redis: Redis, job: string, origin: string): Promise<string | null> {
  return redis.hget(jobKeys(job).job, `good ${origin}`);
}

/** Tells and asks Redis about one job; pulse.lua says how shares are found. */
export async function pulse(redis: Redis, request: PulseRequest): Promise<PulseAnswer> {
  const keys = jobKeys(request.job);
  const answer = (await script.run(
    redis,
    [keys.job, keys.inFlight, keys.live, keys.leases, keys.rate, keys.origins],
    [
      request.worker,
      request.wanted,
      request.inFlight,
      request.concurrency,
      LEASE_MS,
      request.startsWanted,
      request.startsPerSecond,
      request.files,
      request.bytes,
      JSON.stringify(request.origins),
      `${request.looks} ${request.idle}`,
      request.epoch,
      request.leftToListing,
      ...request.pages.flatMap(({ seq, nonce, counts }) => [seq, nonce, counts === null ? '' : JSON.stringify(counts)]),
    ],
  )) as [JobState | 'gone', string, number, string, number, string, string, number, ...string[]];
  const [state, epoch, granted, startDelayMs, starts, origins, version, share, ...lost] = answer;
  return {
    state,
    epoch: Number(epoch),
    granted,
    share,
    startDelayMs: Number(startDelayMs),
    starts,
    origins: JSON.parse(origins) as PulseAnswer['origins'],
    version: Number(version),
    lost: lost.map(Number),
  };
}
