/** What can be ordered: the body of POST /jobs. What a schema cannot say about it is in check-job.ts. */
import { Type, type Static, type TSchema } from 'typebox';
import { closed, literals, whole, type Filled } from './schema-parts.ts';
import { SinkSchema, type SinkSpec } from './sinks/sink-specs.ts';

export * from './sinks/sink-specs.ts';

/** `json-pointer` is checked where requests are (routes/validation.ts). */
function pointer(description: string, options: object = {}) {
  return Type.String({ format: 'json-pointer', maxLength: 256, description, ...options });
}

function param(name: string) {
  return Type.Optional(
    Type.String({ default: name, minLength: 1, maxLength: 128, description: 'The name of the query parameter.' }),
  );
}

function first(number: number) {
  return Type.Optional(
    Type.Integer({ default: number, minimum: 0, maximum: 1_000_000_000, description: 'Its value on the first page.' }),
  );
}

const nextForms = {
  body: Type.Object(
    {
      in: Type.Literal('body'),
      field: Type.Optional(
        pointer(
          'Where the page holds the next marker; default: `/NextMarker`, and `/NextFile` where that is not there.',
        ),
      ),
    },
    {
      ...closed,
      title: 'In the body',
      description:
        'The page holds the marker of the next one; absent, null or `""` is the end. A marker that is an absolute URL ' +
        "of the listing's own origin is followed; any other goes into the query parameter `markerParam`.",
    },
  ),
  link: Type.Object(
    { in: Type.Literal('link') },
    { ...closed, title: 'In the Link header', description: 'A `Link` header with `rel=next` (RFC 8288).' },
  ),
  page: Type.Object(
    { in: Type.Literal('page'), param: param('page'), first: first(1) },
    {
      ...closed,
      title: 'Page number',
      description: 'Each page has a number, one more than the last; an empty page is the end.',
    },
  ),
  offset: Type.Object(
    { in: Type.Literal('offset'), param: param('offset'), first: first(0) },
    {
      ...closed,
      title: 'Offset',
      description: 'Each page is asked for by the number of names before it; an empty page is the end.',
    },
  ),
};

const NextSchema = Type.Unsafe<
  | { in: 'body'; field?: string }
  | { in: 'link' }
  | { in: 'page'; param?: string; first?: number }
  | { in: 'offset'; param?: string; first?: number }
>({
  type: 'object',
  description: 'How a page of the listing tells the next one; default: `{ "in": "body" }`.',
  required: ['in'],
  discriminator: { propertyName: 'in' },
  oneOf: Object.values(nextForms),
});

/** The schema of one form of `next`. */
export function nextSchemaOf(next: Next): TSchema {
  return nextForms[next.in];
}

export const ListingSourceSchema = Type.Object(
  {
    type: Type.Literal('listing'),
    url: Type.String({
      minLength: 1,
      maxLength: 8192,
      description: 'The http or https URL of the first page, without credentials.',
      examples: ['http://127.0.0.1:3900/list'],
    }),
    fileUrl: Type.Optional(
      Type.String({
        default: 'get/{name}',
        minLength: 1,
        maxLength: 8192,
        description:
          'The URL of a file, resolved against `url`. `{name}` becomes its name, each path segment percent-encoded.',
      }),
    ),
    namesField: Type.Optional(
      pointer('A JSON Pointer to the array of names in a page; `""` where the page itself is the array.', {
        default: '/FileNames',
      }),
    ),
    nameField: Type.Optional(pointer('A JSON Pointer to the name in an item; needed where items are objects.')),
    sizeField: Type.Optional(pointer('A JSON Pointer to the size in bytes in an item that is an object.')),
    urlField: Type.Optional(
      pointer("A JSON Pointer to the file's URL in an item that is an object, in place of `fileUrl`."),
    ),
    next: Type.Optional(NextSchema),
    markerParam: Type.Optional(
      Type.String({
        default: 'next-marker',
        minLength: 1,
        maxLength: 128,
        description: 'The query parameter that takes the marker of the next page.',
      }),
    ),
  },
  { ...closed, title: 'Listing', description: 'A paginated JSON listing that names files.' },
);

export const SourceSchema = Type.Unsafe<Static<typeof ListingSourceSchema>>({
  type: 'object',
  description: 'Where the files are listed.',
  required: ['type'],
  discriminator: { propertyName: 'type' },
  oneOf: [ListingSourceSchema],
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

export const ExistingSchema = literals(['skip', 'overwrite'], {
  default: 'skip',
  description:
    '`skip`: a file that is there is not fetched (where the listing tells sizes: that is there with that size). ' +
    '`overwrite`: every file is fetched.',
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

export type Next = Static<typeof NextSchema>;
export type Retry = Filled<Static<typeof RetrySchema>>;
export type Limits = Filled<Static<typeof LimitsSchema>>;
type Existing = Static<typeof ExistingSchema>;
export type ListingSourceSpec = Filled<
  Pick<Static<typeof ListingSourceSchema>, 'type' | 'url' | 'fileUrl' | 'namesField' | 'markerParam'>
> &
  Pick<Static<typeof ListingSourceSchema>, 'nameField' | 'sizeField' | 'urlField'> & {
    /** Without `field`, "body" means `/NextMarker`, and `/NextFile` where that is not there. */
    next: Next;
  };
export type SourceSpec = ListingSourceSpec;

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
  retry: Retry;
  limits: Limits;
}
