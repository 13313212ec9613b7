import { hostname } from 'node:os';
import type { Logger } from 'pino';
import type { ChainStore } from './store.ts';

/** When the hint of a job whose files go to another folder comes again, while a worker that has that folder lives. */
const ELSEWHERE_MS = 500;
/** … and while there is none: seldom, as there may be very many such hints. */
const NOBODY_MS = 2000;
const TOLD_MAX = 1000;

/**
 * A worker's DATA_DIR among those of all workers. The first worker that takes a page of a job decides where the job's
 * files go; workers that have another folder leave its pages to those that have that one.
 */
export class DataFolder {
  /** What `dataIdOf` gives for it. */
  readonly id: string;
  /** The ids of the folders that living workers have. */
  living: ReadonlySet<string> = new Set();
  readonly #path: string;
  readonly #store: ChainStore;
  readonly #logger: Logger;
  readonly #told = new Set<string>();

  constructor({ id, path, store, logger }: { id: string; path: string; store: ChainStore; logger: Logger }) {
    this.id = id;
    this.#path = path;
    this.#store = store;
    this.#logger = logger;
  }

  /** How long the pages of a job shall be left to others, in ms; 0: its files go here. */
  async comeBackInMs(job: string): Promise<number> {
    const claimed = await this.#store.claim(job, this.id, `${this.#path} on ${hostname()}`);
    if (claimed === null || claimed.dataId === this.id) return 0;
    this.#tell(job, claimed);
    return this.living.has(claimed.dataId) ? ELSEWHERE_MS : NOBODY_MS;
  }

  #tell(job: string, claimed: { dataId: string; dataDir: string }): void {
    if (this.#told.has(job)) return;
    if (this.#told.size >= TOLD_MAX) this.#told.clear();
    this.#told.add(job);
    const folders = `the job's files go to ${claimed.dataDir}, and DATA_DIR here, ${this.#path}, is another folder`;
    const remedy = 'end this worker, or start it with that folder as DATA_DIR';
    this.#logger.error({ job, dataId: this.id, jobDataId: claimed.dataId }, `${folders}: ${remedy}`);
  }
}
