/** Bodies of requests: JSON, within bounds that are checked before anything is made of it. */
import type { FastifyInstance } from 'fastify';
import { Problem } from '../src/errors.ts';

/** Also in answers: they say it in MB. */
export const bodyBytesMax = 10 * 1024 * 1024;
const depthMax = 32;
/** Several times of what the largest job has; a body of a million would cost half a gigabyte to refuse field by field. */
const valuesMax = 50_000;

const [quote, backslash, comma] = [0x22, 0x5c, 0x2c];
const [openBracket, closeBracket, openBrace, closeBrace] = [0x5b, 0x5d, 0x7b, 0x7d];

/** JSON, or nothing at all, whatever it is declared as: calls without a body are made in many ways. */
export function parseBodies(app: FastifyInstance): void {
  const parseJson = app.getDefaultJsonParser('error', 'error');
  app.removeAllContentTypeParsers();
  app.addContentTypeParser<string>('application/json', { parseAs: 'string' }, (request, body, done) => {
    const excess = excessOf(body);
    if (body === '') done(null);
    else if (excess !== null)
      done(new Problem('bad_request', `the body ${excess}`, { errors: [{ detail: excess, pointer: '' }] }));
    else void parseJson(request, body, done);
  });
  app.addContentTypeParser('*', async ({ headers }: { headers: Record<string, unknown> }) => {
    if (headers['content-length'] !== '0')
      throw new Problem('unsupported_media_type', 'send JSON with "content-type: application/json"');
  });
}

/** In which way a JSON text is out of bounds, null where it is not. Whether it is JSON at all is not checked. */
function excessOf(text: string): string | null {
  let depth = 0;
  let values = 0;
  let inString = false;
  for (let index = 0; index < text.length; index += 1) {
    const character = text.charCodeAt(index);
    if (inString) {
      if (character === backslash) index += 1;
      else if (character === quote) inString = false;
    } else if (character === quote) {
      inString = true;
    } else if (character === comma) {
      values += 1;
    } else if (character === openBracket || character === openBrace) {
      depth += 1;
      values += 1;
      if (depth > depthMax) return `is nested more than ${depthMax} levels deep`;
    } else if (character === closeBracket || character === closeBrace) {
      depth -= 1;
    }
    if (values > valuesMax) return `holds more than ${valuesMax} values`;
  }
  return null;
}
