/** The API as a Fastify application: everything but the process around it. */
import { maxHeaderSize } from 'node:http';
import { fastifyAccepts } from '@fastify/accepts';
import { fastifySwagger } from '@fastify/swagger';
import { fastifySwaggerUi } from '@fastify/swagger-ui';
import { fastify, LogController, type FastifyBaseLogger, type FastifyInstance } from 'fastify';
import manifest from '../package.json' with { type: 'json' };
import { BearerTokens } from '../routes/auth.ts';
import { bodyBytesMax, parseBodies } from '../routes/bodies.ts';
import { checkCallers, securityHeaders } from '../routes/callers.ts';
import { eventRoutes } from '../routes/events.ts';
import { failureRoutes } from '../routes/failures.ts';
import { healthRoutes } from '../routes/health.ts';
import { jobRoutes } from '../routes/jobs.ts';
import { manifestRoutes } from '../routes/manifest.ts';
import { countCalls, metricsRoutes } from '../routes/metrics.ts';
import type { RouteOptions } from '../routes/parts.ts';
import { answerBrokenRequest, answerError, answerNotFound } from '../routes/problems.ts';
import { queuesUi } from '../routes/queues.ts';
import { limitCalls, type CallLimiter } from '../routes/rate-limit.ts';
import { requestId, traceCalls } from '../routes/request-id.ts';
import { responseSerializers } from '../routes/serialization.ts';
import { hurryBodies } from '../routes/slow-bodies.ts';
import { steeringRoutes } from '../routes/steering.ts';
import { uploadRoutes } from '../routes/uploads.ts';
import { requestValidators } from '../routes/validation.ts';
import { workerRoutes } from '../routes/workers.ts';
import type { Config } from './config.ts';
import { Problem } from './errors.ts';
import { ManifestFileSchema, VerifyLineSchema } from './manifest-schemas.ts';
import {
  FailureSchema,
  JobPatchSchema,
  JobRequestSchema,
  JobSchema,
  ProblemSchema,
  UploadSchema,
  WorkerInfoSchema,
} from './schemas.ts';
import { addressPolicy } from './ssrf.ts';

const headersMsMax = 10_000;
const bodyMsMax = 60_000;
const uploadMsMax = 3_600_000;
const silenceMsMax = 60_000;
const connectionsMax = 10_000;
const shared = [
  JobRequestSchema,
  JobPatchSchema,
  JobSchema,
  FailureSchema,
  ManifestFileSchema,
  VerifyLineSchema,
  UploadSchema,
  WorkerInfoSchema,
  ProblemSchema,
];

export interface AppOptions extends RouteOptions {
  readonly config: Pick<Config, 'apiTokens' | 'allowedHosts' | 'allowedNetworks' | 'queuesUi'>;
  readonly limiter: Pick<CallLimiter, 'count'>;
  readonly logger: FastifyBaseLogger;
}

/**
 * Builds the API; it does not listen yet. It keeps nothing that another API process on the same Redis would need.
 * `close` ends open streams, lets other answers finish and does not close `service`.
 */
export function buildApp({ config, service, limiter, logger }: AppOptions): FastifyInstance {
  const app: FastifyInstance = fastify({
    loggerInstance: logger,
    genReqId: requestId,
    // What is polled several times a second would fill a log with nothing else.
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: bodyBytesMax,
    // A longer id is as unknown as any: Node's bound on a request's head is the only one.
    routerOptions: { maxParamLength: maxHeaderSize },
    // Fastify's own answer while it closes is no application/problem+json: see below.
    return503OnClosing: false,
    // Slow callers hold a connection for so long at most.
    requestTimeout: uploadMsMax,
    connectionTimeout: silenceMsMax,
    // Here, and not by Node, a request without Host gets its answer.
    http: { headersTimeout: headersMsMax, connectionsCheckingInterval: 1000, requireHostHeader: false },
    clientErrorHandler: answerBrokenRequest,
    frameworkErrors: (error, request, reply) => void answerError(error, request, reply.headers(securityHeaders)),
  });
  app.server.maxConnections = connectionsMax;
  const tokens = new BearerTokens(config.apiTokens);
  traceCalls(app);
  const calls = countCalls(app);
  hurryBodies(app, bodyMsMax);
  checkCallers(app, config.allowedHosts);
  refuseWhileClosing(app);
  app.addHook('onRequest', limitCalls(limiter, tokens.digestOf));
  app.addHook('onRequest', tokens.require);
  app.setErrorHandler(answerError);
  app.setNotFoundHandler(answerNotFound);
  app.setValidatorCompiler(requestValidators([JobRequestSchema, JobPatchSchema]));
  for (const schema of shared) app.addSchema(schema);
  app.setSerializerCompiler(responseSerializers(app.getSchemas()));
  parseBodies(app);
  void app.register(fastifyAccepts);
  describe(app);
  void app.register(jobRoutes, { service, mayReach: addressPolicy(config.allowedNetworks) });
  void app.register(steeringRoutes, { service });
  void app.register(failureRoutes, { service });
  void app.register(manifestRoutes, { service });
  void app.register(eventRoutes, { service });
  void app.register(uploadRoutes, { service });
  void app.register(workerRoutes, { service });
  void app.register(metricsRoutes, { service, calls });
  void app.register(healthRoutes, { service });
  if (config.queuesUi) void app.register(queuesUi, { service });
  return app;
}

function refuseWhileClosing(app: FastifyInstance): void {
  let closing = false;
  app.addHook('preClose', async () => {
    closing = true;
  });
  app.addHook('onRequest', async () => {
    if (closing) throw new Problem('unavailable', 'this API process is about to end');
  });
  // A connection that was busy when idle ones were closed would be kept open for the client's next request.
  app.addHook('onSend', async (_request, reply) => {
    if (closing) void reply.header('connection', 'close');
  });
}

/** The OpenAPI document and Swagger UI. */
function describe(app: FastifyInstance): void {
  void app.register(fastifySwagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'Gigafetch',
        version: manifest.version,
        description:
          'Downloads very many small files and loses none. A job names a listing and a sink; the service walks the ' +
          'listing page by page, fetches every file with as many workers as there are, and says at every moment how ' +
          'far it is.',
        license: { name: 'MIT', identifier: 'MIT' },
      },
      servers: [{ url: '/', description: 'This service.' }],
      tags: [
        { name: 'jobs', description: 'Order downloads, and see how far they are.' },
        { name: 'events', description: 'See what happens while it happens.' },
        { name: 'workers', description: 'The processes that download, and figures of what they do.' },
        { name: 'health', description: 'For container platforms.' },
      ],
      security: [{ bearer: [] }],
      components: {
        securitySchemes: {
          bearer: { type: 'http', scheme: 'bearer', description: 'One of API_TOKENS, where those are set.' },
        },
      },
    },
    refResolver: {
      buildLocalReference: ({ $id }, _base, _fragment, index) => (typeof $id === 'string' ? $id : `def-${index}`),
    },
    transformObject: (document) =>
      'openapiObject' in document ? withoutDiscriminators(document.openapiObject) : document.swaggerObject,
  });
  void app.register(fastifySwaggerUi, { routePrefix: '/docs' });
  void app.register(async (app) => {
    app.get('/openapi.json', { schema: { hide: true } }, () => app.swagger());
  });
}

/**
 * The document without ajv's `discriminator`, which goes by inline schemas as OpenAPI's does not; `const` says the same
 * there. What has one branch alone is shown as that branch.
 */
function withoutDiscriminators<T>(document: T): T {
  const text = JSON.stringify(document, (_key, value: unknown) => {
    // Fastify wants the names of headers in lower case.
    if (value === 'idempotency-key') return 'Idempotency-Key';
    if (value === 'last-event-id') return 'Last-Event-ID';
    if (typeof value !== 'object' || value === null || !('discriminator' in value)) return value;
    const { discriminator: _, oneOf, description, ...rest } = value as Record<string, unknown>;
    const [branch, ...others] = oneOf as object[];
    return others.length === 0 ? { ...branch, description } : { ...rest, description, oneOf };
  });
  return JSON.parse(text) as T;
}
