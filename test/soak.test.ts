import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Sample } from './soak/figures.ts';
import { judge } from './soak/judge.ts';

/** Half an hour of a worker and a Redis; `change` says what is otherwise, by the time in seconds. */
function samples(change: (seconds: number) => Partial<Sample> = () => ({})): Sample[] {
  return Array.from({ length: 360 }, (_, index) => {
    const seconds = 5 * (index + 1);
    const worker = { residentMb: 300 + (index % 50), descriptors: 150, usedMb: null, lagMs: 30, filesPerSecond: null };
    const redis = { ...worker, residentMb: 14, usedMb: 3, lagMs: null };
    return [
      { seconds, process: 'worker', pid: 1, ...worker, ...change(seconds) },
      { seconds, process: 'redis', pid: 2, ...redis },
    ];
  }).flat();
}

function faults(change: (seconds: number) => Partial<Sample>): string {
  return judge(samples(change)).faults.join('\n');
}

test('what stays as it was in a soak is no fault, nor is a warm-up', () => {
  assert.deepEqual(judge(samples()).faults, []);
  assert.deepEqual(judge(samples((seconds) => (seconds < 240 ? { residentMb: 100, lagMs: 200 } : {}))).faults, []);
});

test('growth, a slow event loop and a process that was replaced are faults of a soak', () => {
  assert.match(
    faults((seconds) => ({ residentMb: 300 + seconds / 20 })),
    /residentMb of worker grew/,
  );
  assert.match(
    faults((seconds) => ({ descriptors: 150 + Math.floor(seconds / 30) })),
    /descriptors of worker grew/,
  );
  assert.match(
    faults((seconds) => (seconds === 1000 ? { lagMs: 150 } : {})),
    /event loop of worker .* 100 ms or more: 1/,
  );
  assert.match(
    faults((seconds) => ({ pid: seconds < 900 ? 1 : 3 })),
    /worker 1 was not there all the time/,
  );
});
