/** A job's states and what leads from one to the next. Pure; the scripts in chain.lua carry it out. */
import type { JobState } from '../src/schemas.ts';

/** What a person may ask of a job. */
export type Verb = 'resume' | 'delete';

const activeStates = ['queued', 'running', 'paused'] as const satisfies readonly JobState[];

export function isActive(state: JobState): boolean {
  return (activeStates as readonly JobState[]).includes(state);
}

/** `done`: the job is already so. `refused`: its state does not allow it. */
export function answerTo(verb: Verb, state: JobState): 'do' | 'done' | 'refused' {
  if (verb === 'delete') return isActive(state) ? 'refused' : 'do';
  if (state === 'paused') return 'do';
  return state === 'running' || state === 'queued' ? 'done' : 'refused';
}

/**
 * How many pages of one job may be in flight (protocol: cap): two for each worker that can have a request at all, and
 * enough names for four times the requests in flight, so that the listing runs ahead of the files.
 */
export function pagesInFlightMax(workers: number, concurrency: number, namesPerPage: number): number {
  const byNames = Math.ceil((4 * concurrency) / Math.max(1, namesPerPage));
  return Math.min(1024, Math.max(4, 2 * Math.min(workers, concurrency), byNames));
}
