import { systemCode } from '../errors.ts';
import { DemoError } from './service.ts';

/** The reason of a signal that was aborted because the person wants the end. */
export class Interrupted extends DemoError {
  constructor() {
    super('interrupted');
  }
}

/**
 * A signal that is aborted by Ctrl-C and its like, by a reader that closes the output, and by an error that nothing
 * else has caught, so that all that was started can be ended in order.
 */
export function interruptSignal(): AbortSignal {
  const interrupt = new AbortController();
  // Under npm one Ctrl-C comes twice, from the terminal and from npm: it never means more than "end".
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(name, () => interrupt.abort(new Interrupted()));
  process.on('uncaughtException', (error) => {
    interrupt.abort(systemCode(error) === 'EPIPE' ? new Interrupted() : error);
  });
  return interrupt.signal;
}
