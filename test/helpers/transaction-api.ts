import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as after } from 'node:timers/promises';
import type { TestContext } from 'node:test';

export interface TransactionApi {
  /** `http://127.0.0.1:port/transaction/`, to which a number from 1 on is put. */
  readonly url: string;
  /** Requests ever, and the most that were in flight at a time. */
  readonly requests: number;
  readonly maxInFlight: number;
  bodyOf(number: number): string;
}

/** An API that takes its time: a JSON document for each number, `latencyMs` after it was asked for. Stopped with the test. */
export async function transactionApi(t: TestContext, { latencyMs = 200 } = {}): Promise<TransactionApi> {
  let [requests, inFlight, maxInFlight] = [0, 0, 0];
  const server = createServer(async (request, response) => {
    requests += 1;
    inFlight += 1;
    maxInFlight = Math.max(maxInFlight, inFlight);
    await after(latencyMs);
    inFlight -= 1;
    const [, number] = /^\/transaction\/([1-9]\d*)$/.exec(request.url ?? '') ?? [];
    if (number === undefined) response.writeHead(404).end();
    else response.setHeader('content-type', 'application/json').end(transaction(Number(number)));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/transaction/`,
    get requests() {
      return requests;
    },
    get maxInFlight() {
      return maxInFlight;
    },
    bodyOf: transaction,
  };
}

/** As flat as such records are: much of each is the same in all. */
export function transaction(number: number): string {
  return JSON.stringify({
    id: number,
    status: 'settled',
    currency: 'EUR',
    amount: ((number * 7919) % 1_000_000) / 100,
    account: `DE${String((number * 104_729) % 10 ** 10).padStart(20, '0')}`,
    bookedAt: new Date(1_700_000_000_000 + number * 1000).toISOString(),
  });
}
