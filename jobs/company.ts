/** A page that may be what kills its workers runs without company, so that no other dies, or is blamed, with it. */

/** One attempt at a page, from before it is begun until it is over. */
export interface Member {
  /** Aborts when the attempt must be given back, for another to be alone. */
  readonly leave: AbortSignal;
  /** To be called when it is over, given back or done; once. */
  left(): void;
}

interface Place {
  readonly asked: AbortController;
  readonly gone: Promise<void>;
}

/** The attempts of one worker. */
export class Company {
  readonly #places = new Map<Member, Place>();
  #alone: Member | null = null;

  /** Null while one is alone. */
  join(): Member | null {
    if (this.#alone !== null) return null;
    const asked = new AbortController();
    const { promise: gone, resolve } = Promise.withResolvers<void>();
    const member: Member = {
      leave: asked.signal,
      left: () => {
        this.#places.delete(member);
        if (this.#alone === member) this.#alone = null;
        resolve();
      },
    };
    this.#places.set(member, { asked, gone });
    return member;
  }

  /** Asks all others to leave, and resolves when they have. Does nothing where another was first: then this one is asked. */
  async beAlone(member: Member): Promise<void> {
    if (this.#alone !== null) return;
    this.#alone = member;
    const others = [...this.#places].filter(([other]) => other !== member).map(([, place]) => place);
    for (const { asked } of others) asked.abort();
    await Promise.all(others.map(({ gone }) => gone));
  }
}
