/** Whether what was measured stayed as it was. */
import type { Sample } from './figures.ts';

/** What comes before is warm-up: caches fill, code is compiled. */
const WARM_UP_SHARE = 1 / 6;
const GROWTH_MAX = 1.1;
/** Growth below is noise: a few sockets, a page of names. */
const NOISE = { residentMb: 10, descriptors: 20, usedMb: 1 };
const LAG_MS_MAX = 100;

/**
 * The part of the samples that is below what is compared: the median, but of resident memory the lowest decile. With a
 * garbage collector that is a saw, and what a process holds is its floor.
 */
const quantiles = { residentMb: 0.1, descriptors: 0.5, usedMb: 0.5 } as const;
const measures = ['residentMb', 'descriptors', 'usedMb'] as const;

/**
 * Compares, for each process, the last third of the time with the first third after the warm-up. A process that was replaced is a
 * fault.
 */
export function judge(samples: readonly Sample[]): { table: string; faults: string[] } {
  const faults: string[] = [];
  const lines: string[] = ['process | measure | first third | last third | most'];
  const end = Math.max(...samples.map(({ seconds }) => seconds));
  const processes = Map.groupBy(samples, ({ process, pid }) => `${process} ${pid}`);
  for (const [process, all] of processes) {
    if (all[0]!.seconds > 15 || all.at(-1)!.seconds < end - 15) faults.push(`${process} was not there all the time`);
    const warm = all.filter(({ seconds }) => seconds > end * WARM_UP_SHARE);
    const third = Math.ceil(warm.length / 3);
    for (const measure of measures) {
      const of = (part: readonly Sample[]): number[] => part.flatMap((sample) => sample[measure] ?? []);
      if (of(warm).length === 0) continue;
      const [first, last] = [warm.slice(0, third), warm.slice(-third)].map((part) =>
        quantile(of(part), quantiles[measure]),
      ) as [number, number];
      lines.push(
        [process, measure, ...[first, last, Math.max(...of(all))].map((value) => value.toFixed(1))].join(' | '),
      );
      if (last > first * GROWTH_MAX && last - first > NOISE[measure])
        faults.push(`${measure} of ${process} grew from ${first.toFixed(1)} to ${last.toFixed(1)}`);
    }
    const lags = warm.flatMap(({ lagMs }) => lagMs ?? []);
    if (lags.length === 0) continue;
    const over = lags.filter((lag) => lag >= LAG_MS_MAX).length;
    lines.push(
      `${process} | p99 of the event loop's delay, ms | median ${quantile(lags, 0.5).toFixed(1)} | | ${Math.max(...lags).toFixed(1)}`,
    );
    if (over > 0)
      faults.push(
        `the event loop of ${process} had a p99 of ${LAG_MS_MAX} ms or more ${over === 1 ? 'once' : `${over} times`}`,
      );
  }
  return { table: lines.join('\n'), faults };
}

function quantile(values: readonly number[], part: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length * part)] ?? 0;
}
