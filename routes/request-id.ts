/** Which call a log line belongs to. */
import type { IncomingMessage } from 'node:http';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { uuidv7 } from 'uuidv7';
import { reading } from './callers.ts';

/** What ids are made of; anything else in a log line could mean something there. */
const sane = /^[\w.:/+=@-]{1,128}$/;

/** The id that the caller gave (X-Request-Id), or a new one. */
export function requestId({ headers }: Pick<IncomingMessage, 'headers'>): string {
  const given = String(headers['x-request-id'] ?? '');
  return sane.test(given) ? given : uuidv7();
}

/** Adds hooks: every answer says the call's id, and each call that changed something is one line in the log. */
export function traceCalls(app: FastifyInstance): void {
  app.addHook('onRequest', async (request, reply) => {
    void reply.header('x-request-id', request.id);
  });
  app.addHook('onResponse', async (request, reply) => {
    const { method, routeOptions, log } = request;
    if (reading.test(method) || reply.statusCode >= 400) return;
    const job = jobOf(request) ?? /^\/jobs\/(.+)/.exec(String(reply.getHeader('location')))?.[1];
    log.info({ method, route: routeOptions.url, status: reply.statusCode, job }, 'called');
  });
}

function jobOf({ params }: FastifyRequest): string | undefined {
  return typeof params === 'object' && params !== null && 'id' in params ? String(params.id) : undefined;
}
