/** Bearer tokens (RFC 6750) for everything but what is open to all. */
import { createHash, timingSafeEqual } from 'node:crypto';
import type { FastifyRequest } from 'fastify';
import { Problem } from '../src/errors.ts';

const open = /^\/(livez|readyz|openapi\.json|docs(\/.*)?)$/;

/**
 * A hook that throws Problem `unauthorized` for a request without one of `tokens`; without tokens everything is open.
 * It runs for unknown routes too, so that nobody learns which there are.
 */
export function bearerAuth(tokens: readonly string[]): (request: FastifyRequest) => Promise<void> {
  // Digests all have one length, which a comparison in constant time needs.
  const digests = tokens.map(digest);
  return async (request) => {
    if (tokens.length === 0 || open.test(request.routeOptions.url ?? '')) return;
    const token = /^bearer +([\w\-.~+/]+=*) *$/i.exec(request.headers.authorization ?? '')?.[1];
    if (token === undefined) throw new Problem('unauthorized', 'send "Authorization: Bearer" with a token');
    const given = digest(token);
    if (!digests.some((known) => timingSafeEqual(known, given)))
      throw new Problem('unauthorized', 'the token is not valid');
  };
}

function digest(token: string): Buffer {
  return createHash('sha256').update(token).digest();
}
