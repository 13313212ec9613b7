/** Whether a server still has the file that was stored: what is noted of its answer, and asked by (RFC 9110, 8.8 and 13). Pure. */
import { hash } from 'node:crypto';
import { readHttpDate, type AnswerHeaders } from './answers.ts';

/** What makes a request conditional: a header, ready to be sent. */
export type Condition = readonly [name: 'if-none-match' | 'if-modified-since', value: string];

const valueLengthMax = 1024;
const settledMs = 60_000;
const etag = /^(?:W\/)?"[!#-~]*"$/;
const sendable = /^[ -~]+$/;
const noted = /^(\S+) (if-none-match|if-modified-since) ([ -~]+)$/;
/** They change from job to job, and are not what a server tells variants of a file by. */
const credentials = new Set(['authorization', 'cookie']);

/**
 * Names what is asked for: a URL, and the headers (flat) that may choose among its variants. What is known of one such
 * subject tells nothing of another.
 */
export function subjectOf(url: string, headers: readonly string[]): string {
  const parts = [url];
  for (let index = 0; index + 1 < headers.length; index += 2) {
    const name = headers[index]!.toLowerCase();
    if (!credentials.has(name)) parts.push(name, headers[index + 1]!);
  }
  // A URL may hold what is secret, and this is stored.
  return hash('sha256', JSON.stringify(parts), 'base64url');
}

/** What to note of an answer so that `conditionOf` can ask whether it still holds; null: it says nothing that is safe. */
export function noteOf(subject: string, answer: { statusCode: number; headers: AnswerHeaders }): string | null {
  const condition = conditionAfter(answer);
  return condition === null ? null : [subject, ...condition].join(' ');
}

/** The condition by which to ask about what is noted; null: the note is none, or speaks of something else. */
export function conditionOf(subject: string, note: string | null): Condition | null {
  const [, of, name, value] = noted.exec(note ?? '') ?? [];
  return of === subject && value !== undefined ? [name as Condition[0], value] : null;
}

/**
 * Whether a 304 speaks of the file that was asked about. Servers differ in how they compare dates: many take a file that was
 * replaced by an older one for not modified, and some of them then show its date.
 */
export function confirms([name, value]: Condition, headers: AnswerHeaders): boolean {
  const shown = headers[name === 'if-none-match' ? 'etag' : 'last-modified'];
  return shown === undefined || shown.toString().replace(/^W\//, '') === value.replace(/^W\//, '');
}

/**
 * The ETag alone where there is one. Else the date, if it was well past when the answer was sent: a file that changes twice
 * within one second has the same date both times (RFC 9110, 8.8.2.2; the minute is RFC 7232's, for servers with several
 * clocks). Both times are the server's, so no clock of this machine is part of it.
 */
function conditionAfter({ statusCode, headers }: { statusCode: number; headers: AnswerHeaders }): Condition | null {
  // Of 203, what changed the body on its way may have left them as they were.
  if (statusCode !== 200) return null;
  const { etag: tag, 'last-modified': modified, date } = headers;
  if (typeof tag === 'string' && tag.length <= valueLengthMax && etag.test(tag)) return ['if-none-match', tag];
  if (typeof modified !== 'string' || typeof date !== 'string') return null;
  if (modified.length > valueLengthMax || !sendable.test(modified)) return null;
  const [modifiedMs, sentMs] = [readHttpDate(modified), readHttpDate(date)];
  const settled = modifiedMs !== null && sentMs !== null && sentMs - modifiedMs >= settledMs;
  return settled ? ['if-modified-since', modified] : null;
}
