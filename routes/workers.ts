import type { FastifyPluginCallbackTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import { ref, type WorkerInfo } from '../src/schemas.ts';
import { jsonAnswer, NoQuerySchema, type RouteOptions } from './parts.ts';
import { problemAnswers } from './problems.ts';

/** Shows the worker processes. */
export const workerRoutes: FastifyPluginCallbackTypebox<RouteOptions> = (app, { service }, done) => {
  app.get(
    '/workers',
    {
      schema: {
        operationId: 'listWorkers',
        tags: ['workers'],
        summary: 'List the workers',
        description: 'Every worker process, on any host, that gave a sign of life lately.',
        querystring: NoQuerySchema,
        response: {
          200: jsonAnswer('The workers.', Type.Object({ workers: Type.Array(ref<WorkerInfo>('Worker')) })),
          ...problemAnswers(),
        },
      },
    },
    async () => ({ workers: await service.workers() }),
  );
  done();
};
