/** JSON Pointers (RFC 6901), taken apart once because they are followed for each item of a listing. */

export type JsonPointer = readonly string[];

/** `text`: a valid pointer, "" for the whole document. */
export function parsePointer(text: string): JsonPointer {
  const parts = text.split('/').slice(1);
  return parts.map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'));
}

/** The value that the pointer leads to in parsed JSON, undefined where there is none. */
export function follow(document: unknown, pointer: JsonPointer): unknown {
  let value = document;
  for (const part of pointer) {
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, part)) return undefined;
    if (Array.isArray(value) && !/^(?:0|[1-9]\d*)$/.test(part)) return undefined;
    value = (value as Record<string, unknown>)[part];
  }
  return value;
}
