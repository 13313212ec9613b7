/** What the head of an answer means for a download. Pure. */
import { FetchError, systemCode } from './errors.ts';

/** Names in lower case, values as Latin-1, a name that came twice as an array. */
export type AnswerHeaders = Record<string, string | string[] | undefined>;

// 408 and 425: RFC 9110 section 15.5.9, RFC 8470; 429: RFC 6585; of the rest, those that a server gets over.
const retryableStatuses = new Set([408, 425, 429, 500, 502, 503, 504]);
const redirectStatuses = new Set([301, 302, 303, 307, 308]);

/** Whether what follows is the file: 200, 203 (changed by a proxy on the way) and 204 (an empty file). */
export function isSuccess(statusCode: number): boolean {
  return statusCode === 200 || statusCode === 203 || statusCode === 204;
}

/** Content-Length in bytes, null where there is none. That it is a number is checked by the HTTP parser. */
export function contentLength(headers: AnswerHeaders): number | null {
  const value = headers['content-length'];
  return value === undefined ? null : Number(value);
}

/** Whether the end of the body is told by nothing but the end of the connection (RFC 9112 section 6.3). */
export function endsByClosing(statusCode: number, headers: AnswerHeaders): boolean {
  const framed = headers['content-length'] !== undefined || headers['transfer-encoding'] !== undefined;
  return !framed && statusCode !== 204 && statusCode !== 304;
}

/**
 * Where a redirect leads (RFC 9110 section 15.4): an absolute URL without fragment and credentials. null where the
 * answer is none or has no usable Location. `url`: what was asked for.
 */
export function redirectTarget(statusCode: number, headers: AnswerHeaders, url: string): string | null {
  const location = headers['location'];
  if (!redirectStatuses.has(statusCode) || typeof location !== 'string') return null;
  // Locations that are not ASCII, against the rules, are UTF-8 in practice.
  const target = URL.parse(Buffer.from(location, 'latin1').toString(), url);
  if (target === null || (target.protocol !== 'http:' && target.protocol !== 'https:')) return null;
  target.hash = '';
  target.username = '';
  target.password = '';
  return target.href;
}

/** The error (`http_status`) that an answer stands for which is neither the file nor a redirect. */
export function statusError(statusCode: number, headers: AnswerHeaders): FetchError {
  const throttled = statusCode === 429 || statusCode === 503;
  const retryAfterMs = throttled ? readRetryAfter(headers, Date.now()) : null;
  return new FetchError('http_status', `the server answered ${statusCode}`, {
    statusCode,
    retryable: retryableStatuses.has(statusCode),
    ...(retryAfterMs === null ? {} : { retryAfterMs }),
  });
}

/** Retry-After (RFC 9110 section 10.2.3), seconds or a date, in milliseconds from `nowMs`; null: none or neither. */
function readRetryAfter(headers: AnswerHeaders, nowMs: number): number | null {
  const value = headers['retry-after']?.toString().trim();
  if (value === undefined) return null;
  if (/^\d{1,10}$/.test(value)) return Number(value) * 1000;
  const at = readHttpDate(value);
  if (at === null) return null;
  // Against the server's own clock where it shows it: ours may be wrong.
  const date = headers['date'];
  const sent = typeof date === 'string' ? readHttpDate(date) : null;
  return Math.max(0, at - (sent ?? nowMs));
}

/** In ms; null: it is none. RFC 9110 section 5.6.7: all three forms; the oldest does not say that it is GMT. */
export function readHttpDate(header: string): number | null {
  const text = header.trim();
  if (!/^[A-Z][a-z]{2,8},? .*\d\d:\d\d:\d\d/.test(text)) return null;
  const at = Date.parse(text.endsWith(' GMT') ? text : `${text} GMT`);
  return Number.isNaN(at) ? null : at;
}

/**
 * The error (`connection`) for what undici or the system say while there is no whole head of an answer; a FetchError is
 * what a connector says. `stale`: see FetchError.
 */
export function connectionError(error: Error, stale: boolean): FetchError {
  if (error instanceof FetchError) return error;
  // What cannot be sent cannot be sent later either: a header or a path that is none.
  const retryable = systemCode(error) !== 'UND_ERR_INVALID_ARG';
  return new FetchError('connection', describe(error), { retryable, stale, cause: error });
}

/** The same, once the head of an answer is there: a body that just ends is `truncated`, bad framing is `connection`. */
export function bodyError(error: Error): FetchError {
  // What undici says of a body that ends amid its chunks, and of other bad chunks, differs in its text alone.
  if (error.name === 'HTTPParserError' && !error.message.includes('Invalid EOF state')) {
    return connectionError(error, false);
  }
  const message = `the connection ended before the body did: ${describe(error)}`;
  return new FetchError('truncated', message, { retryable: true, cause: error });
}

const notHttp = new Set(['HTTPParserError', 'HeadersOverflowError', 'ResponseContentLengthMismatchError']);

function describe(error: Error): string {
  if (notHttp.has(error.name)) return `the answer is not HTTP as it should be: ${error.message}`;
  // What undici found impossible, such as a status below 100, it tells in terms of its code.
  if (error.name === 'AssertionError') return 'the answer is not HTTP as it should be';
  // One for each address of the host, and no message of its own.
  if (error instanceof AggregateError) return error.errors.map((each: Error) => each.message).join('; ');
  return error.message === '' ? (systemCode(error) ?? error.name) : error.message;
}
