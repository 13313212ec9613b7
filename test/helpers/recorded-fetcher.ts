import type { FetchError } from '../../src/errors.ts';
import type { Fetcher, FetchHandler } from '../../src/fetch-file.ts';
import { Tally } from '../../src/tally.ts';

/** A fetcher whose requests are written down, in `started`, instead of made. */
export function recordedFetcher(): { fetcher: Fetcher; started: FetchHandler[] } {
  const started: FetchHandler[] = [];
  const fetcher = {
    hasRoom: true,
    maxInFlight: 100,
    tally: new Tally(),
    start: (_: unknown, handler: FetchHandler) => {
      started.push(handler);
      return { abort: (error: FetchError) => handler.onError(error) };
    },
  };
  return { fetcher: fetcher as unknown as Fetcher, started };
}
