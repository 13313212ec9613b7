import type { JobSpec, Limits, Retry } from '../../src/schemas.ts';

/** A job as it is stored, with the defaults, but for what a test changes. */
export function jobSpec(
  changes: Partial<Omit<JobSpec, 'limits' | 'retry'>> & { limits?: Partial<Limits>; retry?: Partial<Retry> } = {},
): JobSpec {
  const { limits, retry, ...rest } = changes;
  return {
    name: null,
    source: {
      type: 'listing',
      url: 'http://127.0.0.1:9/list',
      fileUrl: 'get/{name}',
      namesField: '/FileNames',
      next: { in: 'body' },
      markerParam: 'next-marker',
    },
    sink: { type: 'directory', path: 'files', durability: 'process' },
    priority: 5,
    existing: 'skip',
    headers: {},
    filter: { include: [], exclude: [], maxFiles: 0 },
    dryRun: false,
    retry: { attempts: 5, baseDelayMs: 300, maxDelayMs: 30_000, maxOutageMs: 900_000, ...retry },
    limits: {
      concurrency: 64,
      requestsPerSecond: 0,
      timeoutMs: 30_000,
      minBytesPerSecond: 1024,
      maxFileBytes: 1_073_741_824,
      maxFailures: 100_000,
      ...limits,
    },
    ...rest,
  };
}
