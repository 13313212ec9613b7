import type { Static, TObject } from 'typebox';
import type { FetchError } from '../errors.ts';
import { directory } from './directory.ts';
import { ndjson, tar } from './shards/kinds.ts';
import type { Stored } from './stored.ts';

/** What every sink is told when it is opened. */
export interface SinkContext {
  /** The absolute path of DATA_DIR; it exists. */
  readonly dataDir: string;
  readonly jobId: string;
  /** Distinct for each worker process that ever ran. */
  readonly workerId: string;
}

/** Takes the bytes of one large body in order. After `finish` the file is whole and there; after `abort` nothing is. */
export interface BodyWriter {
  /** The chunk is not there any more when this has returned. Throws FetchError (`sink`); `abort` must then be called. */
  write(chunk: Uint8Array): void;
  /** Throws FetchError (`sink`, `name_conflict`); the file is then not there. */
  finish(): void;
  /** May be called at any time but after `finish` returned, also twice. Never throws. */
  abort(): void;
}

/** Where a file comes from; `origin` + `path` is its URL. */
export interface FileUrl {
  readonly origin: string;
  readonly path: string;
  /** How often the page lists the file; left out: once. */
  readonly listed?: number;
}

/** What is there under a name: `ours` was stored by this very job, `theirs` was there before it. */
export interface Found {
  readonly whose: 'ours' | 'theirs';
  readonly sizeBytes: number;
}

/**
 * Stores the files of one page (of one attempt at it). Names were checked by `checkName` before. Small bodies are
 * written by synchronous calls: that is the fastest way, and a killed process leaves at most one half-done file.
 */
export interface PageWriter {
  /** What is stored under `name`, null if nothing. Throws FetchError (`sink`, `name_conflict`). */
  find(name: string): Found | null;
  /** Stores a whole body: afterwards the file is there, whole, under its name, in place of what was there. Throws FetchError. */
  put(name: string, body: Uint8Array, from?: FileUrl): void;
  /** Begins a body that is stored piece by piece. Throws FetchError. */
  open(name: string, from?: FileUrl): BodyWriter;
  /** Keeps a short text about the file that was just stored under `name`. It may get lost. Never throws. */
  note?(name: string, text: string): void;
  /** What `note` kept of the file that is under `name` now; null: nothing, or of another one. Never throws. */
  noted?(name: string): string | null;
  /** Of sinks that keep a manifest: this file counts as it was found. Throws FetchError (`sink`). */
  keep?(name: string, found: Found, from: FileUrl): void;
  /**
   * Called once, when every file of the page has its outcome. Afterwards all is as durable as was ordered. Where the sink
   * makes a shard or a manifest of each page, it lies where `publish` finds it; of a shard, nothing was stored before.
   * `members`: files in it; 0: there is nothing to publish. Throws FetchError (`sink`): then it was discarded.
   */
  finish?(): Promise<{ readonly members: number }>;
  /** Takes back what this attempt wrote that is to be published. Never throws. */
  discard?(): void;
}

/** What a sink does that makes something of each page which becomes true only when the page is counted. */
export interface Publisher {
  /**
   * Gives what an attempt finished its final name, in place of what an attempt before the last has there, and removes what
   * other attempts at the page finished. Any worker may do so, at any time, again and again. Returns false where there is
   * nothing by that name nor any to be given one. Throws FetchError (`sink`).
   */
  publish(seq: number, nonce: string): Promise<boolean>;
  /** The page has none: one of that name is of a time that a rollback of Redis has undone, and goes. Never throws. */
  remove(seq: number): void;
  /**
   * What of a job that is over, and had so many pages, is in nobody's way and of no use: what attempts finished and nobody
   * published, and what was published of pages that there were only in a time that was undone. Answers what removes that
   * and nothing that came to be since; null where there is none. Never throws.
   */
  leftovers(pages: number): (() => void) | null;
}

/** Of a sink whose files lie in shards: one for each page, or run of pages. */
export interface Shards extends Publisher {
  /** About how large a shard shall be, compression aside. */
  readonly shardBytes: number;
  /** The bytes of a shard that a file of this size takes, about. */
  bytesOf(sizeBytes: number): number;
}

/** One job's sink, opened by one worker process. */
export interface Sink {
  /** Why it could not be opened; another try may end otherwise. */
  readonly broken?: FetchError;
  /**
   * A writer for one attempt (`nonce`) at the page `seq`, which lists `names`. `isFirst`: no attempt before it can have stored
   * anything of the page, so what was not there when the job was begun need not be looked for.
   */
  page(seq: number, nonce: string, names: readonly string[], isFirst?: boolean): PageWriter;
  readonly shards?: Shards;
  /** Of shards, or of manifests. */
  readonly publisher?: Publisher | undefined;
  /** Removes what killed workers left half done: of every worker that is not among `alive`. Never throws. */
  sweep(alive: ReadonlySet<string>): void;
  /** Called once, when this process is done with the job. Never throws. */
  close(): void;
}

/** A kind of sink. `Spec`: how it was ordered, with every default; `path`, which all have, is the job's id by default. */
export interface SinkKind<Spec> {
  readonly schema: TObject;
  /**
   * Opens the sink of a job; called once for each job and process, before anything else, also when the job was begun
   * long ago by others. Throws FetchError (`sink`).
   */
  open(spec: Spec, context: SinkContext): Promise<Sink>;
  /** Reads what a job stored. `root`: the real path of its folder, with a slash at its end. */
  stored(spec: Spec, root: string, jobId: string): Stored;
}

const kinds = { directory, tar, ndjson };

type Kinds = typeof kinds;
export type SinkRequest = { [K in keyof Kinds]: Static<Kinds[K]['schema']> }[keyof Kinds];
export type SinkSpec = { [K in keyof Kinds]: Parameters<Kinds[K]['open']>[0] }[keyof Kinds];

/** Every kind there is, each under its own type. */
export const sinks = kinds satisfies { [Type in SinkRequest['type']]: SinkKind<never> };

/** The kind of a sink. */
export function sinkKindOf({ type }: { type: keyof Kinds }): SinkKind<SinkSpec> {
  return sinks[type];
}

/** Opens the sink of a job; as `SinkKind.open`. */
export function openSink(spec: SinkSpec, context: SinkContext): Promise<Sink> {
  return sinkKindOf(spec).open(spec, context);
}

/** A sink that could not be opened: every file fails for that reason. */
export function brokenSink(error: FetchError): Sink {
  const fail = (): never => {
    throw error;
  };
  return { broken: error, page: () => ({ find: fail, put: fail, open: fail }), sweep: () => {}, close: () => {} };
}
