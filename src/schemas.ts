/**
 * Every shape that crosses the wire, once: the schema gives the type, the validation and the OpenAPI document.
 * What can be ordered is in job-spec.ts; here is what is answered.
 */
import { Type, type Static } from 'typebox';
import { failureReasons, type FailureReason } from './errors.ts';
import {
  DryRunSchema,
  ExistingSchema,
  LimitsSchema,
  PrioritySchema,
  RetrySchema,
  SinkSchema,
  SourceShownSchema,
} from './job-spec.ts';
import { listFormats } from './records.ts';
import { count, literals, nullable, ref, time } from './schema-parts.ts';
import { FilterSchema } from './sources/filter.ts';

export * from './job-spec.ts';
export { ref };

const jobStates = [
  'queued',
  'running',
  'paused',
  'completed',
  'completed_with_failures',
  'failed',
  'cancelled',
] as const;
export type JobState = (typeof jobStates)[number];

export const JobStateSchema = literals(jobStates, {
  description:
    '`completed_with_failures`: some files failed. `failed`: the listing could not be read to its end; what was ' +
    'listed before was downloaded first.',
});

export const FailureReasonSchema = literals(Object.keys(failureReasons) as FailureReason[], {
  description: Object.entries(failureReasons)
    .map(([reason, { meaning }]) => `\`${reason}\`: ${meaning}.`)
    .join(' '),
});

const ProgressSchema = Type.Object(
  {
    pagesListed: count('Pages of the listing that were read.'),
    pagesDone: count('Pages of which every file is downloaded, skipped or failed.'),
    listingDone: Type.Boolean({ description: 'Whether the listing was read to its end.' }),
    filesTotal: nullable(count('How many files there are; null until that is known.')),
    filesListed: count('Always filesDownloaded + filesSkipped + filesFailed + filesPending.'),
    filesDownloaded: count('Files this job fetched and stored.'),
    filesSkipped: count('Files that were there before.'),
    filesFailed: count('Files given up.'),
    filesPending: count('Files that are listed and not yet done.'),
    requestsRetried: count('Requests that were made again.'),
    bytesDownloaded: count('Bytes of the downloaded files.'),
    filesPerSecond: Type.Number({ minimum: 0, description: 'Files done a second, of late.' }),
    bytesPerSecond: Type.Number({ minimum: 0, description: 'Bytes downloaded a second, of late.' }),
    etaSeconds: nullable(
      Type.Number({ minimum: 0, description: 'Seconds to the end at this speed; null: not known.' }),
    ),
  },
  { description: 'How far the job is.' },
);
export type Progress = Static<typeof ProgressSchema>;

const JobErrorSchema = Type.Object(
  {
    reason: FailureReasonSchema,
    message: Type.String(),
    page: nullable(count('The number of the page it stopped at, from 0.')),
    token: nullable(Type.String({ description: 'The token of that page.' })),
    statusCode: nullable(Type.Integer({ description: 'The HTTP status that was the cause, if one was.' })),
  },
  { description: 'Why the listing could not be read.' },
);
export type JobError = Static<typeof JobErrorSchema>;

const exampleId = '019a9f3c-6c2e-7d4b-9f60-2b8c1d7e5a43';

export const JobSchema = Type.Object(
  {
    id: Type.String({ format: 'uuid', description: 'A UUIDv7.' }),
    name: nullable(Type.String()),
    state: JobStateSchema,
    pausedReason: Type.Unsafe<'user' | 'max_failures' | 'outage' | null>({
      type: ['string', 'null'],
      enum: ['user', 'max_failures', 'outage', null],
      description:
        'Who paused it: the user, or the job itself because `limits.maxFailures` was reached or its origin was in trouble ' +
        'for `retry.maxOutageMs`.',
    }),
    waitingReason: Type.Unsafe<'no_worker' | 'data_dir' | null>({
      type: ['string', 'null'],
      enum: ['no_worker', 'data_dir', null],
      description:
        'Why nothing of a queued or running job can move: no worker gave a sign of life lately, or none of those that did ' +
        'has the folder of the job (`dataId`) as its `DATA_DIR`.',
    }),
    limitedBy: Type.Unsafe<'listing' | null>({
      type: ['string', 'null'],
      enum: ['listing', null],
      description:
        'What a running job could be faster without. `listing`: for some seconds its pages have come more slowly than their ' +
        'files were fetched; more names a page help, or a server that lists faster.',
    }),
    dataId: nullable(
      Type.String({
        description: 'The id of the `DATA_DIR` that its files go to: that of the first worker to take a page.',
      }),
    ),
    source: SourceShownSchema,
    sink: SinkSchema,
    priority: PrioritySchema,
    existing: ExistingSchema,
    filter: FilterSchema,
    dryRun: DryRunSchema,
    retry: RetrySchema,
    limits: LimitsSchema,
    progress: ProgressSchema,
    failures: Type.Unsafe<Record<string, number>>({
      type: 'object',
      additionalProperties: { type: 'integer', minimum: 1 },
      description: 'How many files failed, by reason.',
    }),
    error: Type.Unsafe<JobError | null>({ anyOf: [JobErrorSchema, { type: 'null' }] }),
    createdAt: time('When the job was accepted.'),
    startedAt: nullable(time('When its first page was taken.')),
    finishedAt: nullable(time('When it came to its end.')),
    links: Type.Object(
      { self: Type.String(), events: Type.String(), failures: Type.String(), manifest: Type.String() },
      { description: 'Paths of this API.' },
    ),
  },
  {
    $id: 'Job',
    description: 'A job, defaults filled in. Its `headers` are not shown.',
    examples: [
      {
        id: exampleId,
        name: 'demo',
        state: 'running',
        pausedReason: null,
        waitingReason: null,
        limitedBy: null,
        dataId: '5b0e4f8e-6f0c-4d36-9d0c-3f1c8e1f2a77',
        source: {
          type: 'listing',
          url: 'http://127.0.0.1:3900/list',
          fileUrl: 'get/{name}',
          namesField: '/FileNames',
          next: { in: 'body' },
          markerParam: 'next-marker',
        },
        sink: { type: 'directory', path: exampleId },
        priority: 5,
        existing: 'skip',
        filter: { include: [], exclude: [], maxFiles: 0 },
        dryRun: false,
        retry: { attempts: 5, baseDelayMs: 300, maxDelayMs: 30_000 },
        limits: {
          concurrency: 64,
          requestsPerSecond: 0,
          timeoutMs: 30_000,
          minBytesPerSecond: 1024,
          maxFileBytes: 1_073_741_824,
          maxFailures: 100_000,
        },
        progress: {
          pagesListed: 12,
          pagesDone: 9,
          listingDone: false,
          filesTotal: null,
          filesListed: 12_000,
          filesDownloaded: 9100,
          filesSkipped: 0,
          filesFailed: 3,
          filesPending: 2897,
          requestsRetried: 41,
          bytesDownloaded: 910_000,
          filesPerSecond: 18_250,
          bytesPerSecond: 1_825_000,
          etaSeconds: null,
        },
        failures: { http_status: 3 },
        error: null,
        createdAt: '2026-11-20T10:00:00.000Z',
        startedAt: '2026-11-20T10:00:00.120Z',
        finishedAt: null,
        links: {
          self: `/jobs/${exampleId}`,
          events: `/jobs/${exampleId}/events`,
          failures: `/jobs/${exampleId}/failures`,
          manifest: `/jobs/${exampleId}/manifest`,
        },
      },
    ],
  },
);
export type Job = Static<typeof JobSchema>;

export const FailureSchema = Type.Object(
  {
    name: Type.String({ description: 'As the listing says it.' }),
    url: nullable(Type.String()),
    reason: FailureReasonSchema,
    statusCode: nullable(Type.Integer({ description: 'The HTTP status that was the cause, if one was.' })),
    attempts: count('How often it was tried.'),
    message: Type.String(),
    at: time('When it was given up.'),
  },
  {
    $id: 'Failure',
    description: 'A file that was given up.',
    examples: [
      {
        name: 'a/17.bin',
        url: 'http://127.0.0.1:3900/get/a/17.bin',
        reason: 'http_status',
        statusCode: 404,
        attempts: 1,
        message: 'the server answered 404',
        at: '2026-11-20T10:00:01.000Z',
      },
    ],
  },
);
export type Failure = Static<typeof FailureSchema>;

export const WorkerInfoSchema = Type.Object(
  {
    id: Type.String(),
    host: Type.String(),
    pid: Type.Integer(),
    startedAt: time('When the process started.'),
    pagesInWork: count('Pages it has in work.'),
    filesPerSecond: Type.Number({ minimum: 0, description: 'Files done a second, of late.' }),
    memoryBytes: count('Resident memory.'),
    dataId: Type.String({ description: 'The id of its DATA_DIR: workers with the same one have the same folder.' }),
  },
  {
    $id: 'Worker',
    description: 'A worker process that gave a sign of life lately.',
    examples: [
      {
        id: 'vm-1:4711:c0ffee',
        host: 'vm-1',
        pid: 4711,
        startedAt: '2026-11-20T09:59:58.000Z',
        pagesInWork: 8,
        filesPerSecond: 9125,
        memoryBytes: 104_857_600,
        dataId: '5b0e4f8e-6f0c-4d36-9d0c-3f1c8e1f2a77',
      },
    ],
  },
);
export type WorkerInfo = Static<typeof WorkerInfoSchema>;

export const UploadSchema = Type.Object(
  {
    id: Type.String({ format: 'uuid', description: 'What `source.uploadId` takes.' }),
    format: literals(listFormats, { description: 'How it is written.' }),
    bytes: count('Its size, unpacked.'),
    urls: count('Lines, or records, that are not blank.'),
  },
  {
    $id: 'Upload',
    description: 'A list of URLs that was sent.',
    examples: [{ id: exampleId, format: 'text', bytes: 48_000_000, urls: 1_000_000 }],
  },
);

export const ProblemSchema = Type.Object(
  {
    type: Type.String({ description: '`about:blank`: the status says it all.' }),
    title: Type.String(),
    status: Type.Integer(),
    detail: Type.String({ description: 'What went wrong and what to do, in plain words.' }),
    errors: Type.Optional(
      Type.Array(
        Type.Object({
          detail: Type.String(),
          pointer: Type.String({ description: 'A JSON Pointer into the body, or to a query parameter or header.' }),
        }),
        { description: 'Everything that is wrong in a request, at most 100 entries.' },
      ),
    ),
  },
  { $id: 'Problem', description: 'An error (RFC 9457).' },
);
