import type { Growth } from './growth.ts';
import { writePlot } from './plot.ts';

const panels = [
  ['micros', 'processor time a file, µs'],
  ['megabytes', 'resident memory, MB'],
] as const;

/** Draws what a file costs and what the processes hold over the number of files, a line for each role. */
export function plotGrowth(path: string, runs: readonly Growth[]): Promise<void> {
  const values = runs.flatMap(({ files, workers, ...figures }) =>
    panels.flatMap(([figure]) =>
      Object.entries(figures[figure]).map(([role, value]) => ({
        files,
        figure,
        value,
        who: role === 'worker' ? 'workers' : role,
        workers: workers === 1 ? 'one worker' : `${workers} workers`,
      })),
    ),
  );
  return writePlot(path, {
    data: { values },
    vconcat: panels.map(([figure, title]) => ({
      width: 560,
      height: 160,
      transform: [{ filter: `datum.figure === '${figure}'` }],
      mark: { type: 'line', point: true },
      encoding: {
        x: { field: 'files', type: 'quantitative', title: 'files', scale: { type: 'log' } },
        y: { field: 'value', type: 'quantitative', title },
        color: { field: 'who', type: 'nominal', title: null },
        strokeDash: { field: 'workers', type: 'nominal', title: null },
      },
    })),
  });
}
