import { setTimeout as sleep } from 'node:timers/promises';
import type { Finding, VerifyLine } from '../src/manifest-schemas.ts';
import type { Job } from '../src/schemas.ts';
import { Checked, type Stored } from '../src/sinks/stored.ts';

const PROGRESS_MS = 500;

interface VerifyParts {
  readonly stored: Stored;
  /** At its end. */
  readonly job: Job;
  /** How many pages it has. */
  readonly pages: number;
  /** Whether the job is still at the same end. */
  readonly isAsBefore: () => Promise<boolean>;
  readonly signal: AbortSignal;
}

/** What comes of comparing a job's files with its manifest: a line of JSON each (schema VerifyLine). */
export async function* verification({ signal, ...parts }: VerifyParts): AsyncGenerator<string> {
  const { filesDownloaded, filesSkipped } = parts.job.progress;
  const checked = new Checked(Date.parse(parts.job.finishedAt ?? ''), signal);
  const filesInJob = filesDownloaded + filesSkipped;
  let problems = 0;
  for await (const finding of withPauses(findings(parts, checked, filesInJob))) {
    const { filesChecked, bytesRead } = checked;
    if (finding !== null) problems += 1;
    yield line(finding === null ? { type: 'progress', filesChecked, bytesRead } : { type: 'problem', ...finding });
  }
  const { filesChecked, filesRight, filesInManifest, bytesRead } = checked;
  const counts = { filesChecked, bytesRead, filesRight, filesInManifest, filesInJob };
  yield line({ type: 'summary', ok: problems === 0, problems, ...counts });
}

function line(line: VerifyLine): string {
  return `${JSON.stringify(line)}\n`;
}

async function* findings(
  { stored, pages, isAsBefore }: Omit<VerifyParts, 'signal'>,
  checked: Checked,
  filesInJob: number,
): AsyncGenerator<Finding> {
  for (let seq = 0; seq < pages; seq += 1) {
    checked.signal.throwIfAborted();
    yield* stored.check(seq, checked);
  }
  yield* stored.strays(pages);
  const { filesInManifest, partly } = checked;
  const ofJob = { name: null, path: null, files: 0 };
  if (!(await isAsBefore())) {
    yield { problem: 'changed', ...ofJob, message: 'the job was retried or deleted meanwhile: verify it again' };
  } else if (!partly && filesInManifest !== filesInJob) {
    const message = `the manifest has ${filesInManifest} files, and the job has stored ${filesInJob}`;
    yield { problem: 'count', ...ofJob, files: Math.max(0, filesInJob - filesInManifest), message };
  }
}

/** All of it, and null twice a second. */
async function* withPauses<T>(all: AsyncGenerator<T>): AsyncGenerator<T | null> {
  let next = all.next();
  let pause = newPause();
  try {
    for (;;) {
      const winner = await Promise.race([pause, next]);
      if (winner === null) {
        pause = newPause();
        yield null;
      } else {
        if (winner.done === true) return;
        yield winner.value;
        next = all.next();
      }
    }
  } finally {
    // Whoever reads is gone: what is still on its way ends when its signal is seen.
    next.catch(() => {});
    void all.return(undefined).catch(() => {});
  }
}

function newPause(): Promise<null> {
  return sleep(PROGRESS_MS, null, { ref: false });
}
