import { writePlot } from '../bench/plot.ts';
import type { Sample } from './figures.ts';

const panels = [
  ['filesPerSecond', 'files a second'],
  ['residentMb', 'resident memory, MB'],
  ['usedMb', 'memory used in Redis, MB'],
  ['descriptors', 'open descriptors'],
  ['lagMs', "p99 of the event loop's delay, ms"],
] as const satisfies readonly [keyof Sample, string][];

/** Draws all samples over time, a panel for each figure. */
export function plotSamples(path: string, samples: readonly Sample[]): Promise<void> {
  const names = new Map<string, string>();
  for (const { process, pid } of samples) {
    const count = [...names.values()].filter((name) => name.startsWith(process)).length;
    const key = `${process} ${pid}`;
    if (!names.has(key)) names.set(key, process === 'worker' ? `worker ${count + 1}` : process);
  }
  const values = samples.map((sample) => ({
    ...sample,
    minutes: sample.seconds / 60,
    who: names.get(`${sample.process} ${sample.pid}`),
  }));
  return writePlot(path, {
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    data: { values },
    vconcat: panels.map(([field, title]) => ({
      width: 640,
      height: 110,
      transform: [{ filter: `isValid(datum.${field})` }],
      mark: { type: 'line', strokeWidth: 1 },
      encoding: {
        x: { field: 'minutes', type: 'quantitative', title: 'minutes' },
        y: { field, type: 'quantitative', title, scale: { zero: true } },
        color: { field: 'who', type: 'nominal', title: null },
      },
    })),
  });
}
