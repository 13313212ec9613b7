/** All settings, from the environment, checked at start. */
import { availableParallelism } from 'node:os';
import { isAbsolute, relative, resolve, sep } from 'node:path';
import { Type, type Static } from 'typebox';
import { Value } from 'typebox/value';
import { StartError } from './errors.ts';
import { hostMatcher } from './hosts.ts';
import { readNetworks, type Network } from './ssrf.ts';

const levels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;

/** What the Host header may say by default. */
export const loopbackHosts: readonly string[] = ['localhost', '*.localhost', '127.0.0.0/8', '::1'];

const EnvironmentSchema = Type.Object({
  HOST: Type.String({ default: '127.0.0.1' }),
  PORT: Type.Integer({ default: 3000, minimum: 0, maximum: 65_535 }),
  REDIS_URL: Type.Optional(Type.String({ pattern: '^(rediss?://|/)' })),
  DATA_DIR: Type.String({ default: './data' }),
  STATE_DIR: Type.String({ default: './state' }),
  WORKERS: Type.Integer({ default: availableParallelism(), minimum: 0, maximum: 1024 }),
  PAGE_LOCK_MS: Type.Integer({ default: 10_000, minimum: 500, maximum: 600_000 }),
  // Tokens as in RFC 6750, section 2.1
  API_TOKENS: Type.Optional(Type.String({ pattern: '^[A-Za-z0-9._~+/-]+=*( *, *[A-Za-z0-9._~+/-]+=*)*$' })),
  ALLOW_ANONYMOUS: Type.Unsafe<'true' | 'false'>(Type.String({ default: 'false', enum: ['true', 'false'] })),
  ALLOWED_NETWORKS: Type.Optional(Type.String()),
  ALLOWED_HOSTS: Type.Optional(Type.String()),
  RATE_LIMIT: Type.Integer({ default: 6000, minimum: 1, maximum: 10_000_000 }),
  MAX_ACTIVE_JOBS: Type.Integer({ default: 10_000, minimum: 1, maximum: 1_000_000 }),
  WORKER_METRICS_PORT: Type.Optional(Type.Integer({ minimum: 0, maximum: 65_535 })),
  QUEUES_UI: Type.Unsafe<'true' | 'false'>(Type.String({ default: 'false', enum: ['true', 'false'] })),
  MAX_UPLOAD_BYTES: Type.Integer({ default: 8_589_934_592, minimum: 1024, maximum: 1_099_511_627_776 }),
  LOG_LEVEL: Type.Unsafe<(typeof levels)[number]>(Type.String({ default: 'info', enum: [...levels] })),
});

const remedies: Record<keyof Static<typeof EnvironmentSchema>, string> = {
  HOST: 'a host name or address to listen on',
  PORT: 'a whole number from 0 to 65535',
  REDIS_URL: 'redis://host:port, rediss://host:port or the absolute path of a Unix socket',
  DATA_DIR: 'a folder',
  STATE_DIR: 'a folder',
  WORKERS: 'a whole number from 0 to 1024',
  PAGE_LOCK_MS: 'a whole number of milliseconds from 500 to 600000',
  API_TOKENS: 'bearer tokens of letters, digits and -._~+/, separated by commas',
  ALLOW_ANONYMOUS: 'true or false',
  ALLOWED_NETWORKS: 'networks, separated by commas',
  ALLOWED_HOSTS: 'names, "*.name" for all names below one, addresses and networks, separated by commas; or "*"',
  RATE_LIMIT: 'a whole number of calls a minute from 1 to 10000000',
  MAX_ACTIVE_JOBS: 'a whole number from 1 to 1000000',
  WORKER_METRICS_PORT: 'a whole number from 0 to 65535',
  QUEUES_UI: 'true or false',
  MAX_UPLOAD_BYTES: 'a whole number of bytes from 1024 to 1099511627776',
  LOG_LEVEL: `one of ${levels.join(', ')}`,
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
  readonly logLevel: (typeof levels)[number];
}

/**
 * Reads the settings out of an environment; an empty variable counts as unset.
 * Throws StartError with one line that names the variable and what it may be.
 */
export function readConfig(environment: NodeJS.ProcessEnv): Config {
  const given: Record<string, unknown> = {};
  for (const name of Object.keys(remedies) as (keyof typeof remedies)[]) {
    const text = environment[name];
    if (text === undefined || text === '') continue;
    const numeric = 'minimum' in EnvironmentSchema.properties[name];
    given[name] = numeric && /^\d{1,15}$/.test(text) ? Number(text) : text;
  }
  const values = Value.Default(EnvironmentSchema, given);
  for (const name of Object.keys(remedies) as (keyof typeof remedies)[]) {
    const schema = EnvironmentSchema.properties[name];
    const value = (values as Record<string, unknown>)[name];
    if (value !== undefined && !Value.Check(schema, value)) {
      // Secrets are not repeated; a Redis URL may hold a password.
      const said = name === 'REDIS_URL' || name === 'API_TOKENS' ? '' : ` is ${JSON.stringify(environment[name])}; it`;
      throw new StartError(`${name}${said} must be ${remedies[name]}`);
    }
  }
  const env = values as Static<typeof EnvironmentSchema>;
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
    allowedNetworks: readNetworks(env.ALLOWED_NETWORKS ?? ''),
    allowedHosts: readHosts(env),
    rateLimit: env.RATE_LIMIT,
    activeJobsMax: env.MAX_ACTIVE_JOBS,
    workerMetricsPort: env.WORKER_METRICS_PORT ?? null,
    queuesUi: env.QUEUES_UI === 'true',
    uploadBytesMax: env.MAX_UPLOAD_BYTES,
    logLevel: env.LOG_LEVEL,
  };
}

function readHosts({ HOST, ALLOWED_HOSTS }: { HOST: string; ALLOWED_HOSTS?: string }): string[] {
  const entries = ALLOWED_HOSTS?.split(',').map((entry) => entry.trim()) ?? [...loopbackHosts];
  // Nobody calls 0.0.0.0 or ::, and a zone (fe80::1%eth0) is in no Host header.
  if (ALLOWED_HOSTS === undefined && !/^[0.:]+$|%/.test(HOST)) entries.push(HOST);
  try {
    hostMatcher(entries);
  } catch {
    const [name, said] =
      ALLOWED_HOSTS === undefined ? (['HOST', HOST] as const) : (['ALLOWED_HOSTS', ALLOWED_HOSTS] as const);
    throw new StartError(`${name} is ${JSON.stringify(said)}; it must be ${remedies[name]}`);
  }
  return entries;
}

/** Whether `inner` is `outer` itself or lies below it; both absolute. */
export function holds(outer: string, inner: string): boolean {
  const path = relative(outer, inner);
  return path === '' || (path !== '..' && !path.startsWith(`..${sep}`) && !isAbsolute(path));
}
