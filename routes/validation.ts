/** Requests against their schemas, and what ajv finds said in plain words. */
import { Ajv, type ErrorObject } from 'ajv';
import type { FastifySchemaCompiler, FastifySchema } from 'fastify';
import type { FieldError } from '../src/errors.ts';

const errorsMax = 100;

/** A UUID as jobs are named by. */
export const jobId = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

const formats = {
  // RFC 6901, section 3. Without repeated groups: those exhaust the stack where a text has megabytes.
  'json-pointer': {
    validate: (text: string) => (text === '' || text.startsWith('/')) && !/~(?![01])/.test(text),
    must: 'must be a JSON Pointer (RFC 6901), such as "/FileNames", or ""',
  },
  'visible-ascii': { validate: /^[\x21-\x7e]+$/, must: 'must be visible ASCII characters, without spaces' },
  'job-cursor': { validate: jobId, must: 'must be a nextCursor as it was given' },
  // An id of a Redis stream
  'failure-cursor': { validate: /^\d{1,19}-\d{1,19}$/, must: 'must be a nextCursor as it was given' },
};

const types: Record<string, string> = {
  object: 'must be a JSON object',
  string: 'must be a string',
  integer: 'must be a whole number',
  'string,null': 'must be a string or null',
  array: 'must be a list',
  boolean: 'must be true or false',
  'string,object': 'must be a string or a JSON object',
};

/**
 * Compiles the schemas of requests; `shared` are those with an `$id`. Nothing is dropped or filled in. Only what is not
 * JSON is coerced: in a query and in headers everything is text.
 */
export function requestValidators(shared: readonly object[]): FastifySchemaCompiler<FastifySchema> {
  const common = {
    allErrors: true,
    verbose: true,
    discriminator: true,
    allowUnionTypes: true,
    formats,
    schemas: [...shared],
  };
  const json = new Ajv({ ...common });
  const text = new Ajv({ ...common, coerceTypes: true, useDefaults: true });
  return ({ schema, httpPart }) => (httpPart === 'body' ? json : text).compile(schema);
}

/** What ajv found, one entry a field and at most 100: each says what the field must be, never what it was. */
export function fieldErrors(found: readonly ErrorObject[]): FieldError[] {
  const byPointer = new Map<string, FieldError>();
  for (const error of found) {
    const explained = explain(error);
    if (!byPointer.has(explained.pointer)) byPointer.set(explained.pointer, explained);
    if (byPointer.size === errorsMax) break;
  }
  return [...byPointer.values()];
}

function explain(error: ErrorObject): FieldError {
  const { keyword, instancePath: pointer, params } = error;
  // `verbose` adds the schema that the keyword stands in.
  const schema = (error.parentSchema ?? {}) as Record<string, unknown>;
  switch (keyword) {
    case 'additionalProperties': {
      const known = Object.keys((schema['properties'] as object | undefined) ?? {});
      const detail =
        known.length === 0 ? 'is not known; there are none here' : `is not known; known are ${known.join(', ')}`;
      return { detail, pointer: below(pointer, params['additionalProperty']) };
    }
    case 'required':
      return { detail: 'is missing', pointer: below(pointer, params['missingProperty']) };
    case 'discriminator':
      return { detail: explainTag(params, schema), pointer: below(pointer, params['tag']) };
    case 'type':
      return { detail: types[String(params['type'])] ?? error.message ?? '', pointer };
    case 'minProperties':
      return { detail: 'must have at least one field', pointer };
    case 'enum':
      return { detail: `is not supported; supported are ${quoted(params['allowedValues'] as unknown[])}`, pointer };
    case 'minimum':
    case 'maximum':
      return { detail: `must be between ${Number(schema['minimum'])} and ${Number(schema['maximum'])}`, pointer };
    case 'minLength':
    case 'maxLength':
      return {
        detail: `must have ${Number(schema['minLength'] ?? 0)} to ${Number(schema['maxLength'])} characters`,
        pointer,
      };
    case 'format':
      return { detail: formats[params['format'] as keyof typeof formats].must, pointer };
    default:
      return { detail: error.message ?? 'is not as it must be', pointer };
  }
}

function explainTag(params: Record<string, unknown>, schema: Record<string, unknown>): string {
  if (params['error'] === 'tag') return 'must be a string';
  const branches = schema['oneOf'] as { properties: Record<string, { const: unknown }> }[];
  return `is not supported; supported are ${quoted(branches.map(({ properties }) => properties[String(params['tag'])]?.const))}`;
}

function quoted(values: readonly unknown[]): string {
  return values.map((value) => JSON.stringify(value)).join(', ');
}

/** RFC 6901, section 3: `~` and `/` in a name are escaped. */
function below(pointer: string, name: unknown): string {
  return `${pointer}/${String(name).replaceAll('~', '~0').replaceAll('/', '~1')}`;
}
