import type { FastifyInstance, FastifyPluginCallback } from 'fastify';
import { Counter, Registry } from '@prometheus-io/client';
import type { JobService } from '../jobs/service.ts';
import { addGauge, addWork, exposition, expositionType, processMetrics } from '../src/metrics.ts';
import { NoQuerySchema, type RouteOptions } from './parts.ts';
import { problemAnswers } from './problems.ts';

/** It does nothing most of the time, and shall cost nothing then. */
const LAG_LOOK_MS = 20;

/** Adds a hook that counts the calls of this process, by route templates: paths are without number. */
export function countCalls(app: FastifyInstance): Registry {
  processMetrics(LAG_LOOK_MS);
  const registry = new Registry();
  const calls = new Counter({
    name: 'gigafetch_api_requests_total',
    help: 'Calls that this API process answered, by the class of their status.',
    labelNames: ['method', 'route', 'status'],
    registers: [registry],
  });
  app.addHook('onResponse', async ({ method, routeOptions }, { statusCode }) => {
    calls.inc({ method, route: routeOptions.url ?? 'none', status: `${Math.trunc(statusCode / 100)}xx` });
  });
  return registry;
}

const getMetrics = {
  operationId: 'getMetrics',
  tags: ['workers'],
  summary: 'Show figures for Prometheus',
  description:
    'Of the whole service, and of this API process (`gigafetch_api_…`, `process_…`, `nodejs_…`). What workers did is ' +
    'counted as they tell it, once a second, and never goes back; the counts of a job are exact, these are not quite: ' +
    'a page that is run again is counted again, and the last second of a worker that was killed is lost.',
  querystring: NoQuerySchema,
  response: {
    200: {
      description: "The figures, in Prometheus's text format.",
      content: { 'text/plain': { schema: { type: 'string' } } },
    },
    ...problemAnswers(),
  },
};

interface MetricsRouteOptions extends RouteOptions {
  /** What `countCalls` gave. */
  readonly calls: Registry;
}

/** Shows the figures. */
export const metricsRoutes: FastifyPluginCallback<MetricsRouteOptions> = (app, { service, calls }, done) => {
  app.get('/metrics', { schema: getMetrics }, async (_request, reply) => {
    const text = await exposition(clusterMetrics(await service.figures()), calls, processMetrics());
    return reply.type(expositionType).send(text);
  });
  done();
};

function clusterMetrics(figures: Awaited<ReturnType<JobService['figures']>>): Registry {
  const registry = new Registry();
  addWork(registry, 'gigafetch', figures.counts);
  addGauge(registry, 'gigafetch_workers', 'Workers that live.', figures.workers);
  addGauge(registry, 'gigafetch_active_jobs', 'Jobs that are not at their end.', { state: figures.jobs });
  addGauge(registry, 'gigafetch_pages_in_work', 'Pages that workers have in work.', figures.pagesInWork);
  addGauge(registry, 'gigafetch_pages_in_flight', 'Pages that are known and not done.', figures.pagesInFlight);
  addGauge(registry, 'gigafetch_pages_queued', 'Pages that wait for a worker.', { state: figures.hints });
  return registry;
}
