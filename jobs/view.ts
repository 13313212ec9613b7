/** How a job is shown: its record, the live counts of pages in work, and its latest speed, read in one moment. */
import type { Redis } from 'ioredis';
import { Script } from '../src/redis.ts';
import type { Job, JobError, JobSpec, JobState, Progress } from '../src/schemas.ts';
import { isActive } from './model.ts';
import { jobKeys, sharedKeys, type ListingError } from './store.ts';
import { waitingReason } from './waiting.ts';

type Hash = Record<string, string>;
/** In the last SPEED_SECONDS whole seconds. */
type Latest = [files: number, bytes: number, looks: number, idle: number];

const SPEED_SECONDS = 5;
/** In place of a transaction, which ioredis makes an object with all commands there are for. */
const script = new Script('view.lua', import.meta.url);

/** Reads jobs by their ids, in that order; null where there is none. Each is read in one moment, so no count goes back. */
export async function readJobs(redis: Redis, ids: readonly string[]): Promise<(Job | null)[]> {
  const read = await Promise.all(ids.map((id) => readJob(redis, id)));
  return read.map((one) => one?.job ?? null);
}

/** Reads one job; null where there is none. `atMs`: when it was so, by the clock of Redis, in ms since 1970. */
export async function readJob(redis: Redis, id: string): Promise<{ job: Job; atMs: number } | null> {
  const { job, inFlight, live, rate } = jobKeys(id);
  const reply = await script.run(redis, [job, inFlight, live, rate, sharedKeys.folders], [SPEED_SECONDS]);
  const [time, folders, latest, ...hashes] = reply as [[string, string], string[], Latest, ...string[][]];
  const [record = {}, entries = {}, counts = {}] = hashes.map(hashOf);
  if (record.spec === undefined) return null;
  const [second, microsecond] = time.map(Number) as [number, number];
  const atMs = second * 1000 + Math.floor(microsecond / 1000);
  const shown = jobView(id, record, entries, counts, latest, second);
  return { job: { ...shown, waitingReason: waitingReason(record, folders, atMs) }, atMs };
}

/** Of fields, each followed by its value. */
function hashOf(flat: readonly string[]): Hash {
  const hash: Hash = {};
  for (let index = 0; index < flat.length; index += 2) hash[flat[index]!] = flat[index + 1]!;
  return hash;
}

/** Pure. `second`: the time of Redis, in whole seconds since 1970. */
function jobView(
  id: string,
  record: Hash,
  inFlight: Hash,
  live: Hash,
  latest: Latest,
  second: number,
): Omit<Job, 'waitingReason'> {
  const spec = JSON.parse(record.spec ?? '') as Omit<JobSpec, 'headers'>;
  const state = record.state as JobState;
  const counts = countsNow(record, inFlight, live);
  const count = (field: string): number => counts.get(field) ?? 0;
  const settled = count('filesDownloaded') + count('filesSkipped') + count('filesFailed');
  const filesListed = Math.max(count('filesListed'), settled);
  const listingDone = record.listingDone === '1';
  const filesTotal = listingDone ? filesListed : record.total === undefined ? null : Number(record.total);
  const speed = isActive(state)
    ? speedNow(record, latest, second)
    : speedOverall(record, settled, count('bytesDownloaded'));
  const filesPending = filesListed - settled;
  const progress: Progress = {
    pagesListed: count('pagesListed'),
    pagesDone: count('pagesDone'),
    listingDone,
    filesTotal,
    filesListed,
    filesDownloaded: count('filesDownloaded'),
    filesSkipped: count('filesSkipped'),
    filesFailed: count('filesFailed'),
    filesPending,
    requestsRetried: count('requestsRetried'),
    bytesDownloaded: count('bytesDownloaded'),
    ...speed,
    etaSeconds:
      isActive(state) && filesTotal !== null && filesTotal > settled && speed.filesPerSecond > 0
        ? round((filesTotal - settled) / speed.filesPerSecond)
        : null,
  };
  return {
    id,
    name: spec.name,
    state,
    pausedReason: (record.pausedReason ?? null) as Job['pausedReason'],
    limitedBy: state === 'running' && !listingDone && isIdle(latest) ? 'listing' : null,
    dataId: record.dataId ?? null,
    source: spec.source,
    sink: spec.sink,
    priority: spec.priority,
    existing: spec.existing,
    filter: spec.filter,
    dryRun: spec.dryRun,
    retry: spec.retry,
    limits: spec.limits,
    progress,
    failures: failuresByReason(counts),
    error: errorShown(record),
    createdAt: timeShown(record.createdAt) ?? '',
    startedAt: timeShown(record.startedAt),
    finishedAt: timeShown(record.finishedAt),
    links: {
      self: `/jobs/${id}`,
      events: `/jobs/${id}/events`,
      failures: `/jobs/${id}/failures`,
      manifest: `/jobs/${id}/manifest`,
    },
  };
}

/** The record's counts and those of pages in work. A page's live counts belong to the attempt that has it (its nonce). */
function countsNow(record: Hash, inFlight: Hash, live: Hash): Map<string, number> {
  const counts = new Map<string, number>();
  const add = (field: string, by: number): void => void counts.set(field, (counts.get(field) ?? 0) + by);
  for (const [field, value] of Object.entries(record)) {
    if (/^(files|pages|bytes|requests|reason:)/.test(field)) add(field, Number(value));
  }
  for (const [seq, entry] of Object.entries(inFlight)) {
    const [flag, , nonce, listed] = entry.split(' ');
    if (flag === 'c') add('filesListed', Number(listed));
    const said = live[seq];
    if (said === undefined || flag !== 'c' || !said.startsWith(`${nonce} `)) continue;
    const told = JSON.parse(said.slice(said.indexOf(' ') + 1)) as Record<string, number>;
    for (const [field, value] of Object.entries(told)) add(field, value);
  }
  return counts;
}

function failuresByReason(counts: ReadonlyMap<string, number>): Record<string, number> {
  const reasons: Record<string, number> = {};
  for (const [field, value] of counts) {
    if (field.startsWith('reason:') && value > 0) reasons[field.slice('reason:'.length)] = value;
  }
  return reasons;
}

type Speed = Pick<Progress, 'filesPerSecond' | 'bytesPerSecond'>;

/** The mean of the last whole seconds, of those since the start where there were fewer. */
function speedNow(record: Hash, [files, bytes]: Latest, second: number): Speed {
  const started = record.startedAt === undefined ? second : Math.floor(Number(record.startedAt) / 1000);
  const seconds = Math.max(1, Math.min(SPEED_SECONDS, second - started));
  return { filesPerSecond: round(files / seconds), bytesPerSecond: round(bytes / seconds) };
}

/** Whether workers mostly had fewer files to fetch than they could have fetched. */
function isIdle([, , looks, idle]: Latest): boolean {
  return looks >= SPEED_SECONDS && idle > looks / 2;
}

/** The mean of all the time for which it ran. */
function speedOverall(record: Hash, files: number, bytes: number): Speed {
  const ms = Number(record.ranMs);
  if (!(ms > 0)) return { filesPerSecond: 0, bytesPerSecond: 0 };
  return { filesPerSecond: round((files * 1000) / ms), bytesPerSecond: round((bytes * 1000) / ms) };
}

function errorShown(record: Hash): JobError | null {
  if (record.error === undefined) return null;
  const { atFrontier, ...error } = JSON.parse(record.error) as ListingError;
  return { ...error, page: atFrontier ? Number(record.pagesListed ?? 0) : null };
}

function timeShown(ms: string | undefined): string | null {
  return ms === undefined ? null : new Date(Number(ms)).toISOString();
}

function round(value: number): number {
  return value < 100 ? Math.round(value * 10) / 10 : Math.round(value);
}
