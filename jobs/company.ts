/**
 * Which pages one worker has in work beside each other. No job takes all places: it may have as many as are still free, so that
 * whoever comes finds some ("dynamic threshold": Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998). And
 * a page that may be what kills its workers runs without company, so that no other dies, or is blamed, with it.
 */

/** One attempt at a page, from before it is begun until it is over. */
export interface Member {
  /** Aborts when the attempt must be given back, for another to be alone. */
  readonly leave: AbortSignal;
  /** To be called when it is over, given back or done; once. */
  left(): void;
}

interface Place {
  readonly job: string;
  readonly asked: AbortController;
  readonly gone: Promise<void>;
}

/** The attempts of one worker. */
export class Company {
  readonly #places = new Map<Member, Place>();
  readonly #size: number;
  #alone: Member | null = null;

  constructor(size: number) {
    this.#size = size;
  }

  /** `alone`: one is, and nobody else may come in. `crowded`: the job has its share of the places. */
  join(job: string): Member | 'alone' | 'crowded' {
    if (this.#alone !== null) return 'alone';
    let held = 0;
    for (const place of this.#places.values()) if (place.job === job) held += 1;
    if (held > 0 && held >= this.#size - this.#places.size) return 'crowded';
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
    this.#places.set(member, { job, asked, gone });
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
