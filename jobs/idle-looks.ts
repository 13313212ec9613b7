const LOOK_MS = 250;

/** Looks at fixed times, whatever happens, at whether a worker could make more requests for a job than there are to make. */
export class IdleLooks {
  readonly #timer: NodeJS.Timeout;
  #looks = 0;
  #idle = 0;

  /** `isIdle`: null without pages in work. */
  constructor(isIdle: () => boolean | null) {
    this.#timer = setInterval(() => {
      const idle = isIdle();
      if (idle === null) return;
      this.#looks += 1;
      if (idle) this.#idle += 1;
    }, LOOK_MS);
  }

  /** Those since the last call. */
  take(): { looks: number; idle: number } {
    const taken = { looks: this.#looks, idle: this.#idle };
    this.#looks = 0;
    this.#idle = 0;
    return taken;
  }

  close(): void {
    clearInterval(this.#timer);
  }
}
