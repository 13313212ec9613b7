/** Calls of the API, as one makes them to a service that may be away, or die on the way. */

import type { Job } from '../../src/schemas.ts';

const ANSWER_MS_MAX = 5000;

/** `status` 0: no answer. `body`: the job, where it did as asked. */
export async function call(url: string, method: string, body?: unknown): Promise<{ status: number; body: Job | null }> {
  try {
    const answer = await fetch(url, {
      method,
      signal: AbortSignal.timeout(ANSWER_MS_MAX),
      ...(body === undefined ? {} : { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
    });
    const text = await answer.text();
    return { status: answer.status, body: answer.ok ? (JSON.parse(text) as Job) : null };
  } catch {
    return { status: 0, body: null };
  }
}
