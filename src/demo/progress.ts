import { SingleBar } from 'cli-progress';
import type { Job } from '../schemas.ts';
import { filesDone } from './job.ts';

/** Shows how far a job is. */
export interface ProgressView {
  show(job: Job): void;
  /** Leaves the last state standing. */
  stop(): void;
}

const lineEveryMs = 2000;

/** A bar where `stream` is a terminal, else a plain line every two seconds. `files`: how many there are in all. */
export function progressView(stream: NodeJS.WriteStream, files: number): ProgressView {
  return stream.isTTY ? bar(stream, files) : lines(stream, files);
}

/** 100,000: a whole number for the eyes. */
export function readable(number: number): string {
  return Math.round(number).toLocaleString('en-US');
}

function bar(stream: NodeJS.WriteStream, files: number): ProgressView {
  const view = new SingleBar({
    stream,
    format: '|{bar}| {percentage} %  {done} of {all} files  {rate} files/s  {left} left',
    barCompleteChar: '█',
    barIncompleteChar: '░',
    barsize: 30,
    hideCursor: true,
  });
  const all = readable(files);
  view.start(files, 0, { all, done: '0', rate: '0', left: '-' });
  return {
    show: (job) => view.update(filesDone(job), { all, ...figures(job, files) }),
    stop: () => view.stop(),
  };
}

function lines(stream: NodeJS.WriteStream, files: number): ProgressView {
  let shownAt = 0;
  return {
    show(job) {
      const done = filesDone(job);
      if (done < files && Date.now() - shownAt < lineEveryMs) return;
      shownAt = Date.now();
      const now = figures(job, files);
      stream.write(`${now.done} of ${readable(files)} files  ${now.rate} files/s  ${now.left} left\n`);
    },
    stop() {},
  };
}

function figures(job: Job, files: number): { done: string; rate: string; left: string } {
  const done = filesDone(job);
  const rate = job.progress.filesPerSecond;
  const left = done >= files ? '0 s' : rate > 0 ? `${readable((files - done) / rate)} s` : '-';
  return { done: readable(done), rate: readable(rate), left };
}
