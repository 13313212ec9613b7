import { randomUUID } from 'node:crypto';
import type { Logger } from 'pino';
import { FetchError } from '../src/errors.ts';
import { failpoint } from '../src/failpoint.ts';
import { giveMemoryBackSoon, HUGE_PAGE_NAMES } from '../src/memory.ts';
import { withoutSecrets } from '../src/secrets.ts';
import { brokenSink, type PageWriter } from '../src/sinks/index.ts';
import type { GetListing } from '../src/sources/index.ts';
import { attemptCounts, newAttempt, type Attempt, type StopReason } from './attempt.ts';
import type { Company, Member } from './company.ts';
import type { DataFolder } from './data-folder.ts';
import type { JobInWork } from './job-in-work.ts';
import { Items } from './items.ts';
import { isActive, pagesInFlightMax } from './model.ts';
import { readFailed } from './failures.ts';
import { PageFiles } from './page-files.ts';
import type { Hint, HintOutcome, PageQueue } from './queue.ts';
import { TRIES_IN_COMPANY_MAX, type Begun, type ChainStore, type Committed, type Hints, type Token } from './store.ts';
import type { WakeUpSender } from './wake-ups.ts';
import { runPagesMax, walk } from './walk.ts';

/** What a page needs of the worker that takes it. */
export interface PageContext {
  readonly store: ChainStore;
  readonly queue: PageQueue;
  readonly logger: Logger;
  /** How many workers live. */
  readonly workers: number;
  readonly company: Company;
  readonly wakeUps: Pick<WakeUpSender, 'told'>;
  readonly folder: DataFolder;
  /** The ids of the workers that live, this one included. */
  living(): Promise<ReadonlySet<string>>;
  /** Removes what lies beside the job's shards, if it is at its end. */
  forgetMade(job: JobInWork): Promise<void>;
  /** Whether another worker shall have the job's next page. */
  leavesToOthers(job: string): boolean;
  /** The job, opened on this worker; null where there is no such job any more. */
  job(id: string): Promise<JobInWork | null>;
}

/** What an entry of the chain turned out to be. */
interface Run {
  readonly tokens: readonly Token[];
  readonly items: Items;
  readonly next: Token | null;
  /** Names that were not counted as listed before. */
  readonly listed: number;
  readonly failedBefore: Attempt['failedBefore'];
}

type Taken = Extract<Begun, { open: boolean }>;

const DONE = { kind: 'done' } as const satisfies HintOutcome;
const BACK = { kind: 'back' } as const satisfies HintOutcome;

/** When a hint that found no place at its worker comes again. */
const NO_PLACE_MS = 500;

/** Not all at the same moment. */
function later(ms: number): HintOutcome {
  return { kind: 'later', delayMs: Math.ceil(ms + Math.random() * 250) };
}

/**
 * Takes one hint: begin → list → advance → enqueue → fetch → commit → enqueue. It may be killed or overtaken at any point:
 * each operation on the chain is atomic and checks for itself whether this attempt still has the page. `lost` aborts when
 * the hint's lock is lost.
 */
export async function takePage(context: PageContext, hint: Hint, lost: AbortSignal): Promise<HintOutcome> {
  const elsewhereMs = await context.folder.comeBackInMs(hint.job);
  if (elsewhereMs > 0) return later(elsewhereMs);
  if (context.leavesToOthers(hint.job)) return BACK;
  const member = context.company.join(hint.job);
  if (member === 'alone' || member === 'crowded') return later(NO_PLACE_MS);
  try {
    return await takeAmong(context, member, hint, lost);
  } finally {
    member.left();
  }
}

async function takeAmong(context: PageContext, member: Member, hint: Hint, lost: AbortSignal): Promise<HintOutcome> {
  const { store, company } = context;
  const nonce = randomUUID();
  failpoint('taken');
  const begun = await store.begin(hint.job, hint.seq, hint.epoch, nonce);
  if (begun.kind === 'drop') return DONE;
  // No longer queued.
  if (hint.seq === 0) context.wakeUps.told(hint.job, 'state');
  const job = await context.job(hint.job);
  if (job === null) return DONE;
  if (begun.kind === 'publish') {
    await publish(context, job, hint.seq, begun.nonce);
    return DONE;
  }
  await context.queue.add(hint.job, { epoch: hint.epoch, seqs: begun.parts });
  await job.enterEpoch(hint.epoch);
  const { comeBackInMs } = job;
  if (comeBackInMs > 0) {
    await store.release(hint.job, hint.seq, nonce);
    return later(comeBackInMs);
  }
  const attempt = newAttempt({ seq: hint.seq, epoch: hint.epoch, nonce, open: begun.open });
  const { stop } = attempt;
  lost.addEventListener('abort', () => stop.abort('lock' satisfies StopReason));
  const giveBack = (): void => stop.abort('shutdown' satisfies StopReason);
  member.leave.addEventListener('abort', giveBack);
  job.begin(attempt);
  if (attempt.seq > 0) job.requests.firstPageRead();
  try {
    if (begun.kind === 'go' && begun.tries > TRIES_IN_COMPANY_MAX) await company.beAlone(member);
    // It may have been asked before it listened.
    if (member.leave.aborted) giveBack();
    await work(context, job, attempt, begun);
    return DONE;
  } catch (error) {
    if (!stop.signal.aborted) throw error;
    await store.release(hint.job, hint.seq, nonce);
    const reason = stop.signal.reason as StopReason;
    if (reason === 'outage') return later(job.comeBackInMs);
    return reason === 'moved' ? DONE : BACK;
  } finally {
    job.end(attempt);
  }
}

async function work(context: PageContext, job: JobInWork, attempt: Attempt, begun: Taken): Promise<void> {
  const { store, queue, wakeUps, logger } = context;
  const { seq, nonce } = attempt;
  failpoint('begun');
  // An attempt before this one may have left half-done files.
  if (begun.tries > 1) job.sink.sweep(await context.living());
  const handedOn = await listAndHandOn(context, job, attempt, begun);
  if (handedOn === null) return;
  const { run, advanced } = handedOn;
  failpoint('advanced');
  wakeUps.told(job.id, 'progress');
  await queue.add(job.id, advanced);
  failpoint('enqueued');
  await job.openSink();
  attempt.failedBefore = run.failedBefore;
  const { files, isToPublish } = await fetchAndStore(job, attempt, run);
  // Before the commit: a pulse would take the entry that is gone then for lost.
  job.end(attempt);
  const counts = { ...attemptCounts(attempt), filesListed: run.listed };
  const settled = run.failedBefore.map(({ id }) => id);
  const operation = isToPublish ? 'seal' : 'commit';
  const committed = await store[operation](job.id, seq, nonce, counts, files.failures, settled);
  failpoint(isToPublish ? 'sealed' : 'committed');
  if (committed.kind === 'stop') return;
  logger.debug({ job: job.id, page: seq, files: run.items.length }, 'page done');
  if (isToPublish) {
    await tellAndHint(context, job, committed);
    await publish(context, job, seq, nonce);
  } else {
    job.sink.publisher?.remove(seq);
    await tellAndHint(context, job, committed);
  }
  failpoint('done');
}

/** Resolves when every file has its outcome; the page's shard or manifest, if any, is finished then. */
async function fetchAndStore(
  job: JobInWork,
  attempt: Attempt,
  { tokens, items }: Run,
): Promise<{ files: PageFiles; isToPublish: boolean }> {
  const writer = writerOf(job, attempt, items);
  try {
    const files = new PageFiles(job.requests, writer, items);
    await job.fetch(attempt, files);
    attempt.stop.signal.throwIfAborted();
    failpoint('fetched');
    const { members } = (await writer.finish?.()) ?? { members: 0 };
    failpoint('finished');
    attempt.stop.signal.throwIfAborted();
    return { files, isToPublish: members > 0 };
  } catch (error) {
    writer.discard?.();
    // What was taken away under it, or could not be read, may be made by another attempt.
    if (!(error instanceof FetchError) || error.retryable) throw error;
    return { files: allFailed(job, attempt, items, error), isToPublish: false };
  } finally {
    // Not for runs of many small pages: large jobs have one after the other, for which the memory is used again.
    if (items.length >= HUGE_PAGE_NAMES * tokens.length) giveMemoryBackSoon();
  }
}

function writerOf({ sink }: JobInWork, { seq, nonce, open, epoch }: Attempt, items: Items): PageWriter {
  const names = items.names().filter((name) => name !== null);
  // After a pause somebody may have put files there, to be left alone.
  const isFirst = open && epoch === 0;
  return sink.page(seq, nonce, names, isFirst);
}

/** The shard, or manifest, could not be finished: none of its files counts as stored. */
function allFailed(job: JobInWork, attempt: Attempt, items: Items, error: FetchError): PageFiles {
  const { seq, nonce } = attempt;
  const files = new PageFiles(job.requests, brokenSink(error).page(seq, nonce, []), items);
  while (files.next() !== null);
  return (attempt.files = files);
}

/**
 * publish → drop → enqueue: gives a sealed shard, or manifest, its name. One that is not there was taken away by whoever wants it
 * elsewhere, or lost with the power: nothing brings it back, and a `verify` tells. Throws where it cannot be seen: the sweeper's
 * next hint tries again.
 */
async function publish(context: PageContext, job: JobInWork, seq: number, nonce: string): Promise<void> {
  await job.openSink();
  const { broken, publisher } = job.sink;
  if (broken !== undefined) throw broken;
  if ((await publisher?.publish(seq, nonce)) !== true) {
    context.logger.error({ job: job.id, page: seq }, 'what was made of the page, and counted, is not there any more');
  }
  failpoint('published');
  const dropped = await context.store.drop(job.id, seq, nonce);
  failpoint('dropped');
  if (dropped.kind === 'ok') await tellAndHint(context, job, dropped);
}

/** A page was counted, or its entry is gone: the job may have come to its end, or other pages' turn has come. */
async function tellAndHint(
  context: PageContext,
  job: JobInWork,
  done: Extract<Committed, { kind: 'ok' }>,
): Promise<void> {
  if (!isActive(done.state)) await context.forgetMade(job);
  context.wakeUps.told(job.id, done.state === 'running' ? 'progress' : 'state');
  await context.queue.add(job.id, done);
}

/** list → advance. Null: the attempt ends here, as it lost the page or the listing failed. */
async function listAndHandOn(
  context: PageContext,
  job: JobInWork,
  attempt: Attempt,
  begun: Taken,
): Promise<{ run: Run; advanced: Hints } | null> {
  try {
    let run = await list(context, job, attempt, begun);
    failpoint('listed');
    let advanced = await advance(context, job, attempt, run);
    if (advanced.kind === 'loop' && run.tokens.length > 1) {
      // The pages before the one that closes the loop are as good as any.
      run = await list(context, job, attempt, begun, 1);
      advanced = await advance(context, job, attempt, run);
    }
    if (advanced.kind === 'loop') {
      throw new FetchError('listing_loop', 'the listing leads back to a page it has already been on');
    }
    return advanced.kind === 'stop' ? null : { run, advanced };
  } catch (error) {
    if (!(error instanceof FetchError) || attempt.stop.signal.aborted) throw error;
    await listingFailed(context, job, attempt, begun, error);
    return null;
  }
}

async function list(
  { store }: PageContext,
  job: JobInWork,
  attempt: Attempt,
  { kind, tries, tokens, open }: Taken,
  pagesMax = runPagesMax(tries),
): Promise<Run> {
  if (kind === 'poison') {
    const message = `its page was begun ${tries} times and never ended: it seems to make its workers crash`;
    throw new FetchError('worker_crash', message);
  }
  const [first] = tokens;
  if (typeof first === 'object') {
    const { own, rest, items, failed } = await readFailed(store.redis, job.id, first);
    return { tokens: [own], items: new Items(items), next: rest, listed: 0, failedBefore: failed };
  }
  const get: GetListing = (url, into) => job.list(attempt, url, into);
  const run = await walk(job.source, tokens as readonly string[], open, get, job.urlList, {
    size: job.runSize,
    pagesMax,
  });
  return { ...run, listed: run.items.length, failedBefore: [] };
}

function advance({ store, workers }: PageContext, job: JobInWork, { seq, nonce }: Attempt, run: Run) {
  const cap = pagesInFlightMax(workers, job.spec.limits.concurrency, run.items.length);
  return store.advance(job.id, seq, nonce, { ...run, cap });
}

async function listingFailed(
  { store, queue, wakeUps, logger }: PageContext,
  job: JobInWork,
  { seq, nonce, listingRetries }: Attempt,
  { tokens, open }: Taken,
  error: FetchError,
): Promise<void> {
  // Its message may repeat what the server said, and that what it was sent: the job shows it, the log does not.
  logger.warn({ job: job.id, page: seq, reason: error.reason, statusCode: error.statusCode }, 'the listing failed');
  const { reason, statusCode } = error;
  const [token] = tokens;
  const shown = {
    reason,
    message: withoutSecrets(error.message, job.spec.headers),
    statusCode,
    token: typeof token === 'string' ? token : null,
    atFrontier: open,
  };
  const failed = await store.listFailed(job.id, seq, nonce, shown, listingRetries);
  if (failed.kind === 'stop') return;
  wakeUps.told(job.id, 'state');
  await queue.add(job.id, failed);
}
