/** What the schema of a job cannot say: rules between fields, URLs, paths and header names; and its defaults. */
import type { FieldError } from './errors.ts';
import { checkName, privateFolder } from './names.ts';
import { filled } from './schema-parts.ts';
import {
  DEFAULT_PRIORITY,
  LimitsSchema,
  RetrySchema,
  type JobPatch,
  type JobRequest,
  type JobSpec,
  type Retry,
} from './schemas.ts';
import { sinkKindOf, type SinkSpec } from './sinks/index.ts';
import { checkFilter, FilterSchema } from './sources/filter.ts';
import { kindOf } from './sources/index.ts';
import type { AddressPolicy } from './ssrf.ts';

const pathBytesMax = 1024;
const headerNameLengthMax = 256;
const errorsMax = 100;

/**
 * What is wrong in a request that the schema let pass: a detail and a JSON Pointer for each, at most 100, none where it
 * can be run. Names are not looked up here: what `mayReach` refuses is an address that stands in a URL.
 */
export function checkJob(request: JobRequest, mayReach: AddressPolicy): FieldError[] {
  const spec = fillDefaults(request, 'id');
  const inSource = [...below('/source', kindOf(request.source).check(request.source, mayReach))];
  return [
    ...inSource,
    ...checkPath(spec.sink.path),
    ...checkExisting(spec),
    ...checkHeaders(spec.headers),
    ...(inSource.length > 0 ? [] : checkHeadersOrigin(spec)),
    ...below('/filter', checkFilter(spec.filter)),
    ...checkRetry(spec.retry),
  ].slice(0, errorsMax);
}

function* below(parent: string, errors: Iterable<FieldError>): Generator<FieldError> {
  for (const { detail, pointer } of errors) yield { detail, pointer: parent + pointer };
}

/** The job as it is stored: a request that `checkJob` found nothing in, with every default of the schemas filled in. */
export function fillDefaults(request: JobRequest, jobId: string): JobSpec {
  const { source, sink, filter, retry, limits } = structuredClone(request);
  return {
    name: request.name ?? null,
    source: kindOf(source).withDefaults(source),
    sink: fillSink(sink ?? { type: 'directory' }, jobId),
    priority: request.priority ?? DEFAULT_PRIORITY,
    existing: request.existing ?? 'skip',
    headers: { ...request.headers },
    filter: filled(FilterSchema, filter ?? {}),
    dryRun: request.dryRun ?? false,
    retry: filled(RetrySchema, retry ?? {}),
    limits: filled(LimitsSchema, limits ?? {}),
  };
}

/** Whether a job that was changed by `patchJob` can be run: as `checkJob`. */
export function checkPatched(spec: JobSpec): FieldError[] {
  return [...checkHeaders(spec.headers), ...checkHeadersOrigin(spec), ...checkRetry(spec.retry)];
}

/** The job as it is after a change. Header names are the same in upper and lower case. */
export function patchJob(spec: JobSpec, patch: JobPatch): JobSpec {
  const headers = new Map(Object.entries(spec.headers));
  for (const [name, value] of Object.entries(patch.headers ?? {})) {
    for (const known of headers.keys()) if (known.toLowerCase() === name.toLowerCase()) headers.delete(known);
    if (value !== null) headers.set(name, value);
  }
  return {
    ...spec,
    name: patch.name === undefined ? spec.name : patch.name,
    priority: patch.priority ?? spec.priority,
    headers: Object.fromEntries(headers),
    retry: { ...spec.retry, ...patch.retry },
    limits: { ...spec.limits, ...patch.limits },
  };
}

function fillSink(sink: NonNullable<JobRequest['sink']>, jobId: string): SinkSpec {
  return { path: jobId, ...filled(sinkKindOf(sink).schema, sink) } as SinkSpec;
}

function* checkExisting({ existing, sink }: JobSpec): Generator<FieldError> {
  if (existing !== 'update' || sink.type === 'directory') return;
  const detail =
    'cannot be update where the sink is not a directory: archives are never changed, each job makes its own; leave it out';
  yield { detail, pointer: '/existing' };
}

function* checkPath(path: string): Generator<FieldError> {
  const pointer = '/sink/path';
  const unsafe = checkName(path);
  if (unsafe !== null) {
    yield { detail: `must be a folder below DATA_DIR, such as "mirror-a": ${unsafe}`, pointer };
  } else if (path.toLowerCase().split('/').includes(privateFolder)) {
    yield { detail: `must have no part ${privateFolder}: the service keeps its own there`, pointer };
  } else if (Buffer.byteLength(path) > pathBytesMax) {
    yield { detail: `must have at most ${pathBytesMax} bytes`, pointer };
  }
}

/** Framing and connection (RFC 9110, 7.6.1 and 6.4) are the service's own. */
const framing =
  /^(host|content-length|connection|keep-alive|proxy-.*|te|trailer|transfer-encoding|upgrade|http2-settings|expect)$/;
/** With these a server would answer less than the whole file (RFC 9110, 13.1 and 14.2), or in a coding of its choice. */
const wholeFiles = /^(accept-encoding|range|if-.*)$/;

function* checkHeaders(headers: Record<string, string>): Generator<FieldError> {
  const seen = new Set<string>();
  for (const [name, value] of Object.entries(headers)) {
    if (name.length > headerNameLengthMax) {
      yield { detail: `must have names of at most ${headerNameLengthMax} characters`, pointer: '/headers' };
      continue;
    }
    const pointer = `/headers/${name.replaceAll('~', '~0').replaceAll('/', '~1')}`;
    const lower = name.toLowerCase();
    // RFC 9110, 5.6.2 (token) and 5.5 (field-value); a character beyond Latin-1 cannot be sent.
    if (!/^[!#$%&'*+\-.^_`|~\w]+$/.test(name)) yield { detail: 'is not a header name (RFC 9110)', pointer };
    else if (framing.test(lower)) yield { detail: 'is set by the service itself; leave it out', pointer };
    else if (wholeFiles.test(lower)) yield { detail: 'would not give whole files; leave it out', pointer };
    else if (seen.has(lower)) yield { detail: 'is given twice; upper and lower case are the same', pointer };
    if (!/^[\t\x20-\x7e\x80-\xff]*$/.test(value)) {
      yield { detail: 'must be Latin-1 text without control characters and line breaks', pointer };
    }
    seen.add(lower);
  }
}

function* checkHeadersOrigin({ headers, source }: JobSpec): Generator<FieldError> {
  if (Object.keys(headers).length === 0 || kindOf(source).headersOrigin(source) !== null) return;
  yield { detail: 'go to one origin alone: say which by headersOrigin in source', pointer: '/headers' };
}

function* checkRetry({ baseDelayMs, maxDelayMs }: Retry): Generator<FieldError> {
  if (baseDelayMs > maxDelayMs) {
    yield { detail: `must be at most maxDelayMs, which is ${maxDelayMs}`, pointer: '/retry/baseDelayMs' };
  }
}
