import type { Origin } from './origin.ts';
import type { Transfer } from './transfer.ts';

/**
 * Transfers whose request is in flight. No Map: V8's leaves an outgrown table behind every few changes, which keeps the next
 * one and all that it held, so that each file would live until the old generation is collected.
 */
export class InFlight {
  readonly #transfers: Transfer[] = [];

  get size(): number {
    return this.#transfers.length;
  }

  /** As they are now: they may end while one goes through them. */
  all(): Transfer[] {
    return this.#transfers.slice();
  }

  /** Begins a request of the transfer to this origin. */
  add(transfer: Transfer, origin: Origin): void {
    origin.inFlight += 1;
    transfer.askedOf = origin;
    transfer.place = this.#transfers.push(transfer) - 1;
  }

  /** Its body has begun and is a large one. */
  streams(transfer: Transfer): void {
    if (transfer.askedOf === null || transfer.isStreaming) return;
    transfer.askedOf.streaming += 1;
    transfer.isStreaming = true;
  }

  /** Its request ended. Gives the origin that it was made to, null if there was none. */
  remove(transfer: Transfer): Origin | null {
    const origin = transfer.askedOf;
    const last = this.#transfers.at(-1);
    if (origin === null || last === undefined) return null;
    origin.inFlight -= 1;
    if (transfer.isStreaming) origin.streaming -= 1;
    transfer.isStreaming = false;
    transfer.askedOf = null;
    this.#transfers[transfer.place] = last;
    last.place = transfer.place;
    this.#transfers.pop();
    return origin;
  }
}
