/**
 * The chain of pages in Redis: one method for each operation of chain.lua. Every operation is atomic and checks for
 * itself whether the caller may still do it; see jobs/README.md for the protocol.
 */
import type { Redis } from 'ioredis';
import { privateFolder } from '../src/names.ts';
import { repliesOf, Script } from '../src/redis.ts';
import type { JobError, JobSpec, JobState } from '../src/schemas.ts';
import { isActive } from './model.ts';

/** One hash tag for all: a Redis Cluster keeps the service in one slot, as scripts over several keys need. */
export const keyPrefix = '{gigafetch}';

/** The keys of one job. */
export function jobKeys(id: string) {
  const job = `${keyPrefix}:job:${id}`;
  return {
    job,
    inFlight: `${job}:i`,
    tokens: `${job}:t`,
    stuck: `${job}:s`,
    failures: `${job}:f`,
    live: `${job}:p`,
    leases: `${job}:l`,
    rate: `${job}:r`,
    origins: `${job}:o`,
  };
}

export const sharedKeys = {
  active: `${keyPrefix}:active`,
  sinks: `${keyPrefix}:sinks`,
  jobs: `${keyPrefix}:jobs`,
  workers: `${keyPrefix}:workers`,
  workersSaid: `${keyPrefix}:workers:said`,
  /** What all workers did, ever. */
  totals: `${keyPrefix}:totals`,
  folders: `${keyPrefix}:folders`,
} as const;

/** Entries that should have a BullMQ job now, and the epoch for its id. */
export interface Hints {
  readonly epoch: number;
  readonly seqs: readonly number[];
}

/** How often an entry may be begun before it counts as one that kills its workers. */
export const TRIES_MAX = 12;

/** A page that was begun more often than this is an entry by itself, and begun alone: it, or one of its company, kills its workers. */
export const TRIES_IN_COMPANY_MAX = 6;

const IDEMPOTENCY_SECONDS = 24 * 60 * 60;

/** Failures that are to be fetched again: those after one id of the failures stream up to another, null: of any kind. */
export interface FailedRange {
  readonly after: string;
  readonly upTo: string;
  readonly reason: string | null;
  readonly statusCode: number | null;
}

/** What an entry of the chain stands for: a page of the listing, or failures that are fetched again. */
export type Token = string | FailedRange;

export type Begun =
  /** `poison`: it was begun too often. `parts`: entries that were pages of this one until now, and should have a BullMQ job. */
  | { kind: 'go' | 'poison'; open: boolean; tries: number; tokens: readonly Token[]; parts: readonly number[] }
  /** Its shard waits to get its final name. */
  | { kind: 'publish'; nonce: string }
  | { kind: 'drop' };

/** `stop`: somebody else has the page by now, or the job does not run; nothing was changed. */
export type Step = ({ kind: 'ok' } & Hints) | { kind: 'stop' };

/** `state`: the one the job has now; the page may have been its last, or have made it pause itself. */
export type Committed = ({ kind: 'ok'; state: JobState } & Hints) | { kind: 'stop' };

/** What one page adds to the job's counts. Keys are fields of the job's record. */
export type Counts = Readonly<Record<string, number>>;

/** A job's `error` as it is kept. `atFrontier`: the listing got no further; else a page was listed once and not again. */
export type ListingError = Omit<JobError, 'page'> & { readonly atFrontier: boolean };

/** A page whose files are all done: what `commit` and `seal` take. */
type PageDone = [
  id: string,
  seq: number,
  nonce: string,
  counts: Counts,
  failures: readonly string[],
  settled?: readonly string[],
];

export interface NewJob {
  readonly id: string;
  readonly spec: JobSpec;
  readonly firstToken: string;
  /** How many files there are, where that is known. */
  readonly filesTotal?: number | null;
  readonly cap: number;
  /** It is not created where so many are active already. */
  readonly activeJobsMax: number;
  /** With the digest of the request it came with. */
  readonly idempotency: { key: string; digest: string } | null;
}

/**
 * Why a job cannot be active: another one writes to its sink path (`path_leaving`: it was cancelled, but a worker may still have
 * requests of it in flight), or there are as many as may be.
 */
export type Refused = { kind: 'path_in_use' | 'path_leaving'; user: string } | { kind: 'full' };

export type Created = ({ kind: 'ok' } & Hints) | { kind: 'replayed' | 'other_request'; first: string } | Refused;

/** A job's order, with its secret headers. */
export interface Order {
  readonly spec: JobSpec;
  /** Counts how often it was changed. */
  readonly version: number;
}

export class ChainStore {
  readonly redis: Redis;
  readonly #chain = new Script('chain.lua', import.meta.url);

  constructor(redis: Redis) {
    this.redis = redis;
  }

  async create(job: NewJob): Promise<Created> {
    const answer = await this.#run(
      'create',
      job.id,
      [
        job.idempotency?.digest ?? '',
        IDEMPOTENCY_SECONDS,
        // A dry run writes nothing: it takes a path that no sink has.
        job.spec.dryRun ? `${privateFolder}/${job.id}` : job.spec.sink.path,
        job.cap,
        job.spec.limits.maxFailures,
        job.firstToken,
        job.activeJobsMax,
        ...(job.filesTotal == null ? [] : ['total', job.filesTotal]),
        ...orderFields(job.spec),
      ],
      job.idempotency?.key,
    );
    const [kind, detail] = answer;
    if (kind === 'replayed' || kind === 'other_request') return { kind, first: String(detail) };
    return refused(answer) ?? { kind: 'ok', ...hints(answer) };
  }

  /** Takes an entry for one attempt; `nonce` is fresh for every attempt and fences off all others from now on. */
  async begin(
    id: string,
    seq: number,
    epoch: number,
    nonce: string,
    triesInCompanyMax = TRIES_IN_COMPANY_MAX,
  ): Promise<Begun> {
    const args = [seq, epoch, nonce, TRIES_MAX, triesInCompanyMax];
    const [kind, detail, tries, tokens, parts] = await this.#run('begin', id, args);
    if (kind === 'publish') return { kind, nonce: String(detail) };
    if (kind !== 'ok' && kind !== 'poison') return { kind: 'drop' };
    return {
      kind: kind === 'ok' ? 'go' : kind,
      open: detail === 'o',
      tries: Number(tries),
      tokens: JSON.parse(String(tokens)) as Token[],
      parts: (parts as string[]).map(Number),
    };
  }

  /** Hands the chain on: the entry's own tokens are recorded and the next one becomes an entry. `loop`: nothing was stored. */
  async advance(
    id: string,
    seq: number,
    nonce: string,
    walked: {
      cap: number;
      listed: number;
      tokens: readonly Token[];
      next: Token | null;
      filesTotal?: number | undefined;
    },
  ): Promise<Step | { kind: 'loop' }> {
    const { cap, listed, tokens, filesTotal } = walked;
    const next = JSON.stringify(walked.next === null ? [] : [walked.next]);
    const args = [seq, nonce, cap, listed, JSON.stringify(tokens), next, filesTotal ?? ''];
    const answer = await this.#run('advance', id, args);
    return answer[0] === 'loop' ? { kind: 'loop' } : step(answer);
  }

  /**
   * Counts a page whose files are all done, once, whoever else may try; the entry is gone then. `settled`: ids of earlier
   * failures whose files were fetched again, whatever became of them.
   */
  commit(...page: PageDone): Promise<Committed> {
    return this.#count('commit', page);
  }

  /** As `commit`, but the entry stays until `drop`: the page's shard is finished, and shall get its name. */
  seal(...page: PageDone): Promise<Committed> {
    return this.#count('seal', page);
  }

  /** The shard that the attempt `nonce` sealed has its name: the entry is gone then. */
  async drop(id: string, seq: number, nonce: string): Promise<Committed> {
    return committed(await this.#run('drop', id, [seq, nonce]));
  }

  /** Gives an entry back that was neither finished nor lost, without it counting as a try. */
  async release(id: string, seq: number, nonce: string): Promise<void> {
    await this.#run('release', id, [seq, nonce]);
  }

  /**
   * Puts an entry aside whose listing cannot be read; the job goes on with what is listed and then fails. `retried`: how many
   * requests were made again for it.
   */
  async listFailed(id: string, seq: number, nonce: string, error: ListingError, retried = 0): Promise<Step> {
    return step(await this.#run('listFailed', id, [seq, nonce, JSON.stringify(error), retried]));
  }

  /** Pauses the job if it still runs in that epoch. False: it does not; nothing was changed. */
  async pause(id: string, reason: string, epoch: number): Promise<boolean> {
    return (await this.#run('pause', id, [reason, epoch]))[0] === 'ok';
  }

  /** Null: the job is not paused; nothing was changed. */
  async resume(id: string): Promise<Hints | null> {
    const answer = await this.#run('resume', id, []);
    return answer[0] === 'ok' ? hints(answer) : null;
  }

  /** False: the job is at its end, or cancelled already; nothing was changed. */
  async cancel(id: string): Promise<boolean> {
    return (await this.#run('cancel', id, []))[0] === 'ok';
  }

  /**
   * Lets a job that is at its end go on with the files that failed in this way (null: in any), and with the listing where it
   * could not be read. `conflict`: it did not fail.
   */
  async retry(
    id: string,
    { activeJobsMax, ...which }: { activeJobsMax: number } & Pick<FailedRange, 'reason' | 'statusCode'>,
  ): Promise<({ kind: 'ok' } & Hints) | { kind: 'conflict' } | Refused> {
    const answer = await this.#run('retry', id, [activeJobsMax, JSON.stringify(which)]);
    const [kind] = answer;
    return kind === 'ok' ? { kind, ...hints(answer) } : (refused(answer) ?? { kind: 'conflict' });
  }

  /** Changes a job's order. `changed`: somebody else did so since it was read. `conflict`: it will not run again. */
  async patch(id: string, { spec, version }: Order): Promise<'ok' | 'changed' | 'conflict' | 'unknown'> {
    const args = [version, 'maxFailures', spec.limits.maxFailures, ...orderFields(spec)];
    return (await this.#run('patch', id, args))[0] as 'ok' | 'changed' | 'conflict' | 'unknown';
  }

  /**
   * How many pages a job had, all in all, that is at its end with all its shards published; else null. Infinity where there is
   * no such job any more.
   */
  async pagesAtEnd(id: string): Promise<number | null> {
    const { job, inFlight } = jobKeys(id);
    const asked = this.redis.multi().hmget(job, 'state', 'next').exists(inFlight);
    const [[state, next], left] = repliesOf(await asked.exec()) as [[JobState | null, string | null], number];
    if (state === null) return Infinity;
    return isActive(state) || left !== 0 ? null : Number(next);
  }

  /** Everything of a job that should have a BullMQ job. Empty where there is no such job. */
  async todo(id: string): Promise<Hints> {
    const answer = await this.#run('todo', id, []);
    return answer[0] === 'ok' ? hints(answer) : { epoch: 0, seqs: [] };
  }

  /** Removes the record of a job that is not active. */
  async delete(id: string): Promise<'ok' | 'conflict' | 'unknown'> {
    const keys = jobKeys(id);
    return (await this.#run('delete', id, [keys.leases, keys.rate, keys.origins]))[0] as 'ok' | 'conflict' | 'unknown';
  }

  /**
   * Where the job's files go, which the first call decides; null: no such job. `dataId`: the folder's id, `dataDir`: how
   * people find it.
   */
  async claim(id: string, dataId: string, dataDir: string): Promise<{ dataId: string; dataDir: string } | null> {
    const [kind, claimedId, claimedDir] = await this.#run('claim', id, [dataId, dataDir]);
    return kind === 'ok' ? { dataId: String(claimedId), dataDir: String(claimedDir) } : null;
  }

  /** The ids of all jobs that are not at their end. */
  active(): Promise<string[]> {
    return this.redis.smembers(sharedKeys.active);
  }

  /** Null: no such job. */
  async order(id: string): Promise<Order | null> {
    const [spec, headers, version] = await this.redis.hmget(jobKeys(id).job, 'spec', 'headers', 'version');
    if (spec == null || headers == null) return null;
    const shown = JSON.parse(spec) as Omit<JobSpec, 'headers'>;
    return {
      spec: { ...shown, headers: JSON.parse(headers) as Record<string, string> },
      version: Number(version ?? 0),
    };
  }

  async #count(
    operation: 'commit' | 'seal',
    [id, seq, nonce, counts, failures, settled = []]: PageDone,
  ): Promise<Committed> {
    const args = [seq, nonce, JSON.stringify(counts), JSON.stringify(settled), ...inBundles(failures)];
    return committed(await this.#run(operation, id, args));
  }

  async #run(
    operation: string,
    id: string,
    args: readonly (string | number)[],
    idempotencyKey = '',
  ): Promise<readonly unknown[]> {
    const k = jobKeys(id);
    const s = sharedKeys;
    const keys = [k.job, k.inFlight, k.tokens, k.stuck, k.failures, k.live, s.active, s.sinks, s.jobs];
    keys.push(`${keyPrefix}:idem:${idempotencyKey}`);
    return (await this.#chain.run(this.redis, keys, [operation, id, ...args])) as readonly unknown[];
  }
}

/** As fields and values of the record: what is shown, and apart from it what never is. */
function orderFields({ headers, ...shown }: JobSpec): string[] {
  return ['spec', JSON.stringify(shown), 'headers', JSON.stringify(headers)];
}

function refused([kind, detail]: readonly unknown[]): Refused | null {
  if (kind === 'full') return { kind };
  return kind === 'path_in_use' || kind === 'path_leaving' ? { kind, user: String(detail) } : null;
}

function hints(answer: readonly unknown[]): Hints {
  return { epoch: Number(answer[1]), seqs: ((answer[2] ?? []) as string[]).map(Number) };
}

function committed(answer: readonly unknown[]): Committed {
  return answer[0] === 'ok' ? { kind: 'ok', ...hints(answer), state: answer[3] as JobState } : { kind: 'stop' };
}

function step(answer: readonly unknown[]): Step {
  return answer[0] === 'ok' ? { kind: 'ok', ...hints(answer) } : { kind: 'stop' };
}

/** Failures by the thousand, a line each: one argument for each of a hundred thousand would be too many. */
function inBundles(failures: readonly string[]): string[] {
  const bundles: string[] = [];
  for (let index = 0; index < failures.length; index += 1000) {
    bundles.push(failures.slice(index, index + 1000).join('\n'));
  }
  return bundles;
}
