/** Answers by their schemas. */
import fastJsonStringify, { type Schema } from 'fast-json-stringify';
import type { FastifySchema, FastifySerializerCompiler } from 'fastify';

type Serialize = (answer: unknown) => string;

/**
 * Compiles the schemas of answers; `shared` has those with an `$id`. Each once, where Fastify by itself does so for each
 * route and status anew: to compile the one schema of all problems took a third of the API's start.
 */
export function responseSerializers(shared: Record<string, unknown>): FastifySerializerCompiler<FastifySchema> {
  const options = { schema: shared as Record<string, Schema> };
  const compiled = new Map<string, Serialize>();
  return ({ schema }) => {
    const key = JSON.stringify(schema);
    const serialize = compiled.get(key) ?? fastJsonStringify(schema as Schema, options);
    compiled.set(key, serialize);
    return serialize;
  };
}
