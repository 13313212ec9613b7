import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Redis } from 'ioredis';
import { WorkerServer, type ShownWorker } from '../jobs/worker-server.ts';
import { signalProcess } from '../src/processes.ts';
import type { Job } from '../src/schemas.ts';
import { Tally } from '../src/tally.ts';
import { readExposition, valueOf, type Sample } from './helpers/exposition.ts';
import { startFileServer, type FileServer } from './helpers/file-server.ts';
import { temporaryFolder } from './helpers/folders.ts';
import { startTestRedis } from './helpers/redis.ts';
import { killProcesses, startProcess } from './helpers/service-process.ts';
import { TestService } from './helpers/service.ts';

const FILES = 2000;
const PAGE = 100;

const service = new TestService({ WORKER_METRICS_PORT: '0' });
let server: FileServer;

before(async () => {
  server = await startFileServer({ files: FILES, pageSize: PAGE });
  await service.start();
});
after(async () => {
  await service.stop();
  await server.stop();
});

async function scrape(url: string): Promise<Sample[]> {
  const answer = await fetch(`${url}/metrics`);
  const text = await answer.text();
  assert.equal(answer.status, 200, text);
  assert.equal(answer.headers.get('content-type'), 'text/plain; version=0.0.4; charset=utf-8');
  return readExposition(text);
}

/** Scrapes the API until `is` holds. */
async function figures(is: (samples: Sample[]) => boolean): Promise<Sample[]> {
  for (;;) {
    const samples = await scrape(service.url);
    if (is(samples)) return samples;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** The URLs of the ports of both workers, once both are ready. */
async function workerUrls(): Promise<string[]> {
  for (;;) {
    const all = [...service.output.matchAll(/"metrics":"([^"]+)\/metrics"/g)].map(([, url = '']) => url);
    const ready = await Promise.all(
      all.map((url) =>
        fetch(`${url}/readyz`).then(
          ({ ok }) => ok,
          () => false,
        ),
      ),
    );
    const urls = all.filter((_, index) => ready[index]);
    if (urls.length === 2) return urls;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

function post(path: string): Promise<Job> {
  return service.post({
    source: { type: 'listing', url: server.listUrl },
    sink: { type: 'directory', path },
    retry: { attempts: 2, baseDelayMs: 1 },
  });
}

/** What was counted and may never go back, by name and labels. */
function counted(samples: readonly Sample[]): Map<string, number> {
  const counters = samples.filter(({ name }) => /^gigafetch_.*(_total|_bucket|_sum|_count)$/.test(name));
  return new Map(counters.map(({ name, labels, value }) => [name + JSON.stringify(labels), value]));
}

function neverLess(before: readonly Sample[], after: readonly Sample[]): void {
  const now = counted(after);
  for (const [name, value] of counted(before)) assert.ok((now.get(name) ?? -1) >= value, `${name} went back`);
}

test('the figures of the service are those of its job: files, failures, bytes, requests', async () => {
  const faults = [
    server.fault('/get/7.bin', { status: 500 }),
    server.fault('/get/8.bin', { status: 404 }),
    server.fault('/get/9.bin', { body: '', cut: { after: 'start', by: 'reset' } }),
    server.fault('/get/10.bin', { status: 302, headers: { location: '/get/11.bin' } }),
  ];
  const job = await service.ended((await post('one')).id);
  for (const undo of faults) undo();
  assert.equal(job.state, 'completed_with_failures');
  const { filesDownloaded, filesFailed, bytesDownloaded, requestsRetried } = job.progress;
  const samples = await figures((seen) => valueOf(seen, 'gigafetch_files_total', 'downloaded') === filesDownloaded);
  const value = (name: string, label?: string): number => valueOf(samples, name, label);
  assert.equal(value('gigafetch_files_total', 'failed'), filesFailed);
  assert.equal(value('gigafetch_files_total', 'skipped'), 0);
  assert.equal(value('gigafetch_file_failures_total', 'http_status'), 2);
  assert.equal(value('gigafetch_file_failures_total', 'connection'), 1);
  assert.equal(value('gigafetch_downloaded_bytes_total'), bytesDownloaded);
  assert.equal(value('gigafetch_requests_retried_total'), requestsRetried);
  // Those that find out whether the server answers, after one that got no answer, are counted too.
  assert.ok(value('gigafetch_requests_total', '2xx') >= filesDownloaded + FILES / PAGE);
  assert.equal(value('gigafetch_requests_total', '3xx'), 1);
  assert.equal(value('gigafetch_requests_total', '4xx'), 1);
  assert.equal(value('gigafetch_requests_total', '5xx'), 2);
  assert.ok(value('gigafetch_requests_total', 'none') >= 2);
  assert.equal(value('gigafetch_request_duration_seconds_count'), server.count());
  assert.equal(value('gigafetch_workers'), 2);
  assert.ok(value('gigafetch_api_requests_total', '/jobs/:id') > 0);
});

test('while a job runs its pages are in the figures, and afterwards they are not', async () => {
  const release = server.hold((path) => path.startsWith('/get/'));
  const { id } = await post('two');
  const running = await figures((seen) => valueOf(seen, 'gigafetch_pages_in_work') > 0);
  assert.ok(valueOf(running, 'gigafetch_pages_in_flight') > 0);
  assert.equal(valueOf(running, 'gigafetch_active_jobs', 'running'), 1);
  release();
  await service.ended(id);
  const idle = await figures((seen) => valueOf(seen, 'gigafetch_pages_in_work') === 0);
  assert.equal(valueOf(idle, 'gigafetch_pages_in_flight'), 0);
  for (const state of ['queued', 'running', 'paused']) {
    assert.equal(valueOf(idle, 'gigafetch_active_jobs', state), 0);
  }
  for (const state of ['waiting', 'delayed']) assert.equal(valueOf(idle, 'gigafetch_pages_queued', state), 0);
});

test('counters never go back: not when workers are killed, not when a job is deleted', async () => {
  let seen = await scrape(service.url);
  const look = async (): Promise<void> => {
    const now = await scrape(service.url);
    neverLess(seen, now);
    seen = now;
  };
  const release = server.hold('/get/1500.bin');
  const { id } = await post('three');
  await server.requested('/get/1500.bin', 3);
  const downloaded = valueOf(seen, 'gigafetch_files_total', 'downloaded');
  await figures((now) => valueOf(now, 'gigafetch_files_total', 'downloaded') > downloaded);
  await look();
  const workers = service.pids('worker');
  for (const pid of workers) signalProcess(pid, 'SIGKILL');
  await look();
  release();
  assert.equal((await service.ended(id)).state, 'completed');
  await look();
  await fetch(`${service.url}/jobs/${id}`, { method: 'DELETE' });
  await look();
  assert.ok(valueOf(seen, 'gigafetch_files_total', 'downloaded') > downloaded);
});

test('each worker shows its own figures, and whether it is ready, at its own port', async () => {
  const urls = await workerUrls();
  for (const url of urls) {
    assert.match(url, /^http:\/\/127\.0\.0\.1:\d+$/);
    const samples = await scrape(url);
    assert.ok(valueOf(samples, 'gigafetch_worker_requests_total', '2xx') >= 0);
    assert.equal(valueOf(samples, 'gigafetch_worker_pages_in_work'), 0);
    assert.ok(valueOf(samples, 'process_resident_memory_bytes') > 1e6);
    assert.ok(samples.some(({ name }) => name === 'nodejs_eventloop_lag_p99_seconds'));
    assert.ok(samples.every(({ name }) => /^(gigafetch_worker|process|nodejs)_/.test(name)));
    for (const path of ['/livez', '/readyz']) {
      const answer = await fetch(url + path);
      assert.deepEqual([answer.status, await answer.json()], [200, { status: 'ok' }]);
    }
    const answer = await fetch(`${url}/jobs`);
    assert.equal(answer.status, 404);
    assert.match(answer.headers.get('content-type') ?? '', /^application\/problem\+json/);
    assert.equal((await fetch(`${url}/metrics`, { method: 'POST' })).status, 404);
  }
  const total = async (): Promise<number> => {
    const each = await Promise.all(urls.map(scrape));
    return each.reduce((sum, samples) => sum + valueOf(samples, 'gigafetch_worker_files_total', 'downloaded'), 0);
  };
  const before = await total();
  await service.ended((await post('four')).id);
  assert.equal(await total(), before + FILES);
});

test('labels are bounded: none holds a job, a URL, a host or a name', async () => {
  const allowed: Record<string, RegExp> = {
    outcome: /^(downloaded|skipped|failed)$/,
    reason: /^[a-z_]+$/,
    status: /^([1-5]xx|none|other)$/,
    state: /^(queued|running|paused|waiting|delayed)$/,
    le: /^([\d.]+|\+Inf)$/,
    method: /^[A-Z]+$/,
    route: /^(none|\/[a-z]*(\/:id)?(\/[a-z]+)?)$/,
  };
  await fetch(`${service.url}/nothing/here?secret=1`);
  await fetch(`${service.url}/jobs/nothing`);
  const [url = ''] = await workerUrls();
  for (const samples of [await scrape(service.url), await scrape(url)]) {
    const ours = samples.filter(({ name }) => name.startsWith('gigafetch_'));
    assert.ok(ours.length > 0 && ours.length < 200);
    for (const { name, labels } of ours) {
      for (const [label, value] of Object.entries(labels)) {
        assert.match(value, allowed[label] ?? /^no such label$/, `${name} ${label}`);
      }
    }
  }
  const samples = await scrape(service.url);
  assert.ok(samples.some(({ labels: { route, status } }) => route === 'none' && status === '4xx'));
});

test('a worker that Redis has not answered for a while is not ready, but lives', async (t) => {
  let silentMs = Infinity;
  const worker: ShownWorker = {
    figures: () => ({ counts: {}, jobs: 0, pagesInWork: 0, requestsInFlight: 0 }),
    get silentMs() {
      return silentMs;
    },
  };
  const port = new WorkerServer(worker);
  const url = await port.listen('127.0.0.1', 0);
  t.after(() => port.close());
  const status = async (path: string): Promise<number> => (await fetch(url + path)).status;
  assert.equal(await status('/readyz'), 503);
  silentMs = 900;
  assert.equal(await status('/readyz'), 200);
  silentMs = 6000;
  assert.equal(await status('/readyz'), 503);
  assert.equal(await status('/livez'), 200);
});

test('a worker that cannot have its port works without', async (t) => {
  const taken = createServer().listen(0, '127.0.0.1');
  await once(taken, 'listening');
  const redis = await startTestRedis();
  const asking = new Redis(redis.url);
  t.after(async () => {
    killProcesses();
    asking.disconnect();
    taken.close();
    await redis.stop();
  });
  const { port } = taken.address() as AddressInfo;
  const dataDir = temporaryFolder();
  const worker = startProcess(fileURLToPath(new URL('../src/worker.ts', import.meta.url)), {
    REDIS_URL: redis.url,
    DATA_DIR: dataDir,
    STATE_DIR: `${dataDir}-state`,
    WORKER_METRICS_PORT: String(port),
  });
  const error = await worker.line(({ msg, err }) =>
    msg === 'the worker has no port' ? JSON.stringify(err) : undefined,
  );
  assert.match(error, new RegExp(`WORKER_METRICS_PORT ${port}: something listens there already`));
  while ((await asking.zcard('{gigafetch}:workers')) === 0) await new Promise((resolve) => setTimeout(resolve, 20));
});

test('a tally gives what is new once, again where it could not be told, and counts by status and duration', () => {
  const tally = new Tally();
  assert.deepEqual(tally.take(), {});
  tally.downloaded += 2;
  tally.failed('timeout', 3);
  for (const status of [0, 199, 200, 206, 304, 404, 503, 999]) tally.requestEnded(status, 1);
  const first = tally.take();
  assert.deepEqual(first, {
    downloaded: 2,
    'failed:timeout': 3,
    'status:none': 1,
    'status:other': 2,
    'status:2xx': 2,
    'status:3xx': 1,
    'status:4xx': 1,
    'status:5xx': 1,
    'within:0.001': 8,
    micros: 8000,
  });
  tally.downloaded += 1;
  const second = tally.take();
  assert.deepEqual(second, { downloaded: 1 });
  tally.putBack(first);
  tally.requestEnded(200, 61_000);
  const third = tally.take();
  assert.deepEqual(third, { ...first, 'status:2xx': 3, 'within:Infinity': 1, micros: 61_008_000 });
  assert.deepEqual(tally.take(), {});
});
