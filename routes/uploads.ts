/** Lists of URLs, too large for an order: they come as streams and are never held. */
import type { Readable } from 'node:stream';
import type { FastifyPluginCallbackTypebox } from '@fastify/type-provider-typebox';
import { Problem } from '../src/errors.ts';
import type { ListFormat } from '../src/records.ts';
import { ref } from '../src/schemas.ts';
import type { Upload } from '../src/url-files.ts';
import { jsonAnswer, NoQuerySchema, type RouteOptions } from './parts.ts';
import { problemAnswers } from './problems.ts';

/** Each holds a connection and writes to the disk. */
const uploadsAtOnceMax = 8;
const retryAfterSeconds = 10;

/** Packed lists whose own type is not said are text. */
const formats: Record<string, ListFormat> = {
  'text/plain': 'text',
  'text/tab-separated-values': 'text',
  'text/csv': 'csv',
  'application/x-ndjson': 'ndjson',
  'application/gzip': 'text',
  'application/zstd': 'text',
};
const offered = Object.keys(formats).join(', ');
const codings = /^(|identity|gzip|x-gzip|zstd)$/i;

const createUpload = {
  operationId: 'createUpload',
  tags: ['jobs'],
  summary: 'Send a list of URLs for a job',
  description:
    'The list is stored as it comes, unpacked, at most `MAX_UPLOAD_BYTES` of it. A job takes it by `source.uploadId`; one ' +
    'that no job takes goes after a day. Whether it is packed (gzip, zstd) is seen from its first bytes, with a ' +
    '`Content-Encoding` or without. `text/plain`, `text/tab-separated-values`: a line is a URL, or a URL, a tab and a ' +
    'name; `text/csv`: with a header line; `application/x-ndjson`: a line is a string or an object.',
  querystring: NoQuerySchema,
  // The stream is the handler's to check.
  body: {
    content: Object.fromEntries(Object.keys(formats).map((type) => [type, { schema: { description: 'The list.' } }])),
  },
  response: {
    201: jsonAnswer('The list is stored.', ref<Upload>('Upload')),
    ...problemAnswers('body_too_large', 'unsupported_media_type'),
  },
};

/** Takes uploads. */
export const uploadRoutes: FastifyPluginCallbackTypebox<RouteOptions> = (app, { service }, done) => {
  let receiving = 0;
  app.removeAllContentTypeParsers();
  app.addContentTypeParser(Object.keys(formats), (_request: unknown, body: Readable, parsed) => parsed(null, body));
  app.addContentTypeParser('*', async () => {
    throw unsupported();
  });

  app.post<{ Body: Readable | undefined }>('/uploads', { schema: createUpload }, async (request, reply) => {
    // What is not read to its end leaves the connection of no use.
    void reply.header('connection', 'close');
    const { headers, body } = request;
    const [type = ''] = (headers['content-type'] ?? '').toLowerCase().split(/[; ]/, 1);
    const format = formats[type];
    if (format === undefined || body === undefined || !codings.test(headers['content-encoding'] ?? '')) {
      throw unsupported();
    }
    if (receiving >= uploadsAtOnceMax) {
      throw new Problem('too_many_requests', `${receiving} uploads are coming in already`, { retryAfterSeconds });
    }
    receiving += 1;
    try {
      const upload = await service.upload(body, format);
      return await reply.removeHeader('connection').code(201).send(upload);
    } finally {
      receiving -= 1;
    }
  });
  done();
};

function unsupported(): Problem {
  const packed = 'packed by gzip or zstd or not';
  return new Problem('unsupported_media_type', `send one of ${offered}, ${packed}`);
}
