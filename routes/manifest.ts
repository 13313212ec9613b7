import type { Readable } from 'node:stream';
import type { FastifyPluginCallbackTypebox } from '@fastify/type-provider-typebox';
import { Type } from 'typebox';
import type { ManifestFile, VerifyLine } from '../src/manifest-schemas.ts';
import { ref } from '../src/schemas.ts';
import { JobIdSchema, NoQuerySchema, refuseBody, type RouteOptions } from './parts.ts';
import { problemAnswers } from './problems.ts';
import { streamSender } from './streams.ts';

const ndjson = 'application/x-ndjson';
const common = { tags: ['jobs'], params: JobIdSchema, querystring: NoQuerySchema };
const whose =
  'For jobs whose sink makes archives, or is a directory with `manifest: true`, and an API that has the `DATA_DIR` of the ' +
  'workers; else 409.';

/** Lines of JSON; to a client they are text. */
function lines(description: string, line: ReturnType<typeof ref>) {
  const schema = Type.Unsafe<Readable>({
    type: 'string',
    description: 'Lines of JSON, each of the schema that stands here for the content.',
    contentMediaType: 'application/json',
    contentSchema: line,
  });
  return { description, content: { [ndjson]: { schema } } };
}

const readManifest = {
  ...common,
  operationId: 'readManifest',
  summary: 'List every file of a job',
  description:
    `A line for each file that was downloaded or skipped, page by page, then one for each that failed. ${whose} While the ` +
    'job runs, it holds the pages that are done so far. A stream that breaks off ends without its last chunk.',
  response: {
    200: lines('The files.', ref<ManifestFile>('ManifestFile')),
    ...problemAnswers('not_found', 'conflict'),
  },
};

const verifyJob = {
  ...common,
  operationId: 'verifyJob',
  summary: 'Compare the stored files with the manifest',
  description:
    `For a job at its end. Reads every file (of a skipped one only its size is known) or every archive, to the last byte. ${whose} ` +
    'What is found wrong is told as it is found; a line at least once a second says how far it is; the last line is the ' +
    'summary. It ends when the caller goes away. Two at a time in each API process, else 429.',
  response: {
    200: lines('What was found; `ok` in the last line tells whether all is right.', ref<VerifyLine>('VerifyLine')),
    ...problemAnswers('not_found', 'conflict', 'body_too_large', 'unsupported_media_type'),
  },
};

/** Shows the manifest of a job, and compares the files with it. */
export const manifestRoutes: FastifyPluginCallbackTypebox<RouteOptions> = (app, { service }, done) => {
  const send = streamSender(app);

  // A HEAD request would read it all.
  app.get('/jobs/:id/manifest', { schema: readManifest, exposeHeadRoute: false }, async ({ params }, reply) =>
    send(reply, ndjson, await service.manifest(params.id)),
  );

  app.post('/jobs/:id/verify', { schema: verifyJob, preValidation: refuseBody }, async ({ params }, reply) =>
    send(reply, ndjson, await service.verify(params.id)),
  );
  done();
};
