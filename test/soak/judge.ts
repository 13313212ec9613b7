/** Whether what was measured stayed as it was. */
import type { Sample } from './figures.ts';

/** What comes before is warm-up: caches fill, code is compiled. */
const WARM_UP_SHARE = 1 / 6;
const GROWTH_MAX = 1.1;
/** Growth below is noise: a few sockets, a page of names. */
const NOISE = { residentMb: 10, descriptors: 20, usedMb: 1 };
const LAG_MS_MAX = 100;
/** When all processes must be there, from the begin and till the end. */
const EDGE_SECONDS = 15;

const measures = ['residentMb', 'descriptors', 'usedMb'] as const;

/**
 * Compares, for all processes of a role together (work moves from one worker to another), the median of the last third of
 * the time with that of the first third after the warm-up. A process that was replaced is a fault.
 */
export function judge(samples: readonly Sample[]): { table: string; faults: string[] } {
  const faults: string[] = [];
  const lines: string[] = ['processes | measure | median of the first third | of the last third | most'];
  const end = Math.max(...samples.map(({ seconds }) => seconds));
  for (const [process, all] of Map.groupBy(samples, ({ process, pid }) => `${process} ${pid}`)) {
    if (all[0]!.seconds > EDGE_SECONDS || all.at(-1)!.seconds < end - EDGE_SECONDS)
      faults.push(`${process} was not there all the time`);
  }
  for (const [role, all] of Map.groupBy(samples, ({ process }) => process)) {
    for (const measure of measures) {
      const sums = [...Map.groupBy(all, ({ seconds }) => seconds)].flatMap(([seconds, at]) =>
        at[0]![measure] === null ? [] : [{ seconds, sum: at.reduce((sum, each) => sum + (each[measure] ?? 0), 0) }],
      );
      const warm = sums.filter(({ seconds }) => seconds > end * WARM_UP_SHARE).map(({ sum }) => sum);
      if (warm.length === 0) continue;
      const third = Math.ceil(warm.length / 3);
      const [first, last] = [median(warm.slice(0, third)), median(warm.slice(-third))];
      const shown = [first, last, Math.max(...sums.map(({ sum }) => sum))].map((value) => value.toFixed(1));
      lines.push([role, measure, ...shown].join(' | '));
      if (last > first * GROWTH_MAX && last - first > NOISE[measure])
        faults.push(`${measure} of ${role} grew from ${shown[0]} to ${shown[1]}`);
    }
    const lags = all.flatMap(({ seconds, lagMs }) => (seconds > end * WARM_UP_SHARE ? (lagMs ?? []) : []));
    if (lags.length === 0) continue;
    const over = lags.filter((lag) => lag >= LAG_MS_MAX).length;
    const [usual, most] = [median(lags), Math.max(...lags)].map((value) => value.toFixed(1));
    lines.push(`${role} | p99 of the event loop's delay, ms | ${usual} | | ${most}`);
    if (over > 0) faults.push(`the event loop of ${role} had a p99 of ${LAG_MS_MAX} ms or more: ${over}`);
  }
  return { table: lines.join('\n'), faults };
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}
