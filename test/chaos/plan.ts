/** What happens in a round of chaos, drawn from its seed alone: the same seed gives the same plan. */
import * as fc from 'fast-check';
import { faults, type FaultName } from './faults.ts';

/** A file of the listing that is not like the others. */
export const oddities = [
  'missing',
  'forbidden',
  'broken',
  'bad',
  'unsafe',
  'folder',
  'blocked',
  'conflict',
  'double',
  'flaky',
  'cut',
  'empty',
  'large',
] as const;

export type Oddity = (typeof oddities)[number];

/** One job. Shares are from 0 up to, but without, 1. */
export interface JobPlan {
  readonly files: number;
  readonly pageSize: number;
  readonly next: 'marker' | 'next-file' | 'url' | 'link' | 'page' | 'offset';
  readonly objects: boolean;
  readonly bare: boolean;
  readonly names: 'flat' | 'folders' | 'odd';
  readonly odd: readonly { kind: Oddity; at: number }[];
  /** Where the listing breaks off for good; null: nowhere. */
  readonly brokenAt: number | null;
  readonly sink: 'directory' | 'tar' | 'ndjson';
  readonly compression: 'none' | 'gzip' | 'zstd';
  readonly shardBytes: number;
  /** Whether it has a manifest. */
  readonly manifest: boolean;
  readonly existing: 'skip' | 'update' | 'overwrite';
  /** Every so manieth file is there before the job; 0: none. */
  readonly thereEvery: number;
  readonly concurrency: number;
  /** How long its files would take if nothing went wrong, in ms. */
  readonly lastsMs: number;
  readonly limited: boolean;
  readonly maxOutageMs: number;
  /** It pauses itself at every failed file. */
  readonly touchy: boolean;
}

/** One fault. `at`: when so large a share of all requests was made; 1 and more: when all jobs have ended. */
export interface FaultPlan {
  readonly name: FaultName;
  readonly at: number;
  /** How long it lasts, as a share of what its kind may last. */
  readonly lasts: number;
  /** Which process, which server, how much. */
  readonly dice: number;
}

export interface Plan {
  readonly jobs: readonly JobPlan[];
  readonly faults: readonly FaultPlan[];
  readonly workers: number;
  readonly lockMs: number;
}

const PAGES_MAX = 120;

const share = fc.integer({ min: 0, max: 999 }).map((n) => n / 1000);

const job: fc.Arbitrary<JobPlan> = fc
  .record({
    pageSize: fc.oneof(
      { weight: 1, arbitrary: fc.integer({ min: 1, max: 9 }) },
      { weight: 2, arbitrary: fc.integer({ min: 10, max: 70 }) },
      { weight: 5, arbitrary: fc.integer({ min: 71, max: 1000 }) },
    ),
    size: share,
    next: fc.constantFrom('marker', 'next-file', 'url', 'link', 'page', 'offset'),
    objects: fc.boolean(),
    bare: fc.boolean(),
    names: fc.constantFrom('flat', 'folders', 'odd'),
    odd: fc.array(fc.record({ kind: fc.constantFrom(...oddities), at: share }), { maxLength: 12, size: 'max' }),
    brokenAt: fc.option(share, { freq: 10 }).map((at) => (at !== null && at < 0.2 ? at * 5 : null)),
    sink: fc.constantFrom('directory', 'directory', 'tar', 'ndjson'),
    compression: fc.constantFrom('none', 'gzip', 'zstd'),
    shardBytes: fc.constantFrom(65_536, 200_000, 67_108_864),
    existing: fc.constantFrom('skip', 'update', 'overwrite'),
    thereEvery: fc.constantFrom(0, 0, 2, 7, 50),
    concurrency: fc.integer({ min: 4, max: 64 }),
    lastsMs: fc.integer({ min: 800, max: 3000 }),
    limited: share.map((n) => n < 0.15),
    maxOutageMs: fc.constantFrom(900_000, 900_000, 2000),
    touchy: share.map((n) => n < 0.1),
  })
  .map(fitted);

/** How many files fit into the pages that a round may have; and what does not go together. */
function fitted({ size, ...plan }: Omit<JobPlan, 'files' | 'manifest'> & { size: number }): JobPlan {
  const most = Math.min(5000, plan.pageSize * PAGES_MAX);
  const least = Math.min(most, 200);
  const files = least + Math.floor(size * size * (most - least));
  return {
    ...plan,
    files,
    bare: plan.bare && ['link', 'page', 'offset'].includes(plan.next),
    // Not drawn: the plans of all seeds stay as they were.
    manifest: plan.sink !== 'directory' || files % 2 === 0,
    // Shards are written anew by each job.
    existing: plan.sink !== 'directory' && plan.existing === 'update' ? 'skip' : plan.existing,
    thereEvery: plan.sink === 'directory' ? plan.thereEvery : 0,
  };
}

/** Draws a plan. `names`: the faults to choose from. */
export function planOf(seed: number, names: readonly FaultName[]): Plan {
  const weighted = names.map((name) => ({ weight: faults[name].weight, arbitrary: fc.constant(name) }));
  const fault = fc.record({
    name: fc.oneof(...weighted),
    at: fc.integer({ min: 0, max: 1050 }).map((n) => n / 1000),
    lasts: share,
    dice: share,
  });
  const plan = fc.record({
    jobs: fc.array(job, { minLength: 1, maxLength: 3, size: 'max' }),
    faults: fc.array(fault, { minLength: 2, maxLength: 8, size: 'max' }),
    workers: fc.constantFrom(1, 2, 2, 2, 3),
    lockMs: fc.constantFrom(1000, 2000, 3000),
  });
  const [drawn] = fc.sample(fc.noBias(plan), { seed, numRuns: 1 });
  if (drawn === undefined) throw new Error('nothing was drawn');
  return drawn;
}
