/**
 * The chain of pages in Redis: one method for each operation of chain.lua. Every operation is atomic and checks for
 * itself whether the caller may still do it; see jobs/README.md for the protocol.
 */
import type { Redis } from 'ioredis';
import { Script } from '../src/redis.ts';
import type { JobError, JobSpec } from '../src/schemas.ts';

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
  };
}

export const sharedKeys = {
  active: `${keyPrefix}:active`,
  sinks: `${keyPrefix}:sinks`,
  jobs: `${keyPrefix}:jobs`,
  workers: `${keyPrefix}:workers`,
  workersSaid: `${keyPrefix}:workers:said`,
} as const;

/** Entries that should have a BullMQ job now, and the epoch for its id. */
export interface Hints {
  readonly epoch: number;
  readonly seqs: readonly number[];
}

/** How often an entry may be begun before it counts as one that kills its workers. */
export const TRIES_MAX = 12;

const IDEMPOTENCY_SECONDS = 24 * 60 * 60;

export type Begun =
  | { kind: 'go'; open: boolean; tries: number; tokens: readonly string[] }
  | { kind: 'poison'; open: boolean; tries: number; tokens: readonly string[] }
  /** Its shard waits to get its final name. */
  | { kind: 'publish'; nonce: string }
  | { kind: 'drop' };

/** `stop`: somebody else has the page by now, or the job does not run; nothing was changed. */
export type Step = ({ kind: 'ok' } & Hints) | { kind: 'stop' };

/** What one page adds to the job's counts. Keys are fields of the job's record. */
export type Counts = Readonly<Record<string, number>>;

/** A job's `error` as it is kept. `atFrontier`: the listing got no further; else a page was listed once and not again. */
export type ListingError = Omit<JobError, 'page'> & { readonly atFrontier: boolean };

export interface NewJob {
  readonly id: string;
  readonly spec: JobSpec;
  readonly firstToken: string;
  readonly cap: number;
  /** It is not created where so many are active already. */
  readonly activeJobsMax: number;
  /** With the digest of the request it came with. */
  readonly idempotency: { key: string; digest: string } | null;
}

export type Created =
  | ({ kind: 'ok' } & Hints)
  | { kind: 'replayed' | 'other_request'; first: string }
  | { kind: 'path_in_use'; user: string }
  | { kind: 'full' };

export class ChainStore {
  readonly redis: Redis;
  readonly #chain = new Script('chain.lua', import.meta.url);

  constructor(redis: Redis) {
    this.redis = redis;
  }

  async create(job: NewJob): Promise<Created> {
    const { headers, ...shown } = job.spec;
    const answer = await this.#run(
      'create',
      job.id,
      [
        job.idempotency?.digest ?? '',
        IDEMPOTENCY_SECONDS,
        job.spec.sink.path,
        job.cap,
        job.spec.limits.maxFailures,
        job.firstToken,
        job.activeJobsMax,
        'spec',
        JSON.stringify(shown),
        'headers',
        JSON.stringify(headers),
      ],
      job.idempotency?.key,
    );
    const [kind, detail] = answer;
    if (kind === 'ok') return { kind, ...hints(answer) };
    if (kind === 'full') return { kind };
    if (kind === 'path_in_use') return { kind, user: String(detail) };
    return { kind: kind as 'replayed' | 'other_request', first: String(detail) };
  }

  /** Takes an entry for one attempt; `nonce` is fresh for every attempt and fences off all others from now on. */
  async begin(id: string, seq: number, epoch: number, nonce: string): Promise<Begun> {
    const [kind, detail, tries, tokens] = await this.#run('begin', id, [seq, epoch, nonce, TRIES_MAX]);
    if (kind === 'publish') return { kind, nonce: String(detail) };
    if (kind !== 'ok' && kind !== 'poison') return { kind: 'drop' };
    return {
      kind: kind === 'ok' ? 'go' : kind,
      open: detail === 'o',
      tries: Number(tries),
      tokens: JSON.parse(String(tokens)) as string[],
    };
  }

  /** Hands the chain on: the entry's own tokens are recorded and the next one becomes an entry. `loop`: nothing was stored. */
  async advance(
    id: string,
    seq: number,
    nonce: string,
    walked: { cap: number; listed: number; tokens: readonly string[]; next: string | null },
  ): Promise<Step | { kind: 'loop' }> {
    const { cap, listed, tokens, next } = walked;
    const answer = await this.#run('advance', id, [seq, nonce, cap, listed, JSON.stringify(tokens), next ?? '']);
    return answer[0] === 'loop' ? { kind: 'loop' } : step(answer);
  }

  /** Counts a page whose files are all done, once, whoever else may try; the entry is gone then. */
  async commit(id: string, seq: number, nonce: string, counts: Counts, failures: readonly string[]): Promise<Step> {
    return step(await this.#run('commit', id, [seq, nonce, JSON.stringify(counts), ...inBundles(failures)]));
  }

  /** Gives an entry back that was neither finished nor lost, without it counting as a try. */
  async release(id: string, seq: number, nonce: string): Promise<void> {
    await this.#run('release', id, [seq, nonce]);
  }

  /** Puts an entry aside whose listing cannot be read; the job goes on with what is listed and then fails. */
  async listFailed(id: string, seq: number, nonce: string, error: ListingError): Promise<Step> {
    return step(await this.#run('listFailed', id, [seq, nonce, JSON.stringify(error)]));
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

  /** Everything of a job that should have a BullMQ job. Empty where there is no such job. */
  async todo(id: string): Promise<Hints> {
    const answer = await this.#run('todo', id, []);
    return answer[0] === 'ok' ? hints(answer) : { epoch: 0, seqs: [] };
  }

  /** Removes the record of a job that is not active. */
  async delete(id: string): Promise<'ok' | 'conflict' | 'unknown'> {
    const keys = jobKeys(id);
    return (await this.#run('delete', id, [keys.leases, keys.rate]))[0] as 'ok' | 'conflict' | 'unknown';
  }

  /** The ids of all jobs that are not at their end. */
  active(): Promise<string[]> {
    return this.redis.smembers(sharedKeys.active);
  }

  /** A job's order, with its secret headers. Null: no such job. */
  async spec(id: string): Promise<JobSpec | null> {
    const [spec, headers] = await this.redis.hmget(jobKeys(id).job, 'spec', 'headers');
    if (spec == null || headers == null) return null;
    return {
      ...(JSON.parse(spec) as Omit<JobSpec, 'headers'>),
      headers: JSON.parse(headers) as Record<string, string>,
    };
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

function hints(answer: readonly unknown[]): Hints {
  return { epoch: Number(answer[1]), seqs: ((answer[2] ?? []) as string[]).map(Number) };
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
