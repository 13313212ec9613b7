/** Parts that the schemas of several calls share. */
import { Type, type TSchema } from 'typebox';
import type { FastifyRequest } from 'fastify';
import type { JobService } from '../jobs/service.ts';
import { badRequest } from '../src/errors.ts';
import { jobId } from './validation.ts';

/** What the routes call. */
export interface RouteOptions {
  readonly service: JobService;
}

export const JobIdSchema = Type.Object({
  id: Type.String({
    pattern: jobId.source,
    description: "The job's id, a UUID.",
    examples: ['019a9f3c-6c2e-7d4b-9f60-2b8c1d7e5a43'],
  }),
});

/** For calls that take no query: an unknown parameter is refused, not ignored. */
export const NoQuerySchema = Type.Object({}, { additionalProperties: false });

/** `format`: of the table in validation.ts. */
export function cursorSchema(format: 'job-cursor' | 'failure-cursor') {
  return Type.Optional(Type.String({ format, description: 'The `nextCursor` of the page before.' }));
}

export const NextCursorSchema = Type.Unsafe<string | null>({
  type: ['string', 'null'],
  description: 'The `cursor` of the next page, null on the last one.',
});

/** A JSON answer in the `response` part of a route's schema. */
export function jsonAnswer<T extends TSchema>(description: string, schema: T, headers: object = {}) {
  return { description, headers, content: { 'application/json': { schema } } };
}

/** A hook that throws Problem `bad_request` where a call that takes no body has one that says something. */
export async function refuseBody({ body }: FastifyRequest): Promise<void> {
  const empty = typeof body === 'object' && body !== null && !Array.isArray(body) && Object.keys(body).length === 0;
  if (body !== undefined && !empty) throw badRequest([{ detail: 'must be empty: this call takes none', pointer: '' }]);
}
