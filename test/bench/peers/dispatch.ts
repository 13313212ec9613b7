import { Client, type Dispatcher } from 'undici';
import { demoName } from '../../../src/demo/files.ts';
import { expectOk, type Way } from './way.ts';

const headers = ['accept-encoding', 'identity', 'user-agent', 'bench'];

/** undici's `dispatch`, a Client for each connection: the least that undici can do. */
export const dispatch: Way = async ({ origin, from, to, connections, store }) => {
  const clients: Client[] = [];
  let started = from;
  let done = from;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  for (let index = 0; index < connections; index += 1) {
    const client = new Client(origin, { allowH2: false, headersTimeout: 0, bodyTimeout: 0 });
    let name = '';
    let body: Buffer | null = null;
    const handler: Dispatcher.DispatchHandler = {
      onRequestStart: () => undefined,
      onResponseStart: (_controller, status) => {
        expectOk(status);
        body = null;
      },
      onResponseData: (_controller, chunk) => {
        body = body === null ? chunk : Buffer.concat([body, chunk]);
      },
      onResponseEnd: () => {
        store(name, body ?? Buffer.alloc(0));
        done += 1;
        if (done === to) resolve();
        next();
      },
      onResponseError: (_controller, error) => reject(error),
    };
    const next = (): void => {
      if (started === to) return;
      name = demoName(started);
      started += 1;
      client.dispatch({ path: `/get/${name}`, method: 'GET', headers }, handler);
    };
    clients.push(client);
    next();
  }
  try {
    await promise;
  } finally {
    await Promise.all(clients.map((client) => client.destroy()));
  }
};
