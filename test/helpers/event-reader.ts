import { EventEmitter, once } from 'node:events';
import { get, type IncomingMessage } from 'node:http';
import type { TestContext } from 'node:test';
import { createParser } from 'eventsource-parser';
import type { Failure, Job } from '../../src/schemas.ts';

/** An event as it came. `job` and `failure`: its data. */
export interface SeenEvent {
  readonly event: string;
  readonly id: number;
  readonly job: Job;
  readonly failure: Failure;
}

/** A client of server-sent events on a connection of its own; it knows them by a parser that is not ours. */
export class EventReader {
  readonly events: SeenEvent[] = [];
  readonly answer: IncomingMessage;
  comments = 0;
  retryMs: number | null = null;
  /** Resolves when the stream has come to its end (true), or has broken off. */
  readonly ended: Promise<boolean>;
  readonly #changes = new EventEmitter().setMaxListeners(0);

  constructor(answer: IncomingMessage, { reads }: { reads: boolean }) {
    this.answer = answer;
    const parser = createParser({
      onEvent: ({ event = '', id, data }) => {
        const parsed = JSON.parse(data) as unknown;
        this.events.push({ event, id: Number(id), job: parsed as Job, failure: parsed as Failure });
      },
      onRetry: (ms) => (this.retryMs = ms),
      onComment: () => (this.comments += 1),
    });
    answer.setEncoding('utf8');
    const read = (text: string): void => {
      parser.feed(text);
      this.#changes.emit('change');
    };
    if (reads) answer.on('data', read);
    this.ended = once(answer, 'end').then(
      () => true,
      () => false,
    );
    answer.on('error', () => {});
    answer.once('close', () => this.#changes.emit('change'));
  }

  get last(): SeenEvent | undefined {
    return this.events.at(-1);
  }

  /** The first event for which `is` holds, of those that came and those that come. */
  async until(is: (event: SeenEvent) => boolean): Promise<SeenEvent> {
    let seen = 0;
    for (;;) {
      const found = this.events.slice(seen).find(is);
      if (found !== undefined) return found;
      if (this.answer.closed) throw new Error(`the stream ended: ${JSON.stringify(this.events.map(told))}`);
      seen = this.events.length;
      await this.changed();
    }
  }

  async changed(): Promise<void> {
    await once(this.#changes, 'change');
  }

  close(): void {
    this.answer.destroy();
  }
}

/** What a test compares of an event: its name and the job's state, or the name of the file. */
export function told({ event, job, failure }: SeenEvent): string {
  return event === 'failure' ? `failure ${failure.name}` : `${event} ${job.state}`;
}

/** Asks for a stream; what is answered instead of one is its status. Closed when the test ends. */
export async function readEvents(
  t: TestContext,
  url: string,
  { headers = {}, reads = true }: { headers?: Record<string, string>; reads?: boolean } = {},
): Promise<EventReader> {
  const request = get(url, { headers, agent: false });
  const [answer] = (await once(request, 'response')) as [IncomingMessage];
  request.on('error', () => {});
  const reader = new EventReader(answer, { reads });
  t.after(() => reader.close());
  return reader;
}
