/** Pieces that the schemas of orders are made of. */
import { Type, type Static, type TObject, type TSchema } from 'typebox';

export const closed = { additionalProperties: false } as const;

/** T with every default filled in. */
export type Filled<T> = { [K in keyof T]-?: Exclude<T[K], undefined> };

/** The value with the defaults of the schema's own fields where it says nothing. */
export function filled<T extends TObject>(schema: T, value: object): Filled<Static<T>> {
  const fields = Object.entries(schema.properties as Record<string, { default?: unknown }>);
  const defaults = fields.flatMap(([name, field]) => ('default' in field ? [[name, field.default]] : []));
  return { ...Object.fromEntries(defaults), ...value } as Filled<Static<T>>;
}

/** One of a list of words. */
export function literals<const T extends readonly string[]>(values: T, options: object = {}) {
  return Type.Unsafe<T[number]>({ type: 'string', enum: [...values], ...options });
}

/** An optional whole number with its default and bounds, both included. */
export function whole(description: string, value: number, minimum: number, maximum: number) {
  return Type.Optional(Type.Integer({ default: value, minimum, maximum, description }));
}

/** A value of a schema that has one `type`, or null. */
export function nullable<T extends TSchema & { type: string }>(schema: T) {
  return Type.Unsafe<Static<T> | null>({ ...schema, type: [schema.type, 'null'] });
}

export function count(description: string) {
  return Type.Integer({ minimum: 0, description });
}

export function time(description: string) {
  return Type.String({ format: 'date-time', description });
}

type SchemaId =
  | 'JobRequest'
  | 'JobPatch'
  | 'Job'
  | 'Failure'
  | 'ManifestFile'
  | 'VerifyLine'
  | 'Worker'
  | 'Upload'
  | 'Problem';

/** A reference to a schema by its `$id`, which the app registers: the document names it instead of repeating it. */
export function ref<T>(id: SchemaId) {
  return Type.Unsafe<T>({ $ref: `${id}#` });
}

/** `json-pointer` is checked where requests are (routes/validation.ts). */
export function pointer(description: string, options: object = {}) {
  return Type.String({ format: 'json-pointer', maxLength: 256, description, ...options });
}

/** An http or https URL; what a schema cannot say of it is in check-url.ts. */
export function url(description: string, options: object = {}) {
  return Type.String({ minLength: 1, maxLength: urlCharactersMax, description, ...options });
}

export const urlCharactersMax = 8192;
