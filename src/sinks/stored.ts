/** Reads what the sink of a job keeps, wherever its DATA_DIR is: the manifest, and whether the files are as that says. */
import { realpath } from 'node:fs/promises';
import { join } from 'node:path';
import { FetchError, systemCode } from '../errors.ts';
import type { Finding } from '../manifest-schemas.ts';
import { sinkKindOf, type SinkSpec } from './index.ts';

/** How far a comparison is. */
export class Checked {
  filesChecked = 0;
  filesRight = 0;
  /** As the job counts them: as often as a page lists them. */
  filesInManifest = 0;
  /** Whether part of the manifest could not be read, so that how many files it has is not known. */
  partly = false;
  /** When the job came to its end, in ms since 1970. */
  readonly endedMs: number;
  /** Ends it: whoever waits for it gets an error. */
  readonly signal: AbortSignal;
  /** One number: how many bytes were read. Threads count it up while they read. */
  readonly bytes = new BigUint64Array(new SharedArrayBuffer(8));

  constructor(endedMs: number, signal: AbortSignal) {
    this.endedMs = endedMs;
    this.signal = signal;
  }

  get bytesRead(): number {
    return Number(this.bytes[0]);
  }
}

export interface Stored {
  /**
   * The lines of the manifest (schema ManifestFile) for the page `seq`, in pieces of any size; none where it stored nothing.
   * Throws the system's errors, and those of what unpacks an index.
   */
  lines(seq: number): AsyncGenerator<string | Buffer>;
  /** What is not as the manifest says of the page `seq`. Counts in `checked` while it reads; memory is flat. */
  check(seq: number, checked: Checked): AsyncGenerator<Finding>;
  /** Files that are named as if they belonged to a page of the job, which has `pages` of them, and do not. */
  strays(pages: number): AsyncGenerator<Finding>;
}

/** `dataDir`: an absolute path of what exists. Throws FetchError (`sink`): the folder is not below it. */
export async function openStored(
  spec: SinkSpec,
  { dataDir, jobId }: { dataDir: string; jobId: string },
): Promise<Stored> {
  const data = await realpath(dataDir);
  const path = join(data, spec.path);
  // What is not there has no files.
  const root = await realpath(path).catch((error: unknown) =>
    systemCode(error) === 'ENOENT' ? path : Promise.reject(error),
  );
  if (!root.startsWith(data.endsWith('/') ? data : `${data}/`))
    throw new FetchError('sink', `"${spec.path}" leads out of DATA_DIR`);
  return sinkKindOf(spec).stored(spec, `${root}/`, jobId);
}
