/**
 * `slow-server.ts LATENCY_MS`: an API that takes its time, in a process of its own, for many thousand connections at once: a
 * JSON document for each `/transaction/{number}`, so long after it was asked for. Prints its port; `/count` tells, at once, how
 * often it was asked, and the most requests that waited at a time.
 */
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { transaction } from '../helpers/transaction-api.ts';

const latencyMs = Number(process.argv[2]);
const STEP_MS = 1;
let [requests, most] = [0, 0];

/** In the order in which they are due, as all wait equally long. */
let waiting: { socket: Socket; number: number; dueMs: number }[] = [];
let first = 0;

function answer(socket: Socket, body: string): void {
  if (!socket.writable) return;
  socket.write(
    `HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    'latin1',
  );
}

setInterval(() => {
  const now = performance.now();
  for (; first < waiting.length && waiting[first]!.dueMs <= now; first += 1) {
    const { socket, number } = waiting[first]!;
    answer(socket, transaction(number));
  }
  if (first > 10_000) {
    waiting = waiting.slice(first);
    first = 0;
  }
}, STEP_MS);

const server = createServer({ noDelay: true }, (socket) => {
  let text = '';
  socket.setEncoding('latin1');
  socket.on('error', () => socket.destroy());
  socket.on('data', (chunk) => {
    text += chunk;
    for (let end = text.indexOf('\r\n\r\n'); end >= 0; end = text.indexOf('\r\n\r\n')) {
      const number = /^GET \/transaction\/(\d+) /.exec(text)?.[1];
      text = text.slice(end + 4);
      if (number === undefined) {
        answer(socket, JSON.stringify({ requests, most }));
        continue;
      }
      requests += 1;
      waiting.push({ socket, number: Number(number), dueMs: performance.now() + latencyMs });
      most = Math.max(most, waiting.length - first);
    }
  });
});
server.listen({ host: '127.0.0.1', port: 0, backlog: 65_535 }, () => {
  process.stdout.write(`${(server.address() as AddressInfo).port}\n`);
});
process.once('disconnect', () => process.exit());
