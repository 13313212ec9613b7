import type { FastifyPluginCallbackTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import { checkJob } from '../src/check-job.ts';
import { badRequest } from '../src/errors.ts';
import type { AddressPolicy } from '../src/ssrf.ts';
import { JobStateSchema, ref, type Job, type JobRequest } from '../src/schemas.ts';
import {
  cursorSchema,
  JobIdSchema,
  jsonAnswer,
  NextCursorSchema,
  NoQuerySchema,
  refuseBody,
  type RouteOptions,
} from './parts.ts';
import { problemAnswers } from './problems.ts';

const tags = ['jobs'];
const JobRef = ref<Job>('Job');

const createJob = {
  operationId: 'createJob',
  tags,
  summary: 'Order a download job',
  description:
    'The job is stored before this answers; from then on it goes on by itself, whatever is restarted. With an ' +
    '`Idempotency-Key` the call can be repeated safely: for 24 hours the same key and body give the first job again. ' +
    'A sink path that an active job writes to is a 409.',
  headers: Type.Object({
    'idempotency-key': Type.Optional(
      Type.String({
        minLength: 1,
        maxLength: 255,
        format: 'visible-ascii',
        description: 'Chosen by the client: 1 to 255 visible ASCII characters.',
      }),
    ),
  }),
  querystring: NoQuerySchema,
  body: ref<JobRequest>('JobRequest'),
  response: {
    202: jsonAnswer('The job was accepted, now or before under this key.', JobRef, {
      Location: { type: 'string', description: 'The path of the job.' },
      'Idempotency-Replayed': { type: 'string', enum: ['true'], description: 'It had been accepted before.' },
    }),
    ...problemAnswers('conflict', 'body_too_large', 'unsupported_media_type', 'idempotency_conflict'),
  },
};

const listJobs = {
  operationId: 'listJobs',
  tags,
  summary: 'List the jobs',
  description: 'Newest first.',
  querystring: Type.Object(
    {
      state: Type.Optional(JobStateSchema),
      limit: Type.Integer({ default: 20, minimum: 1, maximum: 100, description: 'At most so many jobs.' }),
      cursor: cursorSchema('job-cursor'),
    },
    { additionalProperties: false },
  ),
  response: {
    200: jsonAnswer('A page of jobs.', Type.Object({ jobs: Type.Array(JobRef), nextCursor: NextCursorSchema })),
    ...problemAnswers(),
  },
};

const getJob = {
  operationId: 'getJob',
  tags,
  summary: 'Show a job and how far it is',
  description: 'The headers that the job sends are not shown.',
  params: JobIdSchema,
  querystring: NoQuerySchema,
  response: { 200: jsonAnswer('The job.', JobRef), ...problemAnswers('not_found') },
};

const deleteJob = {
  operationId: 'deleteJob',
  tags,
  summary: 'Forget a finished job',
  description: "The job's record and its failures go; the files it stored stay. An active job is a 409.",
  params: JobIdSchema,
  querystring: NoQuerySchema,
  response: {
    204: Type.Null({ description: 'It is gone.' }),
    ...problemAnswers('not_found', 'conflict', 'body_too_large', 'unsupported_media_type'),
  },
};

interface JobRouteOptions extends RouteOptions {
  /** Addresses that jobs may be ordered from. */
  readonly mayReach: AddressPolicy;
}

/** Orders, shows and deletes jobs. */
export const jobRoutes: FastifyPluginCallbackTypebox<JobRouteOptions> = (app, { service, mayReach }, done) => {
  app.post('/jobs', { schema: createJob }, async (request, reply) => {
    const errors = checkJob(request.body, mayReach);
    if (errors.length > 0) throw badRequest(errors);
    const { job, replayed } = await service.create(request.body, request.headers['idempotency-key'] ?? null);
    if (replayed) void reply.header('idempotency-replayed', 'true');
    return reply.code(202).header('location', job.links.self).send(job);
  });

  app.get('/jobs', { schema: listJobs }, ({ query }) => service.list(query));

  app.get('/jobs/:id', { schema: getJob }, ({ params }) => service.get(params.id));

  app.delete('/jobs/:id', { schema: deleteJob, preValidation: refuseBody }, async ({ params }, reply) => {
    await service.delete(params.id);
    return reply.code(204).send(null);
  });
  done();
};
