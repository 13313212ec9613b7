/** Every error answer of the API, from one place: application/problem+json (RFC 9457). */
import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify';
import { badRequest, Problem, problems, type ProblemKind } from '../src/errors.ts';
import { ref } from '../src/schemas.ts';
import { securityHeaders } from './callers.ts';
import { fieldErrors } from './validation.ts';

const mediaType = 'application/problem+json';

const meanings: Record<ProblemKind, string> = {
  bad_request: 'Something in the request is not as it must be; `errors` names each field.',
  unauthorized: 'No bearer token, or a wrong one.',
  forbidden: 'The `Host` header is not among `ALLOWED_HOSTS`, or a page of a foreign `Origin` asks for a change.',
  not_found: 'There is no such job or route.',
  not_acceptable: 'None of the media types in `Accept` is offered.',
  conflict: "The job's state, or an active job's sink path, does not allow it.",
  body_too_large: 'The body is larger than 10 MB, an upload than `MAX_UPLOAD_BYTES`.',
  uri_too_long: 'The URL is longer than 8 KiB.',
  unsupported_media_type: 'The body is not declared as what this call takes.',
  idempotency_conflict: 'The Idempotency-Key was used before, with another body.',
  too_many_requests: 'More calls than `RATE_LIMIT` a minute, or more active jobs than `MAX_ACTIVE_JOBS`.',
  headers_too_large: 'There are too many headers, or they are too large.',
  internal: 'The service made an error; its log says more.',
  unavailable: 'Redis does not answer, or too many streams of events are open; try again.',
};

const retryAfter = { type: 'integer', minimum: 1, description: 'Seconds until it may be tried again.' };

/** The problems that any call may answer, and `more`, as the `response` part of a route's schema. */
export function problemAnswers(...more: ProblemKind[]): object {
  const kinds: ProblemKind[] = [
    'bad_request',
    'unauthorized',
    'forbidden',
    'too_many_requests',
    ...more,
    'internal',
    'unavailable',
  ];
  return Object.assign({}, ...kinds.map(problemAnswer)) as object;
}

/** One problem, as the `response` part of a route's schema. */
export function problemAnswer(kind: ProblemKind): object {
  const { status, title } = problems[kind];
  const description = meanings[kind];
  const example = { type: 'about:blank', title, status, detail: description };
  const headers = status === 429 || status === 503 ? { 'Retry-After': retryAfter } : {};
  return { [status]: { description, headers, content: { [mediaType]: { schema: ref('Problem'), example } } } };
}

/** Answers whatever a hook, a parser, a validator or a handler threw. Logs what nobody foresaw, once. */
export function answerError(error: FastifyError, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const problem = toProblem(error);
  if (problem.kind === 'internal') {
    request.log.error({ err: error, method: request.method, route: request.routeOptions.url }, 'a request failed');
  }
  if (problem.retryAfterSeconds !== undefined) void reply.header('retry-after', problem.retryAfterSeconds);
  // RFC 6750, section 3
  if (problem.kind === 'unauthorized') void reply.header('www-authenticate', 'Bearer realm="gigafetch"');
  // As text: whatever schema a route has for this status does not apply.
  return reply.code(problems[problem.kind].status).header('content-type', mediaType).send(bodyOf(problem));
}

/** Answers a request that no route takes. */
export function answerNotFound(request: FastifyRequest): never {
  throw new Problem(
    'not_found',
    `there is no ${request.method} ${request.url.split('?', 1)[0]}; /docs shows what there is`,
  );
}

/** What Node finds no request in, by its codes. */
const broken: Record<string, { status: number; detail: string }> = {
  HPE_HEADER_OVERFLOW: { status: 431, detail: 'the URL and the headers have more than 16 KiB' },
  ERR_HTTP_REQUEST_TIMEOUT: { status: 408, detail: 'the request did not come whole in time' },
};

/** Answers bytes that are no HTTP request, or one with too large a head or too slow; then hangs up. */
export function answerBrokenRequest(error: Error & { code?: string }, socket: Socket): void {
  if (!socket.writable || error.code === 'ECONNRESET') {
    socket.destroy();
    return;
  }
  const { status, detail } = broken[error.code ?? ''] ?? { status: 400, detail: 'this is no HTTP request' };
  const title = STATUS_CODES[status] ?? '';
  const body = JSON.stringify({ type: 'about:blank', title, status, detail });
  const head = [
    `HTTP/1.1 ${status} ${title}`,
    `content-type: ${mediaType}`,
    `content-length: ${body.length}`,
    'connection: close',
    ...Object.entries(securityHeaders).map((header) => header.join(': ')),
  ];
  socket.end([...head, '', body].join('\r\n'));
}

function toProblem(error: FastifyError): Problem {
  if (error instanceof Problem) return error;
  if (error.validation !== undefined) {
    // What is not a UUID names no job.
    if (error.validationContext === 'params') return new Problem('not_found', 'there is no such job');
    return badRequest(fieldErrors(error.validation as Parameters<typeof fieldErrors>[0]));
  }
  const status = error.statusCode ?? 500;
  if (status === 413) return new Problem('body_too_large', 'the body is larger than 10 MB');
  if (status === 415) return new Problem('unsupported_media_type', 'send JSON with "content-type: application/json"');
  if (status >= 400 && status < 500) return new Problem('bad_request', error.message);
  return new Problem('internal', meanings.internal);
}

function bodyOf({ kind, message, errors }: Problem): string {
  const { status, title } = problems[kind];
  return JSON.stringify({ type: 'about:blank', title, status, detail: message, errors });
}
