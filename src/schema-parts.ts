/** Pieces that the schemas of orders are made of. */
import { Type, type Static, type TObject } from 'typebox';
import { Value } from 'typebox/value';

export const closed = { additionalProperties: false } as const;

/** T with every default filled in. */
export type Filled<T> = { [K in keyof T]-?: Exclude<T[K], undefined> };

/** The value with the defaults of the schema where it says nothing. */
export function filled<T extends TObject>(schema: T, value: object): Filled<Static<T>> {
  return Value.Default(schema, value) as Filled<Static<T>>;
}

/** One of a list of words. */
export function literals<const T extends readonly string[]>(values: T, options: object = {}) {
  return Type.Unsafe<T[number]>({ type: 'string', enum: [...values], ...options });
}

/** An optional whole number with its default and bounds, both included. */
export function whole(description: string, value: number, minimum: number, maximum: number) {
  return Type.Optional(Type.Integer({ default: value, minimum, maximum, description }));
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
