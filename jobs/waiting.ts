import type { Job } from '../src/schemas.ts';
import { SIGN_OF_LIFE_MS } from './workers.ts';

/**
 * Why a job cannot move, by its record; null where it can, or does not run. `folders`: ids of folders, each followed by
 * when a worker that has it last gave a sign of life, in ms of the same clock as `nowMs`.
 */
export function waitingReason(
  { state, dataId }: Partial<Record<string, string>>,
  folders: readonly string[],
  nowMs: number,
): Job['waitingReason'] {
  if (state !== 'queued' && state !== 'running') return null;
  const living = new Set<string | undefined>();
  for (let index = 0; index < folders.length; index += 2) {
    if (nowMs - Number(folders[index + 1]) <= SIGN_OF_LIFE_MS) living.add(folders[index]);
  }
  if (living.size === 0) return 'no_worker';
  return dataId === undefined || living.has(dataId) ? null : 'data_dir';
}
