/** Who may call, and how large a request's head may be: hooks that run before anything else. */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { Problem } from '../src/errors.ts';
import { hostMatcher } from '../src/hosts.ts';

const urlBytesMax = 8192;
const headersMax = 100;

/** Container platforms ask by whatever address a process has. */
const probes = /^\/(livez|readyz)$/;
/** Methods that change nothing. */
export const reading = /^(GET|HEAD|OPTIONS)$/;

/**
 * For every answer. No HSTS, as there is no TLS here, and no CORS: no other site's page is to read anything. Swagger UI
 * needs styles in its elements and images from data: URLs.
 */
export const securityHeaders = {
  'cache-control': 'no-store',
  'content-security-policy':
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; base-uri 'none'; form-action 'none'; " +
    "frame-ancestors 'none'; object-src 'none'",
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'DENY',
};

/** Adds hooks: security headers, the bounds of a request's head, and what Host and Origin may say. */
export function checkCallers(app: FastifyInstance, allowedHosts: readonly string[]): void {
  const allowed = hostMatcher(allowedHosts);
  app.addHook('onRequest', async (request, reply) => {
    void reply.headers(securityHeaders);
    checkHead(request);
    if (probes.test(request.routeOptions.url ?? '')) return;
    const host = hostOf(request);
    if (!allowed(host.hostname)) {
      throw new Problem('forbidden', `the Host header says ${host.host}, which is not among ALLOWED_HOSTS`);
    }
    checkOrigin(request, host);
  });
}

function checkHead({ raw }: FastifyRequest): void {
  // RFC 9112, section 3, recommends to take 8,000 bytes at least. All in all, Node takes 16 KiB.
  if ((raw.url ?? '').length > urlBytesMax) {
    throw new Problem('uri_too_long', `the URL is longer than ${urlBytesMax} bytes`);
  }
  if (raw.rawHeaders.length > 2 * headersMax) {
    throw new Problem('headers_too_large', `there are more than ${headersMax} headers`);
  }
}

/** Against DNS rebinding: a page of a foreign site whose name suddenly leads here still says that name. */
function hostOf({ headers, raw }: FastifyRequest): URL {
  const given = headers.host ?? '';
  const url = /^[^\s/?#@\\]+$/.test(given) ? URL.parse(`http://${given}`) : null;
  const count = raw.rawHeaders.filter((text, index) => index % 2 === 0 && text.toLowerCase() === 'host').length;
  // RFC 9112, section 3.2
  if (url === null || count > 1) throw new Problem('bad_request', 'send one Host header, such as "localhost:3000"');
  return url;
}

/** Against cross-site request forgery: a browser says whose page asks; other clients say nothing. */
function checkOrigin({ method, headers: { origin } }: FastifyRequest, host: URL): void {
  if (origin === undefined || reading.test(method)) return;
  const page = URL.parse(origin);
  // A proxy may have taken TLS off: the scheme may differ, and with it the port that goes without saying.
  const own =
    page !== null && /^https?:$/.test(page.protocol) && page.host === URL.parse(`${page.protocol}//${host.host}`)?.host;
  if (!own) throw new Problem('forbidden', 'a page of another origin may not change anything here');
}
