/** Pieces that the schemas of orders are made of. */
import { Type } from 'typebox';

export const closed = { additionalProperties: false } as const;

/** T with every default filled in. */
export type Filled<T> = { [K in keyof T]-?: Exclude<T[K], undefined> };

/** One of a list of words. */
export function literals<const T extends readonly string[]>(values: T, options: object = {}) {
  return Type.Unsafe<T[number]>({ type: 'string', enum: [...values], ...options });
}

/** An optional whole number with its default and bounds, both included. */
export function whole(description: string, value: number, minimum: number, maximum: number) {
  return Type.Optional(Type.Integer({ default: value, minimum, maximum, description }));
}
