/** How files are ordered by their URLs: the schema, its defaults, and what a schema cannot say about it. */
import { Type, type Static } from 'typebox';
import { urlProblem } from '../check-url.ts';
import { Problem, type FieldError } from '../errors.ts';
import { listFormats, type ListFormat } from '../records.ts';
import { closed, literals, url } from '../schema-parts.ts';
import type { AddressPolicy } from '../ssrf.ts';
import type { UrlFiles } from '../url-files.ts';
import { fileOf } from './url-records.ts';

const urlsMax = 10_000;
const uuid = '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$';
const defaultField = { urlField: 'url', nameField: 'name' } as const;

const item = {
  type: ['string', 'object'],
  minLength: 1,
  maxLength: 8192,
  required: ['url'],
  properties: {
    url: url('The URL.'),
    name: Type.String({ minLength: 1, maxLength: 4096, description: 'What the file is called.' }),
  },
  ...closed,
};

const parts = {
  type: Type.Literal('urls'),
  uploadId: Type.Optional(Type.String({ pattern: uuid, description: 'The `id` of an upload (`POST /uploads`).' })),
  manifestUrl: Type.Optional(
    url('The URL of a list. It is fetched once, by the first worker; packed by gzip or zstd or not.'),
  ),
  format: Type.Optional(
    literals(listFormats, {
      description:
        'How a manifest is written; default: by the ending of its path (`.csv`, `.ndjson`, `.jsonl`, each also with `.gz` ' +
        'or `.zst`), else `text`. `text`: a line is a URL, or a URL, a tab and a name; `csv`: with a header line; ' +
        '`ndjson`: a line is a string or an object. What an upload is was said when it was sent.',
    }),
  ),
  urlField: field('URL', 'url'),
  nameField: field('name', 'name'),
  headersOrigin: Type.Optional(
    url(
      "Where the job's `headers` may be sent, such as `https://host`; needed where there are any, unless all URLs in " +
        '`urls` have one origin. With `manifestUrl` it is the origin of that.',
    ),
  ),
};

function field(what: string, name: string) {
  return Type.Optional(
    Type.String({
      default: name,
      minLength: 1,
      maxLength: 256,
      description: `The CSV column or the member of a JSON object (or a JSON Pointer to it) that holds the ${what}.`,
    }),
  );
}

const about = {
  ...closed,
  title: 'URLs',
  description:
    'Files by their URLs: one of `urls`, `uploadId` and `manifestUrl`. A file without a name of its own is called by the ' +
    'host, path and query of its URL.',
};

export const UrlsSourceSchema = Type.Object(
  {
    ...parts,
    urls: Type.Optional(
      Type.Unsafe<(string | { url: string; name?: string })[]>({
        type: 'array',
        minItems: 1,
        maxItems: urlsMax,
        items: item,
        description: 'The URLs themselves. Answers show only how many there are.',
        examples: [['http://127.0.0.1:3900/get/0.bin', { url: 'http://127.0.0.1:3900/get/1.bin', name: 'one.bin' }]],
      }),
    ),
  },
  about,
);

export const UrlsShownSchema = Type.Object(
  {
    ...parts,
    urls: Type.Optional(Type.Integer({ minimum: 0, description: 'How many URLs there are, if that is known.' })),
  },
  about,
);

export type UrlsRequest = Static<typeof UrlsSourceSchema>;

export interface UrlsSpec {
  type: 'urls';
  /** How many; not known of a manifest. */
  urls?: number;
  uploadId?: string;
  manifestUrl?: string;
  format: ListFormat;
  urlField: string;
  nameField: string;
  /** A URL of that origin. */
  headersOrigin?: string;
}

export function fillUrls({ urls, ...request }: UrlsRequest): UrlsSpec {
  const url = request.headersOrigin ?? request.manifestUrl;
  const origin = url === undefined ? commonOrigin(urls ?? []) : URL.parse(url)?.origin;
  return {
    ...defaultField,
    ...request,
    format: request.format ?? (urls === undefined ? formatOf(request.manifestUrl ?? '') : 'ndjson'),
    ...(urls === undefined ? {} : { urls: urls.length }),
    ...(origin === undefined ? {} : { headersOrigin: origin }),
  };
}

export function headersOriginOf({ headersOrigin }: UrlsSpec): string | null {
  return headersOrigin ?? null;
}

function formatOf(manifestUrl: string): ListFormat {
  const path = URL.parse(manifestUrl)?.pathname ?? '';
  const [, ending] = /\.(csv|ndjson|jsonl)(?:\.(?:gz|zst))?$/i.exec(path) ?? [];
  return ending === undefined ? 'text' : ending.toLowerCase() === 'csv' ? 'csv' : 'ndjson';
}

type Item = NonNullable<UrlsRequest['urls']>[number];

function entryOf(item: Item): { url: string; name?: string } {
  return typeof item === 'string' ? { url: item } : item;
}

function commonOrigin(items: readonly Item[]): string | undefined {
  const origins = new Set(items.map((item) => URL.parse(entryOf(item).url)?.origin));
  return origins.size === 1 ? [...origins][0] : undefined;
}

export function* checkUrls(request: UrlsRequest, mayReach: AddressPolicy): Generator<FieldError> {
  const { urls, uploadId, manifestUrl, format, headersOrigin } = request;
  const given = [urls, uploadId, manifestUrl].filter((each) => each !== undefined);
  if (given.length !== 1) yield { detail: 'must have one of urls, uploadId and manifestUrl', pointer: '' };
  if (headersOrigin !== undefined && manifestUrl !== undefined) {
    yield { detail: 'is that of manifestUrl: leave it out', pointer: '/headersOrigin' };
  }
  if (format !== undefined && manifestUrl === undefined) {
    yield { detail: 'is for manifestUrl alone', pointer: '/format' };
  }
  for (const field of ['urlField', 'nameField'] as const) {
    if (request[field] !== undefined && urls !== undefined) {
      yield { detail: 'is for lists with fields: leave it out', pointer: `/${field}` };
    }
  }
  for (const [name, text] of Object.entries({ manifestUrl, headersOrigin })) {
    const problem = text === undefined ? null : urlProblem(URL.parse(text), mayReach);
    if (problem !== null) yield { detail: problem, pointer: `/${name}` };
  }
  yield* checkItems(urls ?? [], mayReach);
}

/** In an order all names can be compared; in a longer list only those of one page. */
function* checkItems(items: readonly Item[], mayReach: AddressPolicy): Generator<FieldError> {
  const byName = new Map<string, string>();
  for (const [index, item] of items.entries()) {
    const pointer = `/urls/${index}`;
    const { url, name } = entryOf(item);
    const at = typeof item === 'string' ? pointer : `${pointer}/url`;
    const problem = urlProblem(URL.parse(url), mayReach);
    if (problem !== null) {
      yield { detail: problem, pointer: at };
      continue;
    }
    const file = fileOf({ url, name });
    if (file === null || 'bad' in file) {
      yield { detail: file?.message ?? 'cannot be fetched', pointer: name === undefined ? at : `${pointer}/name` };
    } else if ((byName.get(file.name) ?? file.origin + file.path) !== file.origin + file.path) {
      yield { detail: `has the name of another URL in the list: ${JSON.stringify(file.name)}`, pointer };
    } else {
      byName.set(file.name, file.origin + file.path);
    }
  }
}

export async function prepareUrls(request: UrlsRequest, jobId: string, files: UrlFiles): Promise<UrlsSpec> {
  const spec = fillUrls(request);
  if (request.urls !== undefined) {
    await files.of(jobId).write(request.urls.map((item) => JSON.stringify(entryOf(item))).join('\n'));
  }
  if (request.uploadId === undefined) return spec;
  const upload = await files.use(request.uploadId, jobId);
  if (upload !== null) return { ...spec, format: upload.format, urls: upload.urls };
  const detail = 'is the id of no upload: those that no job uses go after a day';
  throw new Problem('bad_request', `/source/uploadId ${detail}`, {
    errors: [{ detail, pointer: '/source/uploadId' }],
  });
}
