/** Figures in Prometheus's text format. Labels are bounded: never a job, a URL, a host or a name. */
import { collectDefaultMetrics, Counter, Gauge, Registry, type Histogram } from '@prometheus-io/client';
import { failureReasons, type FailureReason } from './errors.ts';
import { durationBounds, statusClasses, type Counts } from './tally.ts';

let registryOfProcess: Registry | null = null;

/**
 * What this process tells of itself: processor, memory, event loop, … Measured from the first call on. `lagLookMs`: how often
 * the event loop is looked at; each look wakes the process, all day long.
 */
export function processMetrics(lagLookMs = 10): Registry {
  if (registryOfProcess === null) {
    registryOfProcess = new Registry();
    collectDefaultMetrics({ register: registryOfProcess, eventLoopMonitoringPrecision: lagLookMs });
  }
  return registryOfProcess;
}

/** All of `registries` as text, of media type `expositionType`. */
export function exposition(...registries: Registry[]): Promise<string> {
  return Registry.merge(registries).metrics();
}

export const expositionType = Registry.PROMETHEUS_CONTENT_TYPE;

/** A single value, or one for each value of one label. */
type Values = number | { readonly [label: string]: Readonly<Record<string, number>> };

/** Adds a gauge as it is now. */
export function addGauge(registry: Registry, name: string, help: string, values: Values): void {
  const gauge = new Gauge({ name, help, labelNames: labelsOf(values), registers: [registry] });
  each(values, (labels, value) => gauge.set(labels, value));
}

function addCounter(registry: Registry, name: string, help: string, values: Values): void {
  const counter = new Counter({ name, help, labelNames: labelsOf(values), registers: [registry] });
  each(values, (labels, value) => counter.inc(labels, value));
}

/** Adds what was done. `of`: what the names begin with. */
export function addWork(registry: Registry, of: 'gigafetch' | 'gigafetch_worker', counts: Counts): void {
  const count = (name: string): number => counts[name] ?? 0;
  const reasons = Object.keys(failureReasons) as FailureReason[];
  const failed = Object.fromEntries(reasons.map((reason) => [reason, count(`failed:${reason}`)]));
  const outcome = {
    downloaded: count('downloaded'),
    skipped: count('skipped'),
    failed: Object.values(failed).reduce((sum, files) => sum + files, 0),
  };
  const status = Object.fromEntries(statusClasses.map((name) => [name, count(`status:${name}`)]));
  addCounter(registry, `${of}_files_total`, 'Files by what became of them.', { outcome });
  addCounter(registry, `${of}_file_failures_total`, 'Files that were given up, by reason.', { reason: failed });
  addCounter(registry, `${of}_downloaded_bytes_total`, 'Bytes of the downloaded files.', count('bytes'));
  addCounter(registry, `${of}_requests_total`, 'Requests to file servers, by the class of their status.', { status });
  addCounter(registry, `${of}_requests_retried_total`, 'Requests that were made again.', count('retried'));
  addDurations(registry, `${of}_request_duration_seconds`, 'From the start of a request to its end.', counts);
}

/** A histogram that was counted elsewhere: the library's own counts for itself alone. */
function addDurations(registry: Registry, name: string, help: string, counts: Counts): void {
  let requests = 0;
  const buckets = [...durationBounds, Infinity].map((bound) => {
    requests += counts[`within:${bound}`] ?? 0;
    return {
      metricName: `${name}_bucket`,
      labels: { le: bound === Infinity ? '+Inf' : String(bound) },
      value: requests,
    };
  });
  const sum = { metricName: `${name}_sum`, labels: {}, value: (counts.micros ?? 0) / 1e6 };
  const count = { metricName: `${name}_count`, labels: {}, value: requests };
  const get = async () => ({ name, help, type: 'histogram', values: [...buckets, sum, count] });
  registry.registerMetric({ name, get } as unknown as Histogram);
}

function labelsOf(values: Values): string[] {
  return typeof values === 'number' ? [] : Object.keys(values);
}

function each(values: Values, set: (labels: Record<string, string>, value: number) => void): void {
  if (typeof values === 'number') return set({}, values);
  for (const [label, byName] of Object.entries(values)) {
    for (const [name, value] of Object.entries(byName)) set({ [label]: name }, value);
  }
}
