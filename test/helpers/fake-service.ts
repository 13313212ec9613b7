import { Readable } from 'node:stream';
import { EventStream } from '../../jobs/event-stream.ts';
import type { RouteOptions } from '../../routes/parts.ts';
import { Problem } from '../../src/errors.ts';
import { fillDefaults } from '../../src/check-job.ts';
import type { Failure, Job, JobRequest } from '../../src/schemas.ts';

export const knownId = '019a9f3c-6c2e-7d4b-9f60-2b8c1d7e5a43';
export const unknownId = '019a9f3c-6c2e-7d4b-9f60-000000000000';

/** A job as the service shows it. */
export function jobOf(request: JobRequest, id = knownId): Job {
  const { headers: _, ...spec } = fillDefaults(request, id);
  return {
    id,
    ...spec,
    state: 'running',
    pausedReason: null,
    waitingReason: null,
    limitedBy: null,
    dataId: null,
    progress: {
      pagesListed: 2,
      pagesDone: 1,
      listingDone: false,
      filesTotal: null,
      filesListed: 2000,
      filesDownloaded: 1000,
      filesSkipped: 0,
      filesFailed: 1,
      filesPending: 999,
      requestsRetried: 0,
      bytesDownloaded: 100_000,
      filesPerSecond: 12.5,
      bytesPerSecond: 1250,
      etaSeconds: null,
    },
    failures: { http_status: 1 },
    error: { reason: 'timeout', message: 'no answer', page: 2, token: 'x', statusCode: null },
    createdAt: '2026-11-20T10:00:00.000Z',
    startedAt: '2026-11-20T10:00:00.120Z',
    finishedAt: null,
    links: {
      self: `/jobs/${id}`,
      events: `/jobs/${id}/events`,
      failures: `/jobs/${id}/failures`,
      manifest: `/jobs/${id}/manifest`,
    },
  };
}

/** `count` failures; every second one has what CSV must quote. */
export function failuresOf(count: number): Failure[] {
  return Array.from({ length: count }, (_, index) => ({
    name: index % 2 === 0 ? `${index}.bin` : `say "${index}",\nplease.bin`,
    url: index % 2 === 0 ? `http://h/get/${index}.bin` : null,
    reason: 'http_status',
    statusCode: index % 2 === 0 ? 404 : null,
    attempts: 1,
    message: 'the server answered 404',
    at: '2026-11-20T10:00:01.000Z',
  }));
}

export type Service = RouteOptions['service'];

/** A service with one job, `knownId`: what the routes make of requests and answers is tested with it, and nothing else. */
export function fakeService(overrides: Partial<Service> = {}): Service {
  const job = jobOf({ source: { type: 'listing', url: 'http://127.0.0.1:3900/list' } });
  const known = (id: string): Job => {
    if (id !== knownId) throw new Problem('not_found', `there is no job ${id}`);
    return job;
  };
  return {
    create: async (request) => ({ job: jobOf(request), replayed: false }),
    upload: async (body, format) => {
      const bytes = (await body.toArray()).join('').length;
      return { id: unknownId, format, bytes, urls: 1 };
    },
    get: async (id) => known(id),
    list: async () => ({ jobs: [job], nextCursor: knownId }),
    steer: async (id) => known(id),
    retry: async (id) => known(id),
    change: async (id) => known(id),
    delete: async (id) => void known(id),
    failures: async (id) => {
      known(id);
      return { failures: failuresOf(2), nextCursor: '1-0' };
    },
    async *allFailures(id) {
      known(id);
      yield failuresOf(2);
      yield [];
      yield failuresOf(1);
    },
    manifest: async (id) => {
      known(id);
      return Readable.from(['{}\n']);
    },
    verify: async (id) => {
      known(id);
      return Readable.from(['{}\n']);
    },
    watch: async (id) => {
      known(id);
      return new EventStream();
    },
    watchAll: async () => new EventStream(),
    workers: async () => [],
    figures: async () => ({
      counts: {},
      workers: 0,
      pagesInWork: 0,
      pagesInFlight: 0,
      hints: { waiting: 0, delayed: 0 },
      jobs: { queued: 0, running: 0, paused: 0 },
    }),
    board: async () => {
      throw new Problem('unavailable', 'there is no queue here');
    },
    ping: async () => {},
    close: async () => {},
    ...overrides,
  };
}
