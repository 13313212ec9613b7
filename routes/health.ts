import type { FastifyPluginCallbackTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import { jsonAnswer, type RouteOptions } from './parts.ts';
import { problemAnswer } from './problems.ts';

const tags = ['health'];
const ok = jsonAnswer('It is.', Type.Object({ status: Type.Literal('ok') }));

/** What a container platform asks; no token is needed. */
export const healthRoutes: FastifyPluginCallbackTypebox<RouteOptions> = (app, { service }, done) => {
  app.get(
    '/livez',
    {
      schema: {
        operationId: 'live',
        tags,
        summary: 'Is the process alive?',
        description: 'Whatever the state of Redis: a restart of the API would not help there.',
        security: [],
        response: { 200: ok },
      },
    },
    async () => ({ status: 'ok' }) as const,
  );

  app.get(
    '/readyz',
    {
      schema: {
        operationId: 'ready',
        tags,
        summary: 'Can it do its work?',
        description: 'Asks Redis.',
        security: [],
        response: { 200: ok, ...problemAnswer('unavailable') },
      },
    },
    async () => {
      await service.ping();
      return { status: 'ok' } as const;
    },
  );
  done();
};
