import { pipeline, Readable } from 'node:stream';
import type { FastifyPluginCallbackTypebox } from '@fastify/type-provider-typebox';
import { stringify } from 'csv-stringify';
import { Type } from 'typebox';
import { badRequest, Problem } from '../src/errors.ts';
import { FailureReasonSchema, FailureSchema, ref, type Failure } from '../src/schemas.ts';
import { cursorSchema, JobIdSchema, NextCursorSchema, type RouteOptions } from './parts.ts';
import { problemAnswers } from './problems.ts';
import { streamSender } from './streams.ts';

const json = 'application/json';
const ndjson = 'application/x-ndjson';
const csv = 'text/csv';
const columns = Object.keys(FailureSchema.properties);

/** What is sent as a stream; to a client it is text. */
function streamed(description: string) {
  return { schema: Type.Unsafe<Readable>({ type: 'string', description }) };
}

const listFailures = {
  operationId: 'listFailures',
  tags: ['jobs'],
  summary: 'List the files a job gave up',
  description:
    `Oldest first. \`Accept: ${ndjson}\` or \`${csv}\` streams all of them, and then takes no \`limit\` or ` +
    '`cursor`. A stream that breaks off ends without its last chunk.',
  params: JobIdSchema,
  querystring: Type.Object(
    {
      reason: Type.Optional(FailureReasonSchema),
      limit: Type.Optional(
        Type.Integer({ minimum: 1, maximum: 1000, description: 'At most so many failures; default: 100.' }),
      ),
      cursor: cursorSchema('failure-cursor'),
    },
    { additionalProperties: false },
  ),
  response: {
    200: {
      description: 'The failures.',
      content: {
        [json]: {
          schema: Type.Object({ failures: Type.Array(ref<Failure>('Failure')), nextCursor: NextCursorSchema }),
        },
        [ndjson]: streamed('A failure as JSON in each line.'),
        [csv]: streamed(`RFC 4180, with the header line ${columns.join(',')}.`),
      },
    },
    ...problemAnswers('not_found', 'not_acceptable'),
  },
};

/** Shows the files a job gave up: page by page, or all of them as a stream of flat memory. */
export const failureRoutes: FastifyPluginCallbackTypebox<RouteOptions> = (app, { service }, done) => {
  const send = streamSender(app);

  app.get('/jobs/:id/failures', { schema: listFailures }, async (request, reply) => {
    const { limit, cursor, ...query } = request.query;
    const type = request.accepts().type([json, ndjson, csv]);
    if (type === json) {
      const page = { ...query, limit: limit ?? 100, ...(cursor === undefined ? {} : { cursor }) };
      return service.failures(request.params.id, page);
    }
    if (type !== ndjson && type !== csv) {
      throw new Problem('not_acceptable', `offered are ${json}, ${ndjson} and ${csv}`);
    }
    refusePaging({ limit, cursor });
    const batches = service.allFailures(request.params.id, query);
    const stream = type === ndjson ? Readable.from(lines(batches)) : csvOf(batches);
    return send(reply, type, stream);
  });
  done();
};

function refusePaging(query: Record<string, unknown>): void {
  const given = Object.keys(query).filter((name) => query[name] !== undefined);
  if (given.length === 0) return;
  throw badRequest(given.map((name) => ({ detail: 'is not for a stream: it holds all', pointer: `/${name}` })));
}

async function* lines(batches: AsyncIterable<Failure[]>): AsyncGenerator<string> {
  for await (const batch of batches) yield batch.map((failure) => `${JSON.stringify(failure)}\n`).join('');
}

async function* rows(batches: AsyncIterable<Failure[]>): AsyncGenerator<Failure> {
  for await (const batch of batches) yield* batch;
}

function csvOf(batches: AsyncIterable<Failure[]>): Readable {
  // An error of one ends the other; who reads the second hears of it.
  return pipeline(rows(batches), stringify({ header: true, columns, record_delimiter: 'windows' }), () => {});
}
