/**
 * The one table of everything that can go wrong: reasons for which a file or a listing fails, and problems that the
 * API answers (RFC 9457). Everything that fails on the way carries one of these; nothing is told apart by its text.
 */

/** Every reason a file or a listing can fail for, and whether another attempt may help. */
export const failureReasons = {
  http_status: { meaning: 'the server answered with a status that is not a success' },
  timeout: { meaning: 'connecting, the headers or the next bytes of the body took longer than timeoutMs' },
  too_slow: { meaning: 'the body came slower than minBytesPerSecond' },
  connection: { meaning: 'the connection could not be made, or broke' },
  blocked_address: { meaning: 'the address is not globally reachable, and ALLOWED_NETWORKS does not have it' },
  truncated: { meaning: 'the body ended before it was whole, or its size is not what the listing said' },
  decode: { meaning: 'the content coding is unknown or the coded body is damaged' },
  too_large: { meaning: 'the body is larger than allowed' },
  too_many_redirects: { meaning: 'more redirects than allowed' },
  unsafe_name: { meaning: 'the name cannot be stored safely' },
  name_conflict: { meaning: 'two files claim one name, or a file and a folder do' },
  bad_item: { meaning: 'the listing holds an item that is no file name, or a list a line that is no URL' },
  not_json: { meaning: 'the listing, or a file that is to be a line of JSON, is not JSON' },
  bad_listing: { meaning: 'the listing is not of the described shape, or a list of URLs is not there' },
  listing_loop: { meaning: 'the listing leads back to a page it has already been on' },
  worker_crash: { meaning: 'the page made its worker crash again and again' },
  sink: { meaning: 'the file could not be stored' },
} as const satisfies Record<string, { meaning: string }>;

export type FailureReason = keyof typeof failureReasons;

/** Why one file or one page of a listing failed. `retryable`: another attempt may end otherwise. */
export class FetchError extends Error {
  override readonly name = 'FetchError';
  readonly reason: FailureReason;
  readonly retryable: boolean;
  /** The HTTP status that was the cause, null where none was received. */
  readonly statusCode: number | null;
  /** What a 429 or 503 asked for in Retry-After, in milliseconds from its receipt; null where it asked for nothing. */
  readonly retryAfterMs: number | null;
  /** A kept connection broke before the first byte of the answer, as it does where the server has just closed it. */
  readonly stale: boolean;

  constructor(
    reason: FailureReason,
    message: string,
    more: { retryable?: boolean; statusCode?: number; retryAfterMs?: number; stale?: boolean; cause?: unknown } = {},
  ) {
    super(message, more.cause === undefined ? undefined : { cause: more.cause });
    this.reason = reason;
    this.retryable = more.retryable ?? false;
    this.statusCode = more.statusCode ?? null;
    this.retryAfterMs = more.retryAfterMs ?? null;
    this.stale = more.stale ?? false;
  }
}

/** The system's word for what went wrong (ENOSPC, ECONNRESET, …), or undefined. */
export function systemCode(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

/** What the API answers when it does not do as asked. */
export const problems = {
  bad_request: { status: 400, title: 'Bad Request' },
  unauthorized: { status: 401, title: 'Unauthorized' },
  forbidden: { status: 403, title: 'Forbidden' },
  not_found: { status: 404, title: 'Not Found' },
  not_acceptable: { status: 406, title: 'Not Acceptable' },
  conflict: { status: 409, title: 'Conflict' },
  body_too_large: { status: 413, title: 'Content Too Large' },
  uri_too_long: { status: 414, title: 'URI Too Long' },
  unsupported_media_type: { status: 415, title: 'Unsupported Media Type' },
  idempotency_conflict: { status: 422, title: 'Unprocessable Content' },
  too_many_requests: { status: 429, title: 'Too Many Requests' },
  headers_too_large: { status: 431, title: 'Request Header Fields Too Large' },
  internal: { status: 500, title: 'Internal Server Error' },
  unavailable: { status: 503, title: 'Service Unavailable' },
} as const satisfies Record<string, { status: number; title: string }>;

export type ProblemKind = keyof typeof problems;

const POINTER_LENGTH_MAX = 1024;

/** One thing wrong in a request body: what, and a JSON Pointer (RFC 6901) to where. */
export interface FieldError {
  detail: string;
  pointer: string;
}

/** Thrown by anything a route calls; the API turns it into application/problem+json. */
export class Problem extends Error {
  override readonly name = 'Problem';
  readonly kind: ProblemKind;
  readonly errors: readonly FieldError[] | undefined;
  /** When to try again; undefined: the answer does not say. */
  readonly retryAfterSeconds: number | undefined;

  constructor(
    kind: ProblemKind,
    detail: string,
    more: { errors?: readonly FieldError[]; retryAfterSeconds?: number } = {},
  ) {
    super(detail);
    this.kind = kind;
    this.errors = more.errors;
    this.retryAfterSeconds = more.retryAfterSeconds ?? (kind === 'unavailable' ? 1 : undefined);
  }
}

/** A Problem for the fields that are wrong; there is at least one. */
export function badRequest(found: readonly FieldError[]): Problem {
  // A pointer holds what the caller called a field, which may be megabytes.
  const errors = found.map(({ detail, pointer }) => ({ detail, pointer: pointer.slice(0, POINTER_LENGTH_MAX) }));
  const [first] = errors;
  const where = first?.pointer === '' ? 'the body' : first?.pointer;
  const more = errors.length === 1 ? '' : ` (${errors.length - 1} more in errors)`;
  return new Problem('bad_request', `${where} ${first?.detail}${more}`, { errors });
}

/** Ends a process at its start with one clear line: bad settings, a port in use, no Redis. */
export class StartError extends Error {
  override readonly name = 'StartError';
}
