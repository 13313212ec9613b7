import type { FastifyPluginCallbackTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import { FailureReasonSchema, ref, type Job, type JobPatch } from '../src/schemas.ts';
import { JobIdSchema, jsonAnswer, NoQuerySchema, refuseBody, type RouteOptions } from './parts.ts';
import { problemAnswers } from './problems.ts';

const JobRef = ref<Job>('Job');
const common = { tags: ['jobs'], params: JobIdSchema };
const problems = problemAnswers('not_found', 'conflict', 'body_too_large', 'unsupported_media_type');

function steer(verb: string, summary: string, description: string) {
  return {
    ...common,
    operationId: `${verb}Job`,
    summary,
    description,
    querystring: NoQuerySchema,
    response: { 202: jsonAnswer('Every worker knows within a second.', JobRef), ...problems },
  };
}

const verbs = {
  pause: steer(
    'pause',
    'Let a job wait',
    'No new request is made, those in flight are given up, and half-done pages are let go of: after `resume` what was stored ' +
      'is not fetched again. A job that is paused already is answered as it is.',
  ),
  resume: steer(
    'resume',
    'Let a paused job go on',
    'Also one that paused itself. A job that runs already is answered as it is.',
  ),
  cancel: steer(
    'cancel',
    'End a job before its time',
    'What is stored stays, whole files only. A cancelled job cannot go on. One that is cancelled already is answered as it is.',
  ),
};

const retryJob = {
  ...common,
  operationId: 'retryJob',
  summary: 'Fetch again what failed',
  description:
    'In the same job: the files that failed, and a listing that could not be read from the page where it stood. Only for a ' +
    'job at its end. What the listing named but is no file to fetch (`bad_item`, `unsafe_name`, one name with two URLs) stays ' +
    'failed.',
  querystring: Type.Object(
    {
      reason: Type.Optional(FailureReasonSchema),
      statusCode: Type.Optional(
        Type.Integer({ minimum: 100, maximum: 599, description: 'Only files that failed with this HTTP status.' }),
      ),
    },
    { additionalProperties: false },
  ),
  response: { 202: jsonAnswer('The job goes on.', JobRef), ...problems },
};

const changeJob = {
  ...common,
  operationId: 'changeJob',
  summary: 'Change a job while it runs',
  description:
    'Every worker goes by it within a second; requests in flight end as they were begun. Also for a job that failed, before ' +
    'it is retried.',
  querystring: NoQuerySchema,
  body: ref<JobPatch>('JobPatch'),
  response: { 200: jsonAnswer('The job as it is now.', JobRef), ...problems },
};

/** Pauses, resumes, cancels, retries and changes jobs. */
export const steeringRoutes: FastifyPluginCallbackTypebox<RouteOptions> = (app, { service }, done) => {
  for (const verb of ['pause', 'resume', 'cancel'] as const) {
    const schema = verbs[verb];
    app.post(`/jobs/:id/${verb}`, { schema, preValidation: refuseBody }, async ({ params }, reply) =>
      reply.code(202).send(await service.steer(params.id, verb)),
    );
  }

  app.post('/jobs/:id/retry', { schema: retryJob, preValidation: refuseBody }, async ({ params, query }, reply) => {
    const { reason = null, statusCode = null } = query;
    return reply.code(202).send(await service.retry(params.id, { reason, statusCode }));
  });

  app.patch('/jobs/:id', { schema: changeJob }, ({ params, body }) => service.change(params.id, body));
  done();
};
