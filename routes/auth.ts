/** Bearer tokens (RFC 6750) for everything but what is open to all. */
import { createHash, timingSafeEqual } from 'node:crypto';
import type { FastifyRequest } from 'fastify';
import { Problem } from '../src/errors.ts';

const open = /^\/(livez|readyz|openapi\.json|docs(\/.*)?)$/;

/** The tokens that are valid; none: everything is open. */
export class BearerTokens {
  // Digests all have one length, which a comparison in constant time needs.
  readonly #digests: readonly Buffer[];

  constructor(tokens: readonly string[]) {
    this.#digests = tokens.map(digest);
  }

  /** The digest of the valid token that a request comes with, as text; null where it comes with none. */
  digestOf = (request: FastifyRequest): string | null => {
    const token = tokenIn(request);
    if (token === null) return null;
    const given = digest(token);
    return this.#digests.some((known) => timingSafeEqual(known, given)) ? given.toString('hex') : null;
  };

  /**
   * A hook that throws Problem `unauthorized` for a request without a valid token. It runs for unknown routes too, so that
   * nobody learns which there are.
   */
  require = async (request: FastifyRequest): Promise<void> => {
    if (this.#digests.length === 0 || open.test(request.routeOptions.url ?? '')) return;
    if (this.digestOf(request) !== null) return;
    const detail = tokenIn(request) === null ? 'send "Authorization: Bearer" with a token' : 'the token is not valid';
    throw new Problem('unauthorized', detail);
  };
}

function tokenIn({ headers }: FastifyRequest): string | null {
  return /^bearer +([\w\-.~+/]+=*) *$/i.exec(headers.authorization ?? '')?.[1] ?? null;
}

function digest(token: string): Buffer {
  return createHash('sha256').update(token).digest();
}
