import type { FastifyInstance } from 'fastify';
import { answerBrokenRequest } from './problems.ts';

/** Calls whose bodies may take as long as the server's own `requestTimeout` says. */
const patient = /^\/uploads$/;

/** Adds a hook: who has not sent a whole body after `msMax` is answered 408 and hung up on. Node's own bound is one for all. */
export function hurryBodies(app: FastifyInstance, msMax: number): void {
  app.addHook('onRequest', async ({ raw, routeOptions }, reply) => {
    const { 'content-length': length, 'transfer-encoding': transfer } = raw.headers;
    if ((length === undefined && transfer === undefined) || patient.test(routeOptions.url ?? '')) return;
    const timer = setTimeout(() => {
      if (raw.complete || reply.raw.headersSent) return;
      const error = Object.assign(new Error('the body was too slow'), { code: 'ERR_HTTP_REQUEST_TIMEOUT' });
      answerBrokenRequest(error, raw.socket);
    }, msMax).unref();
    reply.raw.once('close', () => clearTimeout(timer));
  });
}
