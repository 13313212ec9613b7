import type { Redis } from 'ioredis';
import type { Origin } from './origin.ts';
import { readGoodFile, type OriginNews } from './pulse.ts';
import type { Requests } from './requests.ts';

/** Pages wait in hand for an origin in trouble; after this they are given back, so that others get their places. */
const WAIT_IN_HAND_MS = 3000;
const COME_BACK_MS_MAX = 15_000;
/** Of so many origins others are told a file to probe with: a list of URLs may lead to a million of them. */
const FILES_TOLD_MAX = 16;

/** The origins of one job as a whole: how long its pages wait for them, and what workers tell each other of them. */
export class ToldOrigins {
  readonly #requests: Requests;
  /** Those others are told a file of. */
  readonly #filesTold = new Set<string>();

  constructor(requests: Requests) {
    this.#requests = requests;
  }

  /** Whether something is known of them that the job's next page here must know. */
  get inTrouble(): boolean {
    const now = performance.now();
    return this.#requests.origins.some((origin) => origin.troubleMs(now) > 0 || origin.waitMs(now) > 0);
  }

  /** Whether one has been in trouble for longer than pages wait in hand. */
  get outlasted(): boolean {
    const now = performance.now();
    return this.#requests.ownOrigins.some((origin) => origin.troubleMs(now) >= WAIT_IN_HAND_MS);
  }

  /** How long until those in trouble may be asked again, in ms. */
  get waitMs(): number {
    const now = performance.now();
    const longest = Math.max(0, ...this.#requests.ownOrigins.map((origin) => origin.waitMs(now)));
    return Math.min(longest, COME_BACK_MS_MAX);
  }

  /** What others shall know, by origin. */
  news(nowMs: number): Record<string, OriginNews> {
    const all: Record<string, OriginNews> = {};
    for (const origin of this.#requests.origins) {
      const { name, goodFile } = origin;
      const news = { ...origin.news(nowMs), ...(goodFile !== null && this.#tellsFileOf(origin) && { goodFile }) };
      if (Object.keys(news).length > 0) all[name] = news;
    }
    return all;
  }

  /** What others told between these two moments, by origin. */
  othersTold(askedMs: number, heardMs: number, told: Readonly<Record<string, OriginNews>>): void {
    for (const name of Object.keys(told)) this.#requests.origin(name);
    for (const origin of this.#requests.origins) origin.othersTold(askedMs, heardMs, told[origin.name] ?? {});
  }

  /** Looks for what others fetched where nothing else tells whether all files are throttled. */
  async findGoodFiles(redis: Redis, job: string): Promise<void> {
    for (const origin of this.#requests.ownOrigins.filter(({ wantsGoodFile }) => wantsGoodFile)) {
      const path = await readGoodFile(redis, job, origin.name);
      if (path !== null) origin.assumeGood({ path, isFile: true });
    }
  }

  #tellsFileOf({ name, isStray }: Origin): boolean {
    if (!isStray && this.#filesTold.size < FILES_TOLD_MAX) this.#filesTold.add(name);
    return this.#filesTold.has(name);
  }
}
