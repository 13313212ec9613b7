const PULSE_MS = 250;
/** A worker that needs its share now does not wait for the next pulse, but for this. */
const SOON_MS = 20;
/** As one that walks through small pages does for each of them. */
const AT_ONCE_MS = 1;
/** Until requests have ended whose places others shall have: many servers answer sooner. */
const GIVE_BACK_MS = 5;

const delays = { soon: SOON_MS, atOnce: AT_ONCE_MS, givenBack: GIVE_BACK_MS } as const;

/** When one job's pulses are due: four times a second from the first on, sooner where somebody waits, never two at a time. */
export class PulseTimer {
  static readonly regularMs = PULSE_MS;
  readonly #pulse: () => Promise<void>;
  #timer: NodeJS.Timeout | null = null;
  #atMs = 0;
  #isPulsing = false;
  #isAgain = false;
  /** How soon the next one follows while shares change hands; 0: they do not. */
  #changingMs = 0;
  #isClosed = false;

  /** `pulse` does not reject. */
  constructor(pulse: () => Promise<void>) {
    this.#pulse = pulse;
  }

  /** The next pulse is due no later than that. */
  due(when: keyof typeof delays): void {
    if (this.#isPulsing) this.#isAgain = true;
    else this.#in(delays[when]);
  }

  /** To be told by each pulse: while shares change hands the next one follows soon, then more and more seldom. */
  sharesChange(isSo: boolean): void {
    this.#changingMs = isSo ? Math.min(PULSE_MS, Math.max(SOON_MS, 2 * this.#changingMs)) : 0;
  }

  close(): void {
    this.#isClosed = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
  }

  #in(delayMs: number): void {
    const at = performance.now() + delayMs;
    if (this.#isClosed || (this.#timer !== null && this.#atMs <= at)) return;
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#atMs = at;
    this.#timer = setTimeout(() => void this.#run(), delayMs);
  }

  async #run(): Promise<void> {
    this.#timer = null;
    this.#isPulsing = true;
    this.#isAgain = false;
    await this.#pulse();
    this.#isPulsing = false;
    this.#in(this.#isAgain ? SOON_MS : this.#changingMs || PULSE_MS);
  }
}
