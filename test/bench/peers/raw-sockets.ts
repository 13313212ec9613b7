import { connect } from 'node:net';
import { demoName } from '../../../src/demo/files.ts';
import { expectOk, type Way } from './way.ts';

const headEnd = Buffer.from('\r\n\r\n');
const lengthHeader = /\r\ncontent-length: *(\d+)/i;

/** A limit, not a tool: sockets and the least of HTTP, to see what Node itself costs. */
export const rawSockets: Way = async ({ origin, from, to, connections, store }) => {
  const { port, hostname } = new URL(origin);
  let started = from;
  let done = from;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const sockets = Array.from({ length: connections }, () => {
    const socket = connect({ port: Number(port), host: hostname, noDelay: true });
    let name = '';
    let answer: Buffer | null = null;
    const next = (): void => {
      if (started === to) return;
      name = demoName(started);
      started += 1;
      socket.write(`GET /get/${name} HTTP/1.1\r\nhost: ${hostname}\r\n\r\n`, 'latin1');
    };
    const take = (chunk: Buffer): void => {
      answer = answer === null ? chunk : Buffer.concat([answer, chunk]);
      const bodyAt = answer.indexOf(headEnd) + headEnd.length;
      if (bodyAt < headEnd.length) return;
      const head = answer.toString('latin1', 0, bodyAt);
      expectOk(Number(head.slice(9, 12)));
      const bytes = Number(lengthHeader.exec(head)?.[1]);
      if (answer.length < bodyAt + bytes) return;
      store(name, answer.subarray(bodyAt));
      answer = null;
      done += 1;
      if (done === to) resolve();
      next();
    };
    socket.once('connect', next);
    socket.on('data', (chunk) => {
      try {
        take(chunk);
      } catch (error) {
        reject(error);
      }
    });
    socket.on('error', reject);
    socket.on('close', () => reject(new Error('the server closed the connection')));
    return socket;
  });
  try {
    await promise;
  } finally {
    for (const socket of sockets) socket.destroy();
  }
};
