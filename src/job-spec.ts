/** What can be ordered: the body of POST /jobs. What a schema cannot say about it is in check-job.ts. */
import { Type, type Static } from 'typebox';
import { closed, literals, whole, type Filled } from './schema-parts.ts';
import { sinks, type SinkRequest, type SinkSpec } from './sinks/index.ts';
import { FilterSchema, type Filter } from './sources/filter.ts';
import { sources, type Source, type SourceRequest, type SourceSpec } from './sources/index.ts';

type Kind = Source<SourceRequest, SourceSpec>;

const SourceSchema = Type.Unsafe<SourceRequest>({
  type: 'object',
  description: 'Where the files are listed.',
  required: ['type'],
  discriminator: { propertyName: 'type' },
  oneOf: Object.values(sources).map((kind: Kind) => kind.schema),
});

/** A source as answers show it. */
export const SourceShownSchema = Type.Unsafe<SourceSpec>({
  type: 'object',
  description: 'Where the files are listed, defaults filled in.',
  discriminator: { propertyName: 'type' },
  oneOf: Object.values(sources).map((kind: Kind) => kind.shownSchema ?? kind.schema),
});

export const SinkSchema = Type.Unsafe<SinkRequest>({
  type: 'object',
  description: "Where the files go; default: a directory named by the job's id.",
  required: ['type'],
  discriminator: { propertyName: 'type' },
  oneOf: Object.values(sinks).map(({ schema }) => schema),
});

export const RetrySchema = Type.Object(
  {
    attempts: whole('Attempts in all, for each file and each page of the listing.', 5, 1, 100),
    baseDelayMs: whole(
      'The longest delay before the second attempt; it doubles with each further one.',
      300,
      1,
      3_600_000,
    ),
    maxDelayMs: whole('The delay that is never exceeded.', 30_000, 1, 3_600_000),
    maxOutageMs: whole(
      'How long an origin may be in trouble: then the job pauses itself. A file that alone is throttled so long fails.',
      900_000,
      1,
      86_400_000,
    ),
  },
  {
    ...closed,
    description: 'How often and when a failed request is made again: exponential backoff with full jitter.',
  },
);

export const LimitsSchema = Type.Object(
  {
    concurrency: whole('Requests in flight for this job, over all workers.', 64, 1, 65_536),
    requestsPerSecond: whole('Requests a second for this job, over all workers; 0: no limit.', 0, 0, 10_000_000),
    timeoutMs: whole('Bounds connecting, waiting for the headers, and silence in a body.', 30_000, 100, 3_600_000),
    minBytesPerSecond: whole('A body slower than this is cut after `timeoutMs`; 0: no limit.', 1024, 0, 1_073_741_824),
    maxFileBytes: whole('A larger file fails.', 1_073_741_824, 0, 1_099_511_627_776),
    maxFailures: whole('At this many failed files the job pauses itself.', 100_000, 1, 10_000_000),
  },
  { ...closed, description: 'What the job may use.' },
);

export const DEFAULT_PRIORITY = 5;

export const PrioritySchema = Type.Integer({
  default: DEFAULT_PRIORITY,
  minimum: 1,
  maximum: 10,
  description:
    'While jobs of a higher priority make progress on a worker, it makes fewer requests for this one: its share of ' +
    '`limits.concurrency` there is cut to `priority` parts of theirs.',
});

const NameSchema = Type.String({ minLength: 1, maxLength: 200, description: 'For people.', examples: ['my mirror'] });

export const ExistingSchema = literals(['skip', 'update', 'overwrite'], {
  default: 'skip',
  description:
    '`skip`: a file that is there is not fetched (where the listing tells sizes: that is there with that size). ' +
    '`update`: so is one that changed: where the listing tells sizes, that alone decides; else the server is asked by ' +
    'conditional requests, about files that an `update` stored before (others are fetched). `overwrite`: every file is ' +
    'fetched. Archives are made anew by each job: there `skip` finds nothing, and `update` is refused.',
});

export const DryRunSchema = Type.Boolean({
  default: false,
  description: 'Lists and counts, fetches and writes nothing; the files count as skipped.',
});

export const JobRequestSchema = Type.Object(
  {
    name: Type.Optional(NameSchema),
    source: SourceSchema,
    sink: Type.Optional(SinkSchema),
    priority: Type.Optional(PrioritySchema),
    existing: Type.Optional(ExistingSchema),
    headers: Type.Optional(
      Type.Unsafe<Record<string, string>>({
        type: 'object',
        additionalProperties: { type: 'string', maxLength: 8192 },
        maxProperties: 64,
        description:
          "Sent with the listing's and the files' requests, to the source's origin alone. No endpoint and no log shows them.",
        examples: [{ authorization: 'Bearer 0123456789' }],
      }),
    ),
    filter: Type.Optional(FilterSchema),
    dryRun: Type.Optional(DryRunSchema),
    retry: Type.Optional(RetrySchema),
    limits: Type.Optional(LimitsSchema),
  },
  {
    $id: 'JobRequest',
    ...closed,
    description: 'A download job. Only `source` is required.',
    examples: [{ name: 'demo', source: { type: 'listing', url: 'http://127.0.0.1:3900/list' } }],
  },
);

export type JobRequest = Static<typeof JobRequestSchema>;

/** What may be changed of a job. A merge patch (RFC 7396): what is left out stays; null takes a header or the name away. */
export const JobPatchSchema = Type.Object(
  {
    name: Type.Optional(Type.Unsafe<string | null>({ ...NameSchema, type: ['string', 'null'] })),
    priority: Type.Optional(PrioritySchema),
    headers: Type.Optional(
      Type.Unsafe<Record<string, string | null>>({
        type: 'object',
        additionalProperties: { type: ['string', 'null'], maxLength: 8192 },
        maxProperties: 64,
        description: 'Those that are named are replaced, or taken away by null; the others stay.',
        examples: [{ authorization: 'Bearer 9876543210' }],
      }),
    ),
    retry: Type.Optional(RetrySchema),
    limits: Type.Optional(LimitsSchema),
  },
  {
    $id: 'JobPatch',
    ...closed,
    minProperties: 1,
    description: 'What is to be another way from now on; all else stays as it is.',
    examples: [{ limits: { concurrency: 16, requestsPerSecond: 100 } }],
  },
);

export type JobPatch = Static<typeof JobPatchSchema>;

export type Retry = Filled<Static<typeof RetrySchema>>;
export type Limits = Filled<Static<typeof LimitsSchema>>;
type Existing = Static<typeof ExistingSchema>;

/** A job as it was ordered, defaults filled in; what is stored and what workers go by. */
export interface JobSpec {
  name: string | null;
  source: SourceSpec;
  sink: SinkSpec;
  /** 1 to 10, higher first. */
  priority: number;
  existing: Existing;
  /** Secret: shown by no endpoint and no log. */
  headers: Record<string, string>;
  filter: Filter;
  dryRun: boolean;
  retry: Retry;
  limits: Limits;
}
