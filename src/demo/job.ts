import type { Job, JobRequest, JobState } from '../schemas.ts';
import { DemoError, pause } from './service.ts';

const requestTimeoutMs = 10_000;
const pollMs = 250;
const ends: ReadonlySet<JobState> = new Set(['completed', 'completed_with_failures', 'failed', 'cancelled', 'paused']);

/** Orders a job at the service under `api`. Throws a DemoError with the service's words where it is not accepted. */
export async function postJob(api: string, request: JobRequest, signal: AbortSignal): Promise<Job> {
  const answer = await fetch(`${api}/jobs`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(request),
    signal: AbortSignal.any([signal, AbortSignal.timeout(requestTimeoutMs)]),
  });
  if (answer.status !== 202) throw new DemoError(`POST /jobs was answered ${answer.status}: ${await answer.text()}`);
  return (await answer.json()) as Job;
}

/**
 * Looks at a job four times a second until it ends or pauses, and returns what it then is; `seen` gets every look. That
 * the API does not answer is borne. Rejects with a DemoError when nothing was done for `stallMs`, or with the signal's
 * reason.
 */
export async function followJob(
  api: string,
  id: string,
  { signal, stallMs, seen }: { signal: AbortSignal; stallMs: number; seen: (job: Job) => void },
): Promise<Job> {
  let done = -1;
  let movedAt = Date.now();
  for (;;) {
    const job = await look(`${api}/jobs/${id}`, signal);
    if (job) {
      seen(job);
      if (ends.has(job.state)) return job;
    }
    if (job && filesDone(job) !== done) {
      done = filesDone(job);
      movedAt = Date.now();
    } else if (Date.now() - movedAt > stallMs) {
      throw new DemoError(`the job has done nothing for ${stallMs / 1000} s: ${JSON.stringify(job)}`);
    }
    await pause(pollMs, signal);
  }
}

/** How many of a job's files are downloaded, skipped or failed. */
export function filesDone({ progress }: Job): number {
  return progress.filesDownloaded + progress.filesSkipped + progress.filesFailed;
}

/** What is not as it must be when a job has downloaded exactly `files` files: one line for each thing. */
export function jobFaults(job: Job, files: number): string[] {
  const faults = job.state === 'completed' ? [] : [`the job's state is ${job.state}, not completed`];
  const wanted = { filesListed: files, filesDownloaded: files, filesSkipped: 0, filesFailed: 0, filesPending: 0 };
  for (const [name, count] of Object.entries(wanted)) {
    const is = job.progress[name as keyof typeof wanted];
    if (is !== count) faults.push(`${name} is ${is}, not ${count}`);
  }
  if (job.error) faults.push(`the job's error: ${job.error.message}`);
  return faults;
}

/** How long a finished job ran, in seconds. */
export function jobSeconds(job: Job): number {
  return (Date.parse(job.finishedAt ?? '') - Date.parse(job.startedAt ?? '')) / 1000;
}

async function look(url: string, signal: AbortSignal): Promise<Job | null> {
  try {
    const answer = await fetch(url, { signal: AbortSignal.any([signal, AbortSignal.timeout(requestTimeoutMs)]) });
    const body = await answer.json();
    return answer.ok ? (body as Job) : null;
  } catch {
    signal.throwIfAborted();
    return null;
  }
}
