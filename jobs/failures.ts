import type { FailureReason } from '../src/errors.ts';
import type { Failure } from '../src/schemas.ts';

const MESSAGE_CHARACTERS_MAX = 1000;

/** A failure as it is kept in Redis: short, since there may be a hundred thousand of them, and one line. */
export function packFailure(failure: Failure): string {
  const { name, url, reason, statusCode, attempts, message, at } = failure;
  return JSON.stringify([name.toWellFormed(), url, reason, statusCode, attempts, short(message), Date.parse(at)]);
}

/** What `packFailure` packed. */
export function unpackFailure(packed: string): Failure {
  const [name, url, reason, statusCode, attempts, message, at] = JSON.parse(packed) as [
    string,
    string | null,
    FailureReason,
    number | null,
    number,
    string,
    number,
  ];
  return { name, url, reason, statusCode, attempts, message, at: new Date(at).toISOString() };
}

function short(text: string): string {
  return text.slice(0, MESSAGE_CHARACTERS_MAX).toWellFormed();
}
