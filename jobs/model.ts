/** A job's states and what leads from one to the next. Pure; the scripts in chain.lua carry it out. */
import type { JobSpec, JobState } from '../src/schemas.ts';
import { kindOf } from '../src/sources/index.ts';

const activeStates = ['queued', 'running', 'paused'] as const satisfies readonly JobState[];

export function isActive(state: JobState): boolean {
  return (activeStates as readonly JobState[]).includes(state);
}

/** What a person may ask of a job, and in which states. `done`: it is already so. Not named: its state does not allow it. */
const verbs = {
  pause: { queued: 'do', running: 'do', paused: 'done' },
  resume: { paused: 'do', queued: 'done', running: 'done' },
  cancel: { queued: 'do', running: 'do', paused: 'do', cancelled: 'done' },
  retry: { completed_with_failures: 'do', failed: 'do' },
  change: { queued: 'do', running: 'do', paused: 'do', completed_with_failures: 'do', failed: 'do' },
  delete: { completed: 'do', completed_with_failures: 'do', failed: 'do', cancelled: 'do' },
} as const satisfies Record<string, Partial<Record<JobState, 'do' | 'done'>>>;

export type Verb = keyof typeof verbs;

/** `done`: the job is already so. `refused`: its state does not allow it. */
export function answerTo(verb: Verb, state: JobState): 'do' | 'done' | 'refused' {
  const answers: Partial<Record<JobState, 'do' | 'done'>> = verbs[verb];
  return answers[state] ?? 'refused';
}

/** The states in which a verb is allowed, for people. */
export function statesFor(verb: Verb): string {
  return Object.keys(verbs[verb]).join(', ');
}

/** Of fewer requests in flight one would be a large part. */
const PLACE_OF_LISTING_FROM = 16;

/**
 * How many requests in flight are left to whoever lists the next page, so that none of many workers has to wait until another
 * one, which has files for all there may be, gives a place back.
 */
export function placesOfListing({ source, limits }: Pick<JobSpec, 'source' | 'limits'>, workers: number): number {
  return workers > 1 && kindOf(source).asksForPages && limits.concurrency >= PLACE_OF_LISTING_FROM ? 1 : 0;
}

/**
 * How many pages of one job may be in flight (protocol: cap): two for each worker that can have a request at all, and
 * enough names for four times the requests in flight, so that the listing runs ahead of the files.
 */
export function pagesInFlightMax(workers: number, concurrency: number, namesPerPage: number): number {
  const byNames = Math.ceil((4 * concurrency) / Math.max(1, namesPerPage));
  return Math.min(1024, Math.max(4, 2 * Math.min(workers, concurrency), byNames));
}
