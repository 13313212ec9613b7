/** Says what is wrong after a round. Each check is one of the guarantees in jobs/README.md. */
import { hash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { connectRedis } from '../../src/redis.ts';
import { damagedMembers, readIndex, readMember } from '../../src/sinks/shards/read-shard.ts';
import { filesBelow } from '../helpers/folders.ts';
import type { ManifestFile, VerifyLine } from '../../src/manifest-schemas.ts';
import type { Failure, Job } from '../../src/schemas.ts';
import type { Expected } from './content.ts';
import type { Allowance } from './faults.ts';
import type { Injected } from './round.ts';
import { firmCounts, type Watch } from './watch.ts';
import type { RunningJob, World } from './world.ts';

export interface Violation {
  readonly check: string;
  readonly message: string;
}

/** All that is known of a round in which all jobs have ended. */
export interface Evidence {
  readonly world: World;
  readonly watches: readonly Watch[];
  readonly injected: readonly Injected[];
  /** For whoever reads along. */
  readonly notes: string[];
}

/** One job and what is known of it at its end. */
interface Ended {
  readonly running: RunningJob;
  readonly watch: Watch;
  readonly job: Job;
  readonly failures: readonly Failure[];
  readonly allows: (what: keyof Allowance) => boolean;
  readonly evidence: Evidence;
}

type Check<T> = (of: T) => Iterable<string> | Promise<Iterable<string>>;

/** What each job must fulfil. */
const jobChecks: Readonly<Record<string, Check<Ended>>> = {
  'it ends as it must': end,
  'every listed file is counted once': counts,
  'what failed is told, and nothing else failed': failures,
  'files fail with `sink` only while the disk is full': sinkFailures,
  'the files are those of the server': files,
  'its manifest is true, and comparing the files with it finds nothing': manifest,
  'its states are those of the state machine': states,
  'its counts do not go back': setbacks,
  'there are never more requests in flight than it may have': concurrency,
  'a pause and a cancel take hold within a second': quiet,
  'what was fetched again was in work when something broke': requests,
};

/** What the service as a whole must fulfil; the last one ends it. */
const serviceChecks: Readonly<Record<string, Check<Evidence>>> = {
  'there is no job that nobody posted': onlyJobs,
  'no temporary file is left': temporaryFiles,
  'Redis holds nothing but what it should': redisKeys,
  'it ends in order': ending,
  'the log tells of no bug': log,
};

/** For what was on its way when the disk had room again, in ms. */
const SINK_LATE_MS = 250;
/** How long a pause may take to be in force, in ms. */
const QUIET_AFTER_MS = 1000;
/** Patience for what tidies up by itself, such as the sweep of an idle worker, in ms. */
const TIDY_MS_MAX = 10_000;

export async function judge(evidence: Evidence): Promise<Violation[]> {
  const { world, watches, injected } = evidence;
  const allows = (what: keyof Allowance): boolean => injected.some((fault) => fault.allows[what]);
  const violations: Violation[] = [];
  for (const [index, running] of world.jobs.entries()) {
    const watch = watches[index];
    const job = await world.service.until(running.id, () => true);
    if (watch === undefined) continue;
    const ended: Ended = { running, watch, job, failures: await readFailures(world, running.id), allows, evidence };
    for (const [check, find] of Object.entries(jobChecks)) {
      for (const message of await find(ended)) violations.push({ check, message: `job-${index} ${message}` });
    }
  }
  for (const [check, find] of Object.entries(serviceChecks)) {
    for (const message of await find(evidence)) violations.push({ check, message });
  }
  return violations;
}

function readFailures(world: World, id: string): Promise<Failure[]> {
  return readLines(world, 'GET', `/jobs/${id}/failures`);
}

async function readLines<T>({ service }: World, method: string, path: string): Promise<T[]> {
  for (;;) {
    const answer = await fetch(service.url + path, { method, headers: { accept: 'application/x-ndjson' } });
    const text = await answer.text();
    if (answer.ok)
      return text
        .split('\n')
        .filter(Boolean)
        .map((line) => JSON.parse(line) as T);
    await sleep(50);
  }
}

function* end({ running, job, failures, evidence }: Ended): Iterable<string> {
  const broken = running.plan.brokenAt !== null;
  const must = broken ? 'failed' : failures.length > 0 ? 'completed_with_failures' : 'completed';
  if (job.state === 'cancelled' && running.cancelAsked) return;
  const { cancelledMs } = running;
  const undone = evidence.injected.some(({ allows, atMs }) => allows.undone && atMs >= (cancelledMs ?? 0));
  if (cancelledMs !== null && !undone) yield `is ${job.state} although it was cancelled`;
  if (job.state !== must) yield `is ${job.state}, not ${must}: ${JSON.stringify(job.error)}`;
  if (broken && job.error?.statusCode !== 410) yield `failed for another reason: ${JSON.stringify(job.error)}`;
}

/** Files that failed because they could not be stored, where that is allowed: they may stand for any other outcome. */
function spoilt({ failures, allows }: Ended): Set<string> {
  return new Set(allows('sink') ? failures.filter(({ reason }) => reason === 'sink').map(({ name }) => name) : []);
}

function* counts(ended: Ended): Iterable<string> {
  const { job, watch } = ended;
  for (const seen of watch.unequal) yield `did not add up after ${seen.atMs} ms: ${JSON.stringify(seen.job.progress)}`;
  yield* unequal('filesFailed', job.progress.filesFailed, ended.failures.length);
  if (job.state === 'cancelled') yield* countsBeforeItsEnd(ended);
  else yield* countsAtItsEnd(ended);
}

function* countsBeforeItsEnd({ running, job }: Ended): Iterable<string> {
  const { progress } = job;
  yield* outside('filesListed', progress.filesListed, 0, running.expected.length);
  yield* outside('filesDownloaded', progress.filesDownloaded, 0, numberOf(running.expected, 'downloaded'));
  yield* outside('filesSkipped', progress.filesSkipped, 0, numberOf(running.expected, 'skipped'));
}

function* countsAtItsEnd(ended: Ended): Iterable<string> {
  const { running, job } = ended;
  const { expected, plan } = running;
  const { progress } = job;
  const spoiltNames = spoilt(ended);
  const sure = expected.filter(({ name }) => !spoiltNames.has(name));
  const settled = progress.filesDownloaded + progress.filesSkipped + progress.filesFailed;
  yield* unequal('filesListed', progress.filesListed, expected.length);
  yield* unequal('files downloaded, skipped and failed', settled, expected.length);
  yield* unequal('filesPending', progress.filesPending, 0);
  for (const [field, outcome] of [
    ['filesDownloaded', 'downloaded'],
    ['filesSkipped', 'skipped'],
  ] as const) {
    yield* outside(field, progress[field], numberOf(sure, outcome), numberOf(expected, outcome));
  }
  const emptyLast = plan.next === 'page' || plan.next === 'offset';
  const all = Math.ceil(running.listed / plan.pageSize) + (emptyLast ? 1 : 0);
  const pages = plan.brokenAt === null ? all : expected.length / plan.pageSize;
  yield* unequal('pagesListed', progress.pagesListed, pages);
  yield* unequal('pagesDone', progress.pagesDone, pages);
  // What a page lists twice is fetched once.
  const once = [...new Map(sure.map((file) => [file.outcome + file.name, file])).values()];
  yield* outside('bytesDownloaded', progress.bytesDownloaded, bytesOf(once), bytesOf(expected));
}

function numberOf(files: readonly Expected[], outcome: Expected['outcome']): number {
  return files.filter((file) => file.outcome === outcome).length;
}

function bytesOf(files: readonly Expected[]): number {
  return files.reduce((sum, { outcome, body }) => sum + (outcome === 'downloaded' ? (body?.length ?? 0) : 0), 0);
}

function* failures(ended: Ended): Iterable<string> {
  const spoiltNames = spoilt(ended);
  const left = new Map<string, number>();
  const add = (name: string, reason: string | null, by: number): void => {
    if (spoiltNames.has(name)) return;
    const key = `${name} (${reason})`;
    left.set(key, (left.get(key) ?? 0) + by);
  };
  for (const { name, outcome, reason } of ended.running.expected) if (outcome === 'failed') add(name, reason, 1);
  for (const { name, reason } of ended.failures) add(name, reason, -1);
  for (const [key, missing] of left) {
    if (missing > 0 && ended.job.state !== 'cancelled') yield `${key} should have failed`;
    if (missing < 0) {
      const [name] = key.split(' (');
      yield `${key} should not have failed: ${JSON.stringify(ended.failures.find((failure) => failure.name === name))}`;
    }
  }
}

/** Files may fail with `sink` while the disk is full, not later. */
function* sinkFailures({ running, failures, evidence }: Ended): Iterable<string> {
  // A shard or a manifest that cannot be finished fails all its files, at its end.
  if (running.plan.manifest || evidence.injected.some(({ name }) => name === 'wrong clock')) return;
  for (const { name, reason, at, message } of failures) {
    if (reason !== 'sink') continue;
    const atMs = Date.parse(at) - evidence.world.startedAt;
    const full = evidence.injected.some(
      ({ allows, atMs: fromMs, undoneMs }) =>
        allows.sink && atMs >= fromMs - 5 && atMs <= (undoneMs ?? 0) + SINK_LATE_MS,
    );
    if (!full) yield `${name} failed after ${atMs} ms, when the disk had room: ${message}`;
  }
}

/** A cancelled job forgets the pages of a time that was undone, and what they published stays. */
function isUndoneForGood({ job, allows }: Ended): boolean {
  return job.state === 'cancelled' && allows('undone');
}

async function files(ended: Ended): Promise<Iterable<string>> {
  return ended.running.plan.sink === 'directory' ? filesInFolder(ended) : filesInShards(ended);
}

/** Each member once, of all shards together. */
async function filesInShards(ended: Ended): Promise<string[]> {
  const { folder, expected } = ended.running;
  const spoiltNames = spoilt(ended);
  const must = new Map<string, Uint8Array>();
  for (const { name, body } of expected) if (body !== null) must.set(name, body);
  const undone = isUndoneForGood(ended);
  const problems: string[] = [];
  const found = new Set<string>();
  for (const file of readdirSync(folder).filter((name) => /\.(tar|ndjson)(\.gz|\.zst)?$/.test(name))) {
    const shard = join(folder, file);
    for await (const { name } of damagedMembers(shard)) problems.push(`has a damaged ${name} in ${file}`);
    for await (const member of readIndex(shard)) {
      if (found.has(member.name) && !undone) problems.push(`has ${member.name} twice, the second time in ${file}`);
      found.add(member.name);
      const pieces: Buffer[] = [];
      for await (const piece of readMember(shard, member)) pieces.push(piece);
      const body = must.get(member.name);
      if (body === undefined || !Buffer.concat(pieces).equals(body))
        problems.push(`has another ${member.name} in ${file}`);
    }
  }
  if (ended.job.state === 'cancelled') return problems;
  const lacking = [...must.keys()].filter((name) => !found.has(name) && !spoiltNames.has(name));
  return problems.concat(lacking.map((name) => `lacks ${name}`));
}

function* filesInFolder(ended: Ended): Iterable<string> {
  const { running } = ended;
  const { folder, expected } = running;
  const spoiltNames = spoilt(ended);
  const partly = ended.job.state === 'cancelled';
  const must = new Map<string, Uint8Array>();
  for (const { name, body } of expected) if (body !== null) must.set(name, body);
  const found = new Set<string>();
  for (const name of filesBelow(folder)) {
    if (name.startsWith('.gigafetch/')) continue;
    found.add(name);
    const body = readFileSync(join(folder, name));
    const before = partly || spoiltNames.has(name) || !must.has(name);
    const wanted = [must.get(name)].concat(before ? running.there[name] : []);
    if (!wanted.some((bytes) => bytes !== undefined && body.equals(bytes))) {
      yield `has ${name} with ${body.length} bytes that are not the server's: ${body.toString('latin1', 0, 40)}`;
    }
  }
  for (const name of must.keys()) {
    if (!found.has(name) && !spoiltNames.has(name) && !partly) yield `lacks ${name}`;
  }
}

async function manifest(ended: Ended): Promise<string[]> {
  const { running, job, evidence } = ended;
  const { id, plan, expected, there } = running;
  if (!plan.manifest) return [];
  const spoiltNames = spoilt(ended);
  const undone = isUndoneForGood(ended);
  const problems: string[] = [];
  // How often each is yet to come.
  const left = new Map<string, number>();
  const bodies = new Map<string, Uint8Array>();
  for (const { name, outcome, body } of expected) {
    if (outcome === 'failed') continue;
    left.set(name, (left.get(name) ?? 0) + 1);
    if (body !== null) bodies.set(name, body);
  }
  for (const line of await readLines<ManifestFile>(evidence.world, 'GET', `/jobs/${id}/manifest`)) {
    const { name, outcome, sizeBytes, sha256, listed = 1 } = line;
    if (outcome === 'failed') continue;
    left.set(name, (left.get(name) ?? 0) - listed);
    const body = outcome === 'skipped' ? there[name] : bodies.get(name);
    const hashed = outcome === 'skipped' ? null : hash('sha256', body ?? '');
    if (sizeBytes !== body?.length || sha256 !== hashed)
      problems.push(`has a manifest that says ${JSON.stringify(line)}`);
  }
  for (const [name, times] of left) {
    if (times < 0 && !undone) problems.push(`has ${name} ${-times} times too often in its manifest`);
    const may = job.state === 'cancelled' || spoiltNames.has(name);
    if (times > 0 && !may) problems.push(`has ${name} ${times} times too seldom in its manifest`);
  }
  for (const line of await readLines<VerifyLine>(evidence.world, 'POST', `/jobs/${id}/verify`)) {
    const isLeft = line.type === 'problem' && /^(stray|count)$/.test(line.problem) && undone;
    if (line.type === 'problem' && !isLeft) problems.push(`is found to have a problem: ${JSON.stringify(line)}`);
  }
  return problems;
}

/** What may be seen next, also where a state in between was not seen. */
const NEXT: Readonly<Record<Job['state'], readonly Job['state'][]>> = {
  queued: ['running', 'paused', 'completed', 'completed_with_failures', 'failed', 'cancelled'],
  running: ['paused', 'completed', 'completed_with_failures', 'failed', 'cancelled'],
  paused: ['running', 'completed', 'completed_with_failures', 'failed', 'cancelled'],
  completed: [],
  completed_with_failures: [],
  failed: [],
  cancelled: [],
};

function* states({ watch, evidence }: Ended): Iterable<string> {
  for (const [index, { job, atMs }] of watch.states.entries()) {
    const before = watch.states[index - 1];
    if (before === undefined || NEXT[before.job.state].includes(job.state)) continue;
    if (allowedBy(evidence, 'undone', atMs)) continue;
    const again = before.job.state === 'failed' || before.job.state === 'completed_with_failures';
    if (again && (job.state === 'running' || isEnd(job)) && allowedBy(evidence, 'retried', atMs)) continue;
    yield `went from ${before.job.state} to ${job.state} after ${atMs} ms`;
  }
  for (const { job, atMs } of watch.states) {
    if (job.state !== 'paused' || job.pausedReason === 'max_failures') continue;
    if (job.pausedReason === 'user' && evidence.injected.some(({ name }) => name === 'pause')) continue;
    if (job.pausedReason === 'outage' && allowedBy(evidence, 'answers', atMs)) continue;
    yield `paused itself after ${atMs} ms: ${job.pausedReason}`;
  }
}

function isEnd({ state }: Job): boolean {
  return NEXT[state].length === 0;
}

/** Whether a fault that allows this was injected before that moment. */
function allowedBy({ injected }: Evidence, what: keyof Allowance, atMs: number): boolean {
  return injected.some((fault) => fault.allows[what] && fault.atMs <= atMs);
}

function* setbacks({ watch, evidence, running }: Ended): Iterable<string> {
  const { plan } = evidence.world;
  // A run of small pages is one page here.
  const pageNames = Math.max(running.plan.pageSize, 1064);
  const inWork = running.plan.sink === 'directory' ? (plan.workers + 1) * 8 * pageNames : Infinity;
  for (const { before, after, field } of watch.setbacks) {
    const firm = (firmCounts as readonly string[]).includes(field);
    if (allowedBy(evidence, 'undone', after.atMs)) continue;
    const from = before.progress[field as 'filesListed'];
    const to = after.job.progress[field as 'filesListed'];
    const little = field === 'bytesDownloaded' || from - to <= inWork;
    const pausedBefore = watch.states.some(({ job, atMs }) => job.state === 'paused' && atMs <= after.atMs);
    const givenBack = pausedBefore || starved(evidence) > 0 || allowedBy(evidence, 'again', after.atMs);
    // A shard or a manifest that cannot be finished fails all its files, at its end.
    const failed = running.plan.manifest && allowedBy(evidence, 'sink', after.atMs);
    // What a cancel finds in work is shown no more; pages that were listed and done are.
    const cancelled = after.job.state === 'cancelled' && !field.startsWith('pages');
    if (little && (cancelled || (!firm && (givenBack || failed)))) continue;
    yield `${field} went back from ${from} to ${to} after ${after.atMs} ms`;
  }
}

/** How many locks were lost because the machine was too busy to renew them, or for what was done to Redis. */
function starved({ world }: Evidence): number {
  return world.service.output.split(LOCK_LOST).length - 1;
}

function* concurrency({ running, evidence }: Ended): Iterable<string> {
  const { server, plan } = running;
  evidence.notes.push(`${server.maxInFlight} of ${plan.concurrency} requests in flight`);
  // A worker that is not heard of for longer than its lease has what it has in flight beside what others get by then; so it
  // is where Redis does not know any more whom it gave what.
  const over = evidence.injected.some(({ name, allows }) => allows.undone === true || name.startsWith('stop'));
  if (!over) yield* outside('the most requests in flight', server.maxInFlight, 0, plan.concurrency);
}

/** What was asked within a second of a pause or a cancel is in force on every worker; Redis must have been well then. */
function* quiet({ running, evidence }: Ended): Iterable<string> {
  const { server, cancelledMs } = running;
  const spans = [...running.quiet];
  if (cancelledMs !== null) spans.push({ fromMs: cancelledMs, toMs: Infinity });
  for (const { fromMs, toMs } of spans) {
    const troubled = evidence.injected.some(
      ({ allows, atMs, undoneMs }) =>
        (allows.redis || allows.undone) && atMs <= toMs && (undoneMs ?? Infinity) + QUIET_AFTER_MS >= fromMs,
    );
    if (troubled || starved(evidence) > 0) continue;
    for (const { path, atMs } of server.requests) {
      const askedMs = Math.round(atMs - evidence.world.startedMs);
      if (askedMs < fromMs + QUIET_AFTER_MS || askedMs > toMs) continue;
      yield `asked for ${path} after ${askedMs} ms, though it was paused or cancelled at ${fromMs} ms`;
    }
  }
}

function* requests({ running, job, evidence, allows }: Ended): Iterable<string> {
  const { server, plan, expected } = running;
  const skipped = new Set(expected.filter(({ outcome }) => outcome === 'skipped').map(({ name }) => name));
  // Where no sizes are listed the server is asked what changed, and again where the page is run again.
  const asks = plan.existing === 'update' && !plan.objects;
  const unmodified = new Set(asks ? [...skipped].map((name) => server.pathOf(name)) : []);
  for (const { path, headers } of server.requests) {
    if (unmodified.has(path) && headers['if-none-match'] === undefined) yield `asked for ${path} without a condition`;
  }
  let again = 0;
  for (const name of new Set(expected.map(({ name }) => name))) {
    if (asks && skipped.has(name)) continue;
    const times = server.count(server.pathOf(name));
    if (times > 0 && skipped.has(name) && !allows('answers')) yield `asked for ${name}, which was there`;
    again += Math.max(0, times - 1);
  }
  const doubles = plan.odd.length;
  const broken = evidence.injected.filter((fault) => fault.allows.again).length + starved(evidence);
  // What is in flight when its worker dies, or is not heard of, is fetched again: each file at most once a fault. A shard is
  // begun from nothing, and may hold all files.
  const inWork = plan.sink === 'directory' ? plan.concurrency : expected.length;
  const most =
    job.progress.requestsRetried + doubles * 12 + broken * inWork + running.retried * job.progress.filesFailed;
  evidence.notes.push(`${again} of at most ${most} requests again`);
  // A page that is begun again asks again for what could not be stored.
  if (again > most && !allows('answers') && !allows('sink'))
    yield `made ${again} requests again, at most ${most} were in flight`;
}

async function onlyJobs({ world }: Evidence): Promise<Iterable<string>> {
  const list = await world.service.get<{ jobs: Job[] }>('/jobs');
  const ids = list?.jobs.map(({ id }) => id).sort() ?? [];
  const posted = world.jobs.map(({ id }) => id).sort();
  return ids.join() === posted.join() ? [] : [`there are ${ids.join()}, posted were ${posted.join()}`];
}

async function temporaryFiles({ world }: Evidence): Promise<Iterable<string>> {
  return eventually(() =>
    world.jobs.flatMap(({ folder }) => {
      const own = join(folder, '.gigafetch');
      return filesBelow(own)
        .filter((path) => /^(tmp|shards|manifests\/made)\//.test(path))
        .map((path) => `${own}/${path}`);
    }),
  );
}

async function redisKeys({ world }: Evidence): Promise<Iterable<string>> {
  const redis = connectRedis(join(world.redisDir, 'redis.sock'), { patient: true });
  const allowed = [
    /^(jobs|totals|folders)$/,
    /^job:[^:]+(:[rflo])?$/,
    /^workers(:said|:at:.+)?$/,
    /^(idem|calls):/,
    /^(pages|events):(meta|id|events|stalled-check)$/,
  ];
  // The path of a cancelled job is looked at when somebody wants it.
  if (world.jobs.some(({ cancelAsked }) => cancelAsked)) allowed.push(/^sinks$/);
  for (const { id, plan } of world.jobs) {
    if (plan.brokenAt !== null) allowed.push(new RegExp(`^job:${id}:[st]$`));
  }
  try {
    return await eventually(async () => {
      const keys = (await redis.keys('*')).map((key) => key.replace('{gigafetch}:', ''));
      return keys.filter((key) => !allowed.some((pattern) => pattern.test(key)));
    });
  } finally {
    redis.disconnect();
  }
}

async function ending({ world }: Evidence): Promise<Iterable<string>> {
  const problems: string[] = [];
  const exitCode = await world.service.stop();
  if (exitCode !== 0) problems.push(`the exit code is ${exitCode}`);
  for (const role of ['supervisor', 'api', 'worker', 'redis'] as const) {
    const pids = world.service.pids(role);
    if (pids.length > 0) problems.push(`${role} ${pids.join()} still runs`);
  }
  return problems;
}

/** Who shall end while Redis is away cannot say good-bye to it; and the lines of the stack. */
const NOT_CLOSED = /^gigafetch: Error: not closed within|^ +at /;
const LOCK_LOST = 'could not renew lock';
/** Errors that tell of what was done to the service. */
const SAID_OF_FAULTS = /died: it is started again|redis cannot be started|the sink cannot be opened/;
const SAID_OF_REDIS =
  /a page could not be worked on|Redis did not do as asked|progress could not be told|request failed/;

function* log({ world, injected }: Evidence): Iterable<string> {
  const redisAllowed = injected.some(({ allows }) => allows.redis);
  for (const line of world.service.output.split('\n')) {
    if (!line.startsWith('{')) {
      if (redisAllowed && NOT_CLOSED.test(line)) continue;
      if (line !== '') yield `printed: ${line}`;
      continue;
    }
    if (line.includes(LOCK_LOST)) continue;
    const { level, msg } = JSON.parse(line) as { level: number; msg?: string };
    if (level < 50 || SAID_OF_FAULTS.test(msg ?? '') || (redisAllowed && SAID_OF_REDIS.test(msg ?? ''))) continue;
    yield line;
  }
}

/** What `find` finds in the end, once it finds nothing or has had its time. */
async function eventually(find: () => string[] | Promise<string[]>): Promise<string[]> {
  const deadline = performance.now() + TIDY_MS_MAX;
  for (;;) {
    const found = await find();
    if (found.length === 0 || performance.now() > deadline) return found;
    await sleep(50);
  }
}

function* unequal(what: string, is: number, must: number): Iterable<string> {
  if (is !== must) yield `${what} is ${is}, not ${must}`;
}

function* outside(what: string, is: number, least: number, most: number): Iterable<string> {
  if (is < least || is > most) yield `${what} is ${is}, not ${least === most ? least : `${least} to ${most}`}`;
}
