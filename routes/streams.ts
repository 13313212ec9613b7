import type { Readable } from 'node:stream';
import type { FastifyReply, FastifyInstance } from 'fastify';

/** Sends a stream as the answer; it is destroyed where the client goes away, or the app closes. */
export type StreamSender = (reply: FastifyReply, type: string, stream: Readable) => FastifyReply;

/** For the routes of one app. `type`: of text, in UTF-8. */
export function streamSender(app: Pick<FastifyInstance, 'addHook'>): StreamSender {
  const streams = new Set<Readable>();
  // A reader that has stopped reading would keep the server from closing.
  app.addHook('preClose', async () => {
    for (const stream of streams) stream.destroy();
  });
  return (reply, type, stream) => {
    streams.add(stream);
    stream.once('close', () => streams.delete(stream));
    stream.once('error', (err) => {
      // Before the first byte it becomes an error answer, as any other.
      if (reply.raw.headersSent) reply.log.warn({ err, route: reply.routeOptions.url }, 'a stream broke off');
    });
    return (
      reply
        .type(`${type}; charset=utf-8`)
        // Else nginx would keep lines back until it has enough of them.
        .header('x-accel-buffering', 'no')
        .send(stream)
    );
  };
}
