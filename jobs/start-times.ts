/** How late a request may start; what comes later waits for another slot: catching up would be a burst. */
export const START_LATE_MS_MAX = 50;

/** A row of slots that Redis handed out at once. */
interface Grant {
  atMs: number;
  left: number;
  readonly lateMsMax: number;
}

/** When requests may start under `requestsPerSecond`: slots on a time line that Redis hands out over all workers. */
export class StartTimes {
  readonly #grants: Grant[] = [];
  #intervalMs = 0;

  /**
   * Adds `count` slots, the first `delayMs` after Redis answered, one every `intervalMs`. When that was is only known to be
   * between `askedMs` and `heardMs` (of a monotonic clock): no slot is used too early for the latter or too late for the
   * former.
   */
  grant(askedMs: number, heardMs: number, delayMs: number, count: number, intervalMs: number): void {
    this.#intervalMs = intervalMs;
    const lateMsMax = START_LATE_MS_MAX - (heardMs - askedMs);
    if (count > 0 && lateMsMax > 0) this.#grants.push({ atMs: heardMs + delayMs, left: count, lateMsMax });
  }

  /** Forgets all slots: they were handed out for another limit. */
  clear(): void {
    this.#grants.length = 0;
  }

  /** Whether a slot is due. Those that are past for too long are lost. */
  isDue(nowMs: number): boolean {
    for (let grant = this.#grants[0]; grant !== undefined; grant = this.#grants[0]) {
      const late = Math.min(grant.left, Math.floor((nowMs - grant.lateMsMax - grant.atMs) / this.#intervalMs) + 1);
      if (late > 0) this.#use(grant, late);
      if (grant.left === 0) continue;
      return grant.atMs <= nowMs;
    }
    return false;
  }

  /** Uses one slot if one is due. */
  take(nowMs: number): boolean {
    const grant = this.isDue(nowMs) ? this.#grants[0] : undefined;
    if (grant === undefined) return false;
    this.#use(grant, 1);
    return true;
  }

  /** When the next slot is due, null if none is left. */
  next(): number | null {
    return this.#grants[0]?.atMs ?? null;
  }

  get left(): number {
    return this.#grants.reduce((sum, { left }) => sum + left, 0);
  }

  #use(grant: Grant, count: number): void {
    grant.left -= count;
    grant.atMs += count * this.#intervalMs;
    if (grant.left === 0) this.#grants.shift();
  }
}
