import { demoFileBytes, demoName } from '../../../src/demo/files.ts';
import { Fetcher, type FetchHandler, type FetchRequest } from '../../../src/fetch-file.ts';
import { HttpAgent } from '../../../src/http.ts';
import type { Way } from './way.ts';

const headers: string[] = [];

/** The service's own fetch engine alone, without listing, chain, counts and sinks. */
export const engine: Way = async ({ origin, from, to, connections, store }) => {
  const agent = new HttpAgent();
  const fetcher = new Fetcher(agent);
  let started = from;
  let done = from;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  for (let index = 0; index < connections; index += 1) {
    let name = '';
    const slot: FetchRequest & FetchHandler & { path: string } = {
      origin,
      path: '',
      headers,
      sizeBytes: demoFileBytes,
      timeoutMs: 30_000,
      minBytesPerSecond: 1024,
      maxBytes: 1_000_000,
      memoryBytes: 65_536,
      open: () => null,
      onBody: ({ body }) => {
        store(name, body ?? Buffer.alloc(0));
        done += 1;
        if (done === to) resolve();
        next();
      },
      onRedirect: reject,
      onError: reject,
    };
    const next = (): void => {
      if (started === to) return;
      name = demoName(started);
      started += 1;
      slot.path = `/get/${name}`;
      fetcher.start(slot, slot);
    };
    next();
  }
  try {
    await promise;
  } finally {
    fetcher.close();
    agent.close();
  }
};
