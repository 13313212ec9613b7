import assert from 'node:assert/strict';
import { test } from 'node:test';
import { faultNames, type FaultName } from './chaos/faults.ts';
import { playRound } from './chaos/round.ts';

const at = faultNames.filter((name) => name.includes(' when '));

/** A short selection of what `npm run chaos` does. */
const rounds: { title: string; seed: number; faults: readonly FaultName[] }[] = [
  {
    title: 'everything killed at once, workers and Redis',
    seed: 1159,
    faults: ['kill all', 'kill redis', 'kill worker'],
  },
  { title: 'Redis rolled back, connections cut', seed: 177, faults: ['roll back redis', 'cut connections'] },
  { title: 'workers and Redis stopped for longer than the lock', seed: 124, faults: ['stop worker', 'stop redis'] },
  { title: 'the disk full for a while', seed: 233, faults: ['fill disk'] },
  { title: 'file servers in trouble', seed: 233, faults: ['server down', 'server throttles', 'server hangs'] },
  { title: 'an end between two steps of the protocol', seed: 233, faults: at },
];

for (const { title, seed, faults } of rounds) {
  test(`nothing is lost or counted twice: ${title}`, async () => {
    const { violations, injected, output } = await playRound(seed, faults);
    assert.deepEqual(violations, [], output);
    const done = new Set(injected.map(({ name }) => name));
    // Where nobody may mount a file system, no disk can be filled; and of the ends between two steps, only some are drawn.
    const must = faults === at ? [] : faults.filter((name) => name !== 'fill disk');
    assert.deepEqual(
      must.filter((name) => !done.has(name)),
      [],
      'these were not injected',
    );
    assert.ok(done.size > 0 || faults.includes('fill disk'), 'no fault was injected');
  });
}
