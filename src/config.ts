/** All settings, from the environment, checked at start. */
import { availableParallelism } from 'node:os';
import { isAbsolute, relative, resolve, sep } from 'node:path';
import { cleanEnv, EnvError, makeExactValidator, str, type RequiredValidatorSpec } from 'envalid';
import { StartError } from './errors.ts';
import { hostMatcher } from './hosts.ts';
import { readNetworks, type Network } from './ssrf.ts';

/** What the Host header may say by default. */
export const loopbackHosts: readonly string[] = ['localhost', '*.localhost', '127.0.0.0/8', '::1'];

/** Text that the pattern matches. */
function matching(pattern: RegExp) {
  return makeExactValidator<string>((text) => {
    if (!pattern.test(text)) throw new EnvError();
    return text;
  });
}

/** A whole number within bounds, both included. */
function within(minimum: number, maximum: number) {
  return makeExactValidator<number>((text) => {
    const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
    if (!(value >= minimum && value <= maximum)) throw new EnvError();
    return value;
  });
}

function whole(minimum: number, maximum: number, fallback: number, unit = '') {
  const desc = `a whole number ${unit && `of ${unit} `}from ${minimum} to ${maximum}`;
  return within(minimum, maximum)({ default: fallback, desc });
}

function oneOf<const T extends string>(choices: readonly T[], fallback: T): RequiredValidatorSpec<T> {
  const desc = `${choices.slice(0, -1).join(', ')} or ${choices.at(-1)}`;
  return makeExactValidator<T>((text) => text as T)({ choices, default: fallback, desc });
}

/** Each variable with its default and what it may be, which a refusal names. */
const settings = {
  HOST: str({ default: '127.0.0.1', desc: 'a host name or address to listen on' }),
  PORT: whole(0, 65_535, 3000),
  REDIS_URL: matching(/^(rediss?:\/\/|\/)/)({
    default: undefined,
    desc: 'redis://host:port, rediss://host:port or the absolute path of a Unix socket',
  }),
  DATA_DIR: str({ default: './data', desc: 'a folder' }),
  STATE_DIR: str({ default: './state', desc: 'a folder' }),
  WORKERS: whole(0, 1024, availableParallelism()),
  PAGE_LOCK_MS: whole(500, 600_000, 10_000, 'milliseconds'),
  // Tokens as in RFC 6750, section 2.1
  API_TOKENS: matching(/^[A-Za-z0-9._~+/-]+=*( *, *[A-Za-z0-9._~+/-]+=*)*$/)({
    default: undefined,
    desc: 'bearer tokens of letters, digits and -._~+/, separated by commas',
  }),
  ALLOW_ANONYMOUS: oneOf(['true', 'false'], 'false'),
  ALLOWED_NETWORKS: str({ default: '', desc: 'networks, separated by commas' }),
  ALLOWED_HOSTS: str({
    default: undefined,
    desc: 'names, "*.name" for all names below one, addresses and networks, separated by commas; or "*"',
  }),
  RATE_LIMIT: whole(1, 10_000_000, 6000, 'calls a minute'),
  MAX_ACTIVE_JOBS: whole(1, 1_000_000, 10_000),
  WORKER_METRICS_PORT: within(0, 65_535)({ default: undefined, desc: 'a whole number from 0 to 65535' }),
  QUEUES_UI: oneOf(['true', 'false'], 'false'),
  MAX_UPLOAD_BYTES: whole(1024, 1_099_511_627_776, 8_589_934_592, 'bytes'),
  LOG_LEVEL: oneOf(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'], 'info'),
};

/** The settings as the service goes by them. Folders are absolute paths. */
export interface Config {
  readonly host: string;
  readonly port: number;
  /** A redis:// or rediss:// URL or the absolute path of a Unix socket; null: the service runs its own Redis. */
  readonly redisUrl: string | null;
  readonly dataDir: string;
  readonly stateDir: string;
  readonly workers: number;
  /** How long a worker may be silent before its pages go to others; a tenth of it again may pass until that is noticed. */
  readonly pageLockMs: number;
  /** Bearer tokens of which every call needs one; empty: everything is open. */
  readonly apiTokens: readonly string[];
  /** Whether the API may listen beyond this machine without tokens. */
  readonly allowAnonymous: boolean;
  /** What jobs may reach although it is not globally reachable. */
  readonly allowedNetworks: readonly Network[];
  /** What the Host header may say: entries for `hostMatcher`. */
  readonly allowedHosts: readonly string[];
  /** Calls that a client may make in a minute. */
  readonly rateLimit: number;
  /** How many jobs may be not at their end. */
  readonly activeJobsMax: number;
  /** Where a worker shows its figures, and the first of several workers; 0: any free port; null: nowhere. */
  readonly workerMetricsPort: number | null;
  /** Whether the API shows its queue at /queues. */
  readonly queuesUi: boolean;
  /** The size of a list of URLs, packed or not, in bytes. */
  readonly uploadBytesMax: number;
  readonly logLevel: 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'silent';
}

/**
 * Reads the settings out of an environment; an empty variable counts as unset.
 * Throws StartError with one line that names the variable and what it may be.
 */
export function readConfig(environment: NodeJS.ProcessEnv): Config {
  const given = Object.fromEntries(Object.entries(environment).filter(([, text]) => text !== ''));
  const env = cleanEnv(given, settings, {
    reporter({ errors }) {
      for (const name of Object.keys(errors) as (keyof typeof settings)[]) refuse(name, given[name]);
    },
  });
  const dataDir = resolve(env.DATA_DIR);
  const stateDir = resolve(env.STATE_DIR);
  if (holds(dataDir, stateDir) || holds(stateDir, dataDir)) {
    throw new StartError(
      `STATE_DIR (${stateDir}) and DATA_DIR (${dataDir}) must be two folders, neither inside the other`,
    );
  }
  return {
    host: env.HOST,
    port: env.PORT,
    redisUrl: env.REDIS_URL ?? null,
    dataDir,
    stateDir,
    workers: env.WORKERS,
    pageLockMs: env.PAGE_LOCK_MS,
    apiTokens: env.API_TOKENS?.split(/ *, */) ?? [],
    allowAnonymous: env.ALLOW_ANONYMOUS === 'true',
    allowedNetworks: readNetworks(env.ALLOWED_NETWORKS),
    allowedHosts: readHosts(env),
    rateLimit: env.RATE_LIMIT,
    activeJobsMax: env.MAX_ACTIVE_JOBS,
    workerMetricsPort: env.WORKER_METRICS_PORT ?? null,
    queuesUi: env.QUEUES_UI === 'true',
    uploadBytesMax: env.MAX_UPLOAD_BYTES,
    logLevel: env.LOG_LEVEL,
  };
}

function readHosts({ HOST, ALLOWED_HOSTS }: { HOST: string; ALLOWED_HOSTS: string | undefined }): string[] {
  const entries = ALLOWED_HOSTS?.split(',').map((entry) => entry.trim()) ?? [...loopbackHosts];
  // Nobody calls 0.0.0.0 or ::, and a zone (fe80::1%eth0) is in no Host header.
  if (ALLOWED_HOSTS === undefined && !/^[0.:]+$|%/.test(HOST)) entries.push(HOST);
  try {
    hostMatcher(entries);
  } catch {
    if (ALLOWED_HOSTS === undefined) refuse('HOST', HOST);
    refuse('ALLOWED_HOSTS', ALLOWED_HOSTS);
  }
  return entries;
}

function refuse(name: keyof typeof settings, text: string | undefined): never {
  // Secrets are not repeated; a Redis URL may hold a password.
  const said = name === 'REDIS_URL' || name === 'API_TOKENS' ? '' : ` is ${JSON.stringify(text)}; it`;
  throw new StartError(`${name}${said} must be ${settings[name].desc}`);
}

/** Whether `inner` is `outer` itself or lies below it; both absolute. */
export function holds(outer: string, inner: string): boolean {
  const path = relative(outer, inner);
  return path === '' || (path !== '..' && !path.startsWith(`..${sep}`) && !isAbsolute(path));
}
