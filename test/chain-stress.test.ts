/**
 * Random walks of simulated workers, users, sweeper and BullMQ against the real scripts in a real Redis, with faults
 * between any two steps. GIGAFETCH_RUNS: how many walks; GIGAFETCH_SEED: of the first one, each later one has one more.
 * A walk that fails prints its seed: GIGAFETCH_RUNS=1 with that seed is the same walk again.
 */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { Redis } from 'ioredis';
import { pulse } from '../jobs/pulse.ts';
import { ChainStore, jobKeys, type Hints, type Step } from '../jobs/store.ts';
import { connectRedis } from '../src/redis.ts';
import { jobSpec } from './helpers/job-spec.ts';
import { startTestRedis, type TestRedis } from './helpers/redis.ts';

const RUNS = Number(process.env['GIGAFETCH_RUNS'] ?? 400);
const SEED = Number(process.env['GIGAFETCH_SEED'] ?? 1);
/** Walks at once over the one connection: they do not touch each other, and Redis is kept busy. */
const LANES = 16;
const STEPS_MAX = 4000;
const WORKERS = 3;
const FILES_PER_PAGE = 2;
const finalStates: ReadonlySet<string> = new Set(['completed', 'completed_with_failures', 'failed']);

let server: TestRedis;
let redis: Redis;

before(async () => {
  server = await startTestRedis();
  redis = connectRedis(server.url, { patient: true });
});

after(async () => {
  redis.disconnect();
  await server.stop();
});

type NextStep = 'begin' | 'list' | 'advance' | 'add' | 'tell' | 'commit' | 'listFailed' | 'release' | 'end';

/** One attempt at one hint, as a worker has it in memory. */
interface Attempt {
  step: NextStep;
  afterAdd: 'list' | 'tell' | 'end';
  readonly hint: string;
  readonly seq: number;
  readonly epoch: number;
  readonly nonce: string;
  tokens: readonly string[];
  open: boolean;
  next: string | null;
  hints: Hints;
  /** After its release the hint waits again, instead of being done. */
  back: boolean;
}

/** What Redis says of the job between two steps. */
interface Seen {
  state: string;
  epoch: number;
  next: number;
  entries: Record<string, string>;
  live: Record<string, string>;
}

/** The same numbers for the same seed. */
function random(seed: number): (below: number) => number {
  let x = Math.imul(seed, 2_654_435_761) | 0;
  return (below) => {
    x = (Math.imul(x, 1_664_525) + 1_013_904_223) | 0;
    return (x >>> 8) % below;
  };
}

class Walk {
  readonly #store = new ChainStore(redis);
  readonly #id: string;
  readonly #rnd: (below: number) => number;
  readonly log: string[] = [];
  calls = 0;

  readonly #pages: number;
  readonly #capMax: number;
  readonly #maxFailures: number;
  readonly #triesInCompanyMax: number;
  readonly faults: Record<string, number>;

  /** BullMQ: hint → the attempt that holds its lock, null while it waits. */
  readonly #queue = new Map<string, Attempt | null>();
  readonly #workers: (Attempt | null)[] = Array.from({ length: WORKERS }, () => null);
  #sweep: Hints | null = null;
  #pauseEpoch: number | null = null;
  #nonces = 0;

  // What must be true, as far as it was acknowledged.
  /** Who begins an entry last has it. */
  readonly #owner = new Map<number, string>();
  readonly #first = new Map<number, string>();
  readonly #tries = new Map<number, number>();
  readonly #runs = new Map<number, { tokens: readonly string[]; next: string | null }>();
  readonly #committed = new Set<number>();
  readonly #stuck = new Set<number>();
  /** Entries that came of others. */
  #parts = 0;
  #failures = 0;
  #final: Record<string, string> | null = null;

  constructor(seed: number) {
    this.#id = `walk-${seed}`;
    this.#rnd = random(seed);
    const rnd = this.#rnd;
    this.#pages = 1 + rnd(8);
    this.#capMax = 2 + rnd(2);
    this.#maxFailures = [1, 2, 4, 1000][rnd(4)] ?? 1;
    this.#triesInCompanyMax = 1 + rnd(3);
    // Together too few to poison a page.
    this.faults = {
      crash: rnd(4),
      zombie: rnd(4),
      exception: rnd(3),
      otherListing: rnd(4),
      listingFails: rnd(3),
      fileFails: rnd(4),
      pause: rnd(4),
      resend: rnd(4),
      release: rnd(3),
      hasty: rnd(2),
    };
  }

  async run(): Promise<string> {
    const spec = jobSpec({
      sink: { type: 'directory', path: this.#id, durability: 'process' },
      limits: { maxFailures: this.#maxFailures },
    });
    await this.#store.create({
      id: this.#id,
      spec,
      firstToken: 'L0.0',
      cap: this.#capMax,
      activeJobsMax: 1000,
      idempotency: null,
    });
    const quiet = 60 + this.#rnd(100);
    for (let steps = 0; ; steps += 1) {
      assert.ok(steps < STEPS_MAX, 'the job does not end');
      if (steps > quiet) for (const fault of Object.keys(this.faults)) this.faults[fault] = 0;
      const seen = await this.#look();
      if (await this.#ended(seen)) break;
      await this.#step(seen);
    }
    return this.#checkEnd();
  }

  /** Uses up a fault, with a chance of one in `odds`. */
  #happens(fault: string, odds: number): boolean {
    const left = this.faults[fault] ?? 0;
    if (left === 0 || this.#rnd(odds) !== 0) return false;
    this.faults[fault] = left - 1;
    return true;
  }

  async #call<T>(what: string, work: Promise<T>): Promise<T> {
    this.calls += 1;
    const answer = await work;
    this.log.push(`${what} -> ${JSON.stringify(answer)}`);
    return answer;
  }

  /** An operation whose answer may get lost: it is sent again, and only the second answer is heard. */
  async #safely<T>(what: string, operation: () => Promise<T>): Promise<{ heard: T; first: T }> {
    const first = await this.#call(what, operation());
    if (!this.#happens('resend', 8)) return { heard: first, first };
    return { heard: await this.#call(`${what} (again)`, operation()), first };
  }

  async #look(): Promise<Seen> {
    const keys = jobKeys(this.#id);
    const [record, entries, live] = await Promise.all([
      redis.hmget(keys.job, 'state', 'epoch', 'next'),
      redis.hgetall(keys.inFlight),
      redis.hgetall(keys.live),
    ]);
    const [state, epoch, next] = record;
    const seen = { state: state ?? '', epoch: Number(epoch), next: Number(next), entries, live };
    this.#checkAlways(seen);
    return seen;
  }

  #checkAlways({ state, next, entries, live }: Seen): void {
    const seqs = Object.keys(entries);
    assert.ok(seqs.length <= this.#capMax + 1 + this.#parts, 'more pages in flight than the cap and the frontier');
    for (const [seq, counts] of Object.entries(live)) {
      const nonce = entries[seq]?.split(' ')[2];
      assert.equal(counts.split(' ')[0], nonce, `live counts of seq ${seq} outlived their attempt`);
    }
    for (const seq of seqs) assert.ok(!this.#committed.has(Number(seq)), `seq ${seq} is in flight after its commit`);
    if (!finalStates.has(state)) return;
    assert.equal(seqs.length, 0, `${state} with pages in flight`);
    for (let seq = 0; seq < next; seq += 1) {
      assert.ok(this.#committed.has(seq) || this.#stuck.has(seq), `${state} without seq ${seq}`);
    }
  }

  async #ended({ state }: Seen): Promise<boolean> {
    if (!finalStates.has(state)) {
      assert.equal(this.#final, null, 'the final state was taken back');
      return false;
    }
    const record = await redis.hgetall(jobKeys(this.#id).job);
    this.#final ??= record;
    assert.deepEqual(record, this.#final, 'something was counted after the final state');
    return this.#queue.size === 0 && this.#sweep === null && this.#workers.every((attempt) => attempt === null);
  }

  async #step(seen: Seen): Promise<void> {
    if (await this.#user(seen)) return;
    if (this.#rnd(6) === 0) return this.#sweeper();
    for (const [hint, holder] of this.#queue) {
      if (holder !== null && this.#happens('zombie', 10)) {
        this.log.push(`${holder.nonce} loses its lock`);
        this.#queue.set(hint, null);
      }
    }
    const index = this.#rnd(WORKERS);
    const attempt = this.#workers[index] ?? null;
    if (attempt === null) {
      this.#workers[index] = this.#take();
    } else if (this.#happens('crash', 15)) {
      this.log.push(`${attempt.nonce} dies`);
      if (this.#queue.get(attempt.hint) === attempt) this.#queue.set(attempt.hint, null);
      this.#workers[index] = null;
    } else if (this.#happens('exception', 15) || attempt.step === 'end') {
      this.#done(attempt, index);
    } else {
      this.#pulse(attempt, seen);
      await this.#work(attempt, seen);
    }
  }

  /** Pauses, maybe long after having read the epoch, and resumes. */
  async #user({ state, epoch }: Seen): Promise<boolean> {
    if (state === 'running' && this.#happens('pause', 15)) {
      if (this.#rnd(2) === 0) return this.#pause(epoch, true);
      this.#pauseEpoch = epoch;
    }
    if (this.#pauseEpoch !== null && this.#rnd(8) === 0) {
      const meant = this.#pauseEpoch;
      this.#pauseEpoch = null;
      return this.#pause(meant, (state === 'running' || state === 'queued') && epoch === meant);
    }
    if (state !== 'paused' || this.#rnd(4) !== 0) return false;
    const hints = await this.#call('resume', this.#store.resume(this.#id));
    this.#owner.clear();
    this.#tries.clear();
    assert.equal(hints?.epoch, epoch + 1);
    if (hints !== null && this.#rnd(2) === 0) this.#add(hints);
    return true;
  }

  async #pause(epoch: number, may: boolean): Promise<true> {
    const paused = await this.#call(`pause ${epoch}`, this.#store.pause(this.#id, 'user', epoch));
    assert.equal(paused, may, 'a pause for another epoch or state');
    return true;
  }

  /** Reads what is to do, and adds one of it later: it may be out of date by then. */
  async #sweeper(): Promise<void> {
    if (this.#sweep !== null) {
      this.#add(this.#sweep);
      this.#sweep = null;
      return;
    }
    const { epoch, seqs } = await this.#call('todo', this.#store.todo(this.#id));
    const seq = seqs[this.#rnd(Math.max(1, seqs.length))];
    if (seq !== undefined) this.#sweep = { epoch, seqs: [seq] };
  }

  #add({ epoch, seqs }: Hints): void {
    for (const seq of seqs) {
      const hint = `${epoch}_${seq}`;
      if (!this.#queue.has(hint)) this.#queue.set(hint, null);
    }
  }

  #take(): Attempt | null {
    const waiting = [...this.#queue].filter(([, holder]) => holder === null);
    const [hint] = waiting[this.#rnd(Math.max(1, waiting.length))] ?? [];
    if (hint === undefined) return null;
    const [epoch = 0, seq = 0] = hint.split('_').map(Number);
    this.#nonces += 1;
    const nonce = `n${this.#nonces}`;
    const none = { epoch: 0, seqs: [] };
    const rest = { tokens: [], open: false, next: null, hints: none, back: false };
    const attempt: Attempt = { step: 'begin', afterAdd: 'tell', hint, seq, epoch, nonce, ...rest };
    this.#queue.set(hint, attempt);
    return attempt;
  }

  #done(attempt: Attempt, index: number): void {
    this.#workers[index] = null;
    if (this.#queue.get(attempt.hint) !== attempt) return;
    if (attempt.back) this.#queue.set(attempt.hint, null);
    else this.#queue.delete(attempt.hint);
  }

  /** Now and then a worker hears that its page is another's, or the job is paused; or it gives the page back by itself. */
  #pulse(attempt: Attempt, { state, epoch }: Seen): void {
    if (!['list', 'advance', 'tell', 'commit', 'listFailed'].includes(attempt.step)) return;
    const moved = state !== 'running' || epoch !== attempt.epoch || this.#owner.get(attempt.seq) !== attempt.nonce;
    if (moved ? this.#rnd(2) === 0 : this.#happens('release', 15)) {
      attempt.step = 'release';
      attempt.back = !moved;
    }
  }

  async #work(attempt: Attempt, seen: Seen): Promise<void> {
    switch (attempt.step) {
      case 'begin':
        return this.#begin(attempt, seen);
      case 'list':
        return this.#list(attempt);
      case 'advance':
        return this.#advance(attempt);
      case 'add':
        this.#add(attempt.hints);
        attempt.step = attempt.afterAdd;
        return;
      case 'tell':
        return this.#tell(attempt);
      case 'commit':
        return this.#commit(attempt, seen);
      case 'listFailed':
        return this.#listFailed(attempt, seen);
      case 'release':
        return this.#release(attempt);
      case 'end':
    }
  }

  async #begin(attempt: Attempt, seen: Seen): Promise<void> {
    const { seq, epoch, nonce } = attempt;
    const { heard, first } = await this.#safely(`begin ${seq} of epoch ${epoch} ${nonce}`, () =>
      this.#store.begin(this.#id, seq, epoch, nonce, this.#triesInCompanyMax),
    );
    assert.deepEqual({ ...heard, parts: [] }, { ...first, parts: [] }, 'begin sent again answers otherwise');
    if (heard.kind === 'drop') {
      attempt.step = 'end';
      return;
    }
    assert.ok(heard.kind === 'go', 'poisoned');
    assert.equal(seen.epoch, epoch, 'begun in another epoch');
    assert.notEqual(seen.state, 'paused');
    this.#owner.set(seq, nonce);
    this.#tries.set(seq, (this.#tries.get(seq) ?? 0) + 1);
    assert.equal(heard.tries, this.#tries.get(seq), 'tries counted wrongly');
    if (first.kind === 'go') this.#takeApart(seq, first);
    const tokens = heard.tokens as readonly string[];
    const [token] = tokens;
    if (!this.#first.has(seq)) this.#first.set(seq, token ?? '');
    assert.equal(token, this.#first.get(seq), 'the token of an entry changed');
    assert.equal(heard.open, !this.#runs.has(seq), 'open or closed wrongly');
    if (!heard.open) assert.deepEqual(tokens, this.#runs.get(seq)?.tokens, 'other tokens than were recorded');
    attempt.tokens = tokens;
    attempt.open = heard.open;
    attempt.hints = { epoch, seqs: heard.parts };
    attempt.afterAdd = 'list';
    attempt.step = 'add';
  }

  /** A run that was begun too often together: each of its pages is an entry now, with the same tries. */
  #takeApart(seq: number, { tries, parts }: { tries: number; parts: readonly number[] }): void {
    const run = this.#runs.get(seq);
    const apart = tries > this.#triesInCompanyMax ? (run?.tokens.slice(1) ?? []) : [];
    assert.equal(parts.length, apart.length, 'taken apart wrongly, or not');
    this.#parts += parts.length;
    if (run === undefined || parts.length === 0) return;
    for (const [index, part] of [seq, ...parts].entries()) {
      this.#runs.set(part, { tokens: run.tokens.slice(index, index + 1), next: run.tokens[index + 1] ?? run.next });
      if (part !== seq) this.#tries.set(part, tries - 1);
    }
  }

  /** Walks a run of up to three pages, or the recorded one. The listing may have changed since it was walked first. */
  #list(attempt: Attempt): void {
    attempt.step = 'advance';
    if (this.#happens('listingFails', 8)) {
      attempt.step = 'listFailed';
      return;
    }
    if (!attempt.open) {
      attempt.next = this.#nextOf(attempt.tokens.at(-1) ?? '');
      return;
    }
    const tokens = [...attempt.tokens];
    const length = 1 + this.#rnd(3);
    let next = this.#nextOf(tokens[0] ?? '');
    while (next !== null && tokens.length < length && !this.#happens('listingFails', 8)) {
      tokens.push(next);
      next = this.#nextOf(next);
    }
    attempt.tokens = tokens;
    attempt.next = next;
  }

  #nextOf(token: string): string | null {
    const page = Number(token.slice(1).split('.')[0]);
    if (this.#happens('otherListing', 4)) return this.#rnd(2) === 0 ? null : `L${page + 1}.1`;
    return page + 1 < this.#pages ? `L${page + 1}.0` : null;
  }

  async #advance(attempt: Attempt): Promise<void> {
    const { seq, nonce, tokens, next } = attempt;
    if (!this.#runs.has(seq) && this.#happens('hasty', 8)) {
      const counted = this.#store.commit(this.#id, seq, nonce, {}, []);
      assert.equal((await this.#call(`commit ${seq} ${nonce} before advance`, counted)).kind, 'stop');
    }
    const cap = 2 + this.#rnd(this.#capMax - 1);
    const listed = tokens.length * FILES_PER_PAGE;
    const { heard, first } = await this.#safely(`advance ${seq} ${nonce} ${tokens.join()} | ${next}`, () =>
      this.#store.advance(this.#id, seq, nonce, { cap, listed, tokens, next }),
    );
    assert.deepEqual(heard, first, 'advance sent again answers otherwise');
    assert.notEqual(heard.kind, 'loop', 'a loop where there is none');
    if (heard.kind !== 'ok') {
      attempt.step = 'end';
      return;
    }
    if (attempt.open && !this.#runs.has(seq)) this.#runs.set(seq, { tokens, next });
    attempt.hints = heard;
    attempt.afterAdd = 'tell';
    attempt.step = 'add';
  }

  async #tell(attempt: Attempt): Promise<void> {
    const { seq, nonce } = attempt;
    attempt.step = 'commit';
    const budget = {
      wanted: 0,
      inFlight: 0,
      concurrency: 1,
      startsWanted: 0,
      startsPerSecond: 0,
      files: 0,
      bytes: 0,
      origins: {},
      epoch: 0,
      looks: 1,
      idle: 0,
      leftToListing: 0,
    };
    const pages = [{ seq, nonce, counts: { filesDownloaded: 1 } }];
    const told = pulse(redis, { worker: nonce, job: this.#id, ...budget, pages });
    const { lost } = await this.#call(`tell ${seq} ${nonce}`, told);
    assert.deepEqual(lost, this.#has(attempt) ? [] : [seq], 'who has the page is told wrongly');
  }

  /** Whether this attempt has its page. */
  #has({ seq, nonce }: Attempt): boolean {
    return this.#owner.get(seq) === nonce && !this.#committed.has(seq) && !this.#stuck.has(seq);
  }

  async #commit(attempt: Attempt, seen: Seen): Promise<void> {
    const { seq, nonce, tokens } = attempt;
    const listed = tokens.length * FILES_PER_PAGE;
    const failed = this.#happens('fileFails', 3) ? 1 + this.#rnd(2) : 0;
    const counts = { filesListed: listed, filesDownloaded: listed - failed, filesFailed: failed };
    const failures = Array.from({ length: failed }, (_, index) => `${nonce} ${index}`);
    const { heard, first } = await this.#safely(`commit ${seq} ${nonce} with ${failed} failures`, () =>
      this.#store.commit(this.#id, seq, nonce, counts, failures),
    );
    const mine = this.#has(attempt) && seen.state === 'running';
    assert.equal(first.kind, mine ? 'ok' : 'stop', 'a page was counted by who did not have it, or not by who had it');
    if (first.kind === 'ok') {
      this.#committed.add(seq);
      this.#failures += failed;
      assert.deepEqual(tokens, this.#runs.get(seq)?.tokens, 'other pages were counted than were handed on');
      if (heard !== first) assert.equal(heard.kind, 'stop', 'counted twice');
      await this.#checkPause(failed, first);
    }
    this.#afterLast(attempt, heard);
  }

  async #checkPause(failed: number, { seqs }: Hints): Promise<void> {
    const [state, reason] = await redis.hmget(jobKeys(this.#id).job, 'state', 'pausedReason');
    const left = await redis.hlen(jobKeys(this.#id).inFlight);
    const tooMany = failed > 0 && this.#failures >= this.#maxFailures && left > 0;
    assert.equal(state === 'paused', tooMany, 'paused at maxFailures wrongly, or not');
    if (tooMany) assert.deepEqual([reason, seqs], ['max_failures', []]);
  }

  async #release(attempt: Attempt): Promise<void> {
    const { seq, nonce } = attempt;
    const had = this.#has(attempt);
    await this.#safely(`release ${seq} ${nonce}`, () => this.#store.release(this.#id, seq, nonce));
    attempt.step = 'end';
    if (!had) return;
    this.#owner.delete(seq);
    this.#tries.set(seq, (this.#tries.get(seq) ?? 0) - 1);
  }

  async #listFailed(attempt: Attempt, seen: Seen): Promise<void> {
    const { seq, nonce, tokens, open } = attempt;
    const error = { reason: 'http_status', message: '', statusCode: 404, token: tokens[0] ?? null } as const;
    const { heard, first } = await this.#safely(`listFailed ${seq} ${nonce}`, () =>
      this.#store.listFailed(this.#id, seq, nonce, { ...error, atFrontier: open }),
    );
    const mine = this.#has(attempt) && seen.state === 'running';
    assert.equal(first.kind, mine ? 'ok' : 'stop', 'a page was put aside by who did not have it');
    if (mine) this.#stuck.add(seq);
    this.#afterLast(attempt, heard);
  }

  #afterLast(attempt: Attempt, heard: Step): void {
    attempt.step = heard.kind === 'ok' ? 'add' : 'end';
    attempt.afterAdd = 'end';
    if (heard.kind === 'ok') attempt.hints = heard;
  }

  async #checkEnd(): Promise<string> {
    const keys = jobKeys(this.#id);
    const record = await redis.hgetall(keys.job);
    const { state = '' } = record;
    const count = (field: string) => Number(record[field] ?? 0);
    const committed = [...this.#committed];
    const pages = committed.reduce((sum, seq) => sum + (this.#runs.get(seq)?.tokens.length ?? 0), 0);
    assert.equal(count('filesListed'), pages * FILES_PER_PAGE);
    assert.equal(count('filesListed'), count('filesDownloaded') + count('filesFailed'));
    assert.equal(count('filesFailed'), this.#failures);
    assert.equal(await redis.xlen(keys.failures), this.#failures);
    assert.equal(count('pagesDone'), pages);
    const expected = this.#stuck.size > 0 ? 'failed' : this.#failures > 0 ? 'completed_with_failures' : 'completed';
    assert.equal(state, expected);
    if (state !== 'failed') this.#checkChain(count('next'), count('pagesListed'), pages);
    const stuck: Record<string, string> = {};
    for (const [seq, entry] of Object.entries(await redis.hgetall(keys.stuck))) stuck[seq] = entry.slice(0, 1);
    assert.deepEqual(stuck, Object.fromEntries([...this.#stuck].map((seq) => [seq, this.#runs.has(seq) ? 'c' : 'o'])));
    assert.equal(await redis.hlen(keys.tokens), this.#stuck.size);
    assert.equal(await redis.exists(keys.live), 0);
    assert.ok(!(await this.#store.active()).includes(this.#id), 'active after its end');
    assert.equal(await this.#store.delete(this.#id), 'ok');
    assert.equal(await redis.exists(...Object.values(keys)), 0, 'keys are left after delete');
    return state;
  }

  /** Every page from the first to the end of the listing is in one committed run. */
  #checkChain(next: number, listed: number, done: number): void {
    assert.equal(listed, done);
    assert.equal(next, this.#runs.size);
    const runs = new Map([...this.#runs.values()].map((run) => [run.tokens[0], run]));
    let token: string | null = 'L0.0';
    for (let count = 0; count < next; count += 1) {
      const run = runs.get(token ?? '');
      assert.ok(run !== undefined, `the chain breaks at ${token}`);
      token = run.next;
    }
    assert.equal(token, null, 'the end of the listing was not reached');
  }
}

test(`${RUNS} random walks through the chain lose nothing and count nothing twice`, async (t) => {
  const ends: Record<string, number> = {};
  let calls = 0;
  let seed = SEED;
  const lane = async (): Promise<void> => {
    while (seed < SEED + RUNS) {
      const mine = seed;
      seed += 1;
      const walk = new Walk(mine);
      const given = JSON.stringify(walk.faults);
      try {
        const state = await walk.run();
        ends[state] = (ends[state] ?? 0) + 1;
      } catch (error) {
        seed = Infinity;
        const last = walk.log.slice(-40).join('\n');
        throw new Error(`seed ${mine}, faults ${given}, the last calls:\n${last}\n${String(error)}`, { cause: error });
      }
      calls += walk.calls;
    }
  };
  await Promise.all(Array.from({ length: LANES }, lane));
  t.diagnostic(`${calls} calls; ends: ${JSON.stringify(ends)}`);
  assert.equal(await redis.hlen('{gigafetch}:sinks'), 0);
});
