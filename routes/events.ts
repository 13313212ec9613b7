import type { ServerResponse } from 'node:http';
import type { Readable } from 'node:stream';
import type { FastifyPluginCallbackTypebox } from '@fastify/type-provider-typebox';
import type { FastifyReply } from 'fastify';
import { Type } from 'typebox';
import type { EventStream } from '../jobs/events.ts';
import { JobIdSchema, NoQuerySchema, type RouteOptions } from './parts.ts';
import { problemAnswers } from './problems.ts';

const mediaType = 'text/event-stream';
const tags = ['events'];

const eventTable = `| event | when | data |
|---|---|---|
| \`snapshot\` | first | the job (schema Job) as it is |
| \`progress\` | its counts, its speed or its settings have changed; at most two a second | the job |
| \`state\` | its \`state\` or \`pausedReason\` has changed, or it is new | the job |
| \`failure\` | files failed; the newest one, at most one a second | the file (schema Failure) |

Each has an \`id\`. The data is JSON on one line; a job is at most half a second old. Lines that begin with \`:\` only say that
the connection is alive, every 15 s. A reader that is too slow is cut off, and may ask again.`;

function eventAnswer(description: string) {
  const example = `retry: 1000\n\nevent: snapshot\nid: 1795168800120\ndata: {"id":"…","state":"running",…}\n\n`;
  const schema = Type.Unsafe<Readable>({ type: 'string', description: 'Server-sent events.', examples: [example] });
  return { description, content: { [mediaType]: { schema } } };
}

const watchJob = {
  operationId: 'watchJob',
  tags,
  summary: 'Watch a job',
  description: `Server-sent events (HTML Living Standard, 9.2) until the job's end:\n\n${eventTable}
\nAfter the \`state\` event that shows the job at its end the stream ends, and so it does where the job is deleted.`,
  params: JobIdSchema,
  querystring: NoQuerySchema,
  headers: Type.Object({
    'last-event-id': Type.Optional(
      Type.String({
        description: 'The `id` of the last event that was received. If that has shown the end of the job: 204.',
        examples: ['1795168800120'],
      }),
    ),
  }),
  response: {
    200: eventAnswer('The events of the job.'),
    204: Type.Null({ description: 'The job is at its end, and `Last-Event-ID` tells that this is known.' }),
    ...problemAnswers('not_found'),
  },
};

const watchJobs = {
  operationId: 'watchJobs',
  tags,
  summary: 'Watch all jobs',
  description: `The events of all jobs, without end: a \`snapshot\` of each one that is not at its end, then as for one job:
\n${eventTable}`,
  querystring: NoQuerySchema,
  response: { 200: eventAnswer('The events of all jobs.'), ...problemAnswers() },
};

// A HEAD request would open a stream; a client that goes away is no news.
const options = { exposeHeadRoute: false, logLevel: 'warn' } as const;

/** Shows jobs as they change: server-sent events. */
export const eventRoutes: FastifyPluginCallbackTypebox<RouteOptions> = (app, { service }, done) => {
  const open = new Map<ServerResponse, EventStream>();
  let closing = false;
  // Streams would keep the server from closing, for ever where their readers have stopped reading.
  app.addHook('preClose', async () => {
    closing = true;
    for (const [response, stream] of open) {
      if (response.writableLength > 0) response.destroy();
      else stream.finish();
    }
  });

  function send(reply: FastifyReply, stream: EventStream): FastifyReply {
    open.set(reply.raw, stream);
    stream.once('close', () => open.delete(reply.raw));
    if (closing) stream.finish();
    return (
      reply
        .type(mediaType)
        // Nothing follows on a connection whose stream has ended.
        .header('connection', 'close')
        // Else nginx would keep events back until it has enough of them.
        .header('x-accel-buffering', 'no')
        .send(stream)
    );
  }

  app.get('/jobs/:id/events', { schema: watchJob, ...options }, async ({ params, headers }, reply) => {
    const said = headers['last-event-id'] ?? '';
    const stream = await service.watch(params.id, /^\d{1,15}$/.test(said) ? Number(said) : null);
    return stream === null ? reply.code(204).send(null) : send(reply, stream);
  });

  app.get('/events', { schema: watchJobs, ...options }, async (_request, reply) =>
    send(reply, await service.watchAll()),
  );
  done();
};
