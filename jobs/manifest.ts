/** What the API reads from DATA_DIR: the manifest of a job, and whether its files are as that says. */
import { Readable } from 'node:stream';
import type { Redis } from 'ioredis';
import { readDataId } from '../src/data-id.ts';
import { FetchError, Problem } from '../src/errors.ts';
import type { ManifestFile } from '../src/manifest-schemas.ts';
import type { Failure, Job } from '../src/schemas.ts';
import type { SinkSpec } from '../src/sinks/index.ts';
import { openStored, type Stored } from '../src/sinks/stored.ts';
import { failuresAfter } from './failures.ts';
import { isActive } from './model.ts';
import { jobKeys } from './store.ts';
import { verification } from './verify.ts';

/** Each reads as fast as the disk allows. */
const VERIFICATIONS_MAX = 2;
const VERIFY_AGAIN_SECONDS = 10;

export class Manifests {
  readonly #redis: Redis;
  readonly #dataDir: string;
  #verifications = 0;

  constructor(redis: Redis, dataDir: string) {
    this.#redis = redis;
    this.#dataDir = dataDir;
  }

  /**
   * The lines of the job's manifest (schema ManifestFile), page by page and then what failed, in pieces of any size.
   * Destroying the stream ends it. Throws Problem `conflict`: it keeps none, or it is not in this DATA_DIR.
   */
  async of(job: Job): Promise<Readable> {
    const stored = await this.#open(job);
    const pages = Number(await this.#redis.hget(jobKeys(job.id).job, 'next'));
    return streamOf((signal) => this.#lines(job.id, pages, stored, signal));
  }

  /**
   * What comes of comparing the files of a job at its end with its manifest, as lines (schema VerifyLine). Destroying the
   * stream ends it. Throws Problem: as `of`, `conflict` (the job is not at its end), `too_many_requests`.
   */
  async verify(job: Job): Promise<Readable> {
    const keys = jobKeys(job.id);
    if (isActive(job.state) || (await this.#redis.exists(keys.inFlight)) === 1) {
      throw new Problem('conflict', `the job is ${job.state}, or some of it still ends: verify it at its end`);
    }
    const stored = await this.#open(job);
    const [pages, epoch] = await this.#redis.hmget(keys.job, 'next', 'epoch');
    if (this.#verifications >= VERIFICATIONS_MAX) {
      const detail = `this API process verifies ${VERIFICATIONS_MAX} jobs already, the most at a time`;
      throw new Problem('too_many_requests', detail, { retryAfterSeconds: VERIFY_AGAIN_SECONDS });
    }
    this.#verifications += 1;
    const isAsBefore = async (): Promise<boolean> => (await this.#redis.hget(keys.job, 'epoch')) === epoch;
    const stream = streamOf((signal) => verification({ stored, job, pages: Number(pages), isAsBefore, signal }));
    return stream.once('close', () => (this.#verifications -= 1));
  }

  async #open({ id, sink, dryRun, dataId }: Job): Promise<Stored> {
    if (dryRun) throw new Problem('conflict', 'a dry run stores nothing');
    if (sink.type === 'directory' && sink.manifest !== true) {
      const remedy = 'order it with "manifest": true in its sink (sink.manifest)';
      throw new Problem(
        'conflict',
        `a job that stores single files keeps no manifest unless that is asked for: ${remedy}`,
      );
    }
    if (dataId !== null && readDataId(this.#dataDir) !== dataId) {
      const remedy = 'start the API with that folder as DATA_DIR, and ask there';
      throw new Problem(
        'conflict',
        `the files are in the folder with the id ${dataId}, not in DATA_DIR here: ${remedy}`,
      );
    }
    try {
      return await openStored(sink as SinkSpec, { dataDir: this.#dataDir, jobId: id });
    } catch (error) {
      if (error instanceof FetchError) throw new Problem('conflict', error.message);
      throw error;
    }
  }

  async *#lines(id: string, pages: number, stored: Stored, signal: AbortSignal): AsyncGenerator<string | Buffer> {
    for (let seq = 0; seq < pages; seq += 1) {
      // There may be very many that stored nothing.
      signal.throwIfAborted();
      yield* stored.lines(seq);
    }
    let batch = await failuresAfter(this.#redis, id, null);
    while (batch !== null) {
      yield batch.failures.map((failure) => `${JSON.stringify(failedFile(failure))}\n`).join('');
      batch = await failuresAfter(this.#redis, id, batch.last);
    }
  }
}

function failedFile({ name, url, reason, statusCode, at }: Failure): ManifestFile {
  return { name, url, sizeBytes: null, sha256: null, outcome: 'failed', at, reason, statusCode };
}

/** `signal` aborts when the stream is closed: a generator alone would hear of that with its next line. */
function streamOf(lines: (signal: AbortSignal) => AsyncIterable<string | Buffer>): Readable {
  const closed = new AbortController();
  return Readable.from(lines(closed.signal), { highWaterMark: 2 }).once('close', () => closed.abort());
}
