/** How a listing is ordered: its schema, its defaults, and what a schema cannot say about it. */
import { Type, type Static } from 'typebox';
import { urlProblem } from '../check-url.ts';
import type { FieldError } from '../errors.ts';
import { closed, filled, pointer, url, type Filled } from '../schema-parts.ts';
import type { AddressPolicy } from '../ssrf.ts';

function param(name: string) {
  return Type.Optional(
    Type.String({ default: name, minLength: 1, maxLength: 128, description: 'The name of the query parameter.' }),
  );
}

function first(number: number) {
  return Type.Optional(
    Type.Integer({ default: number, minimum: 0, maximum: 1_000_000_000, description: 'Its value on the first page.' }),
  );
}

const nextForms = {
  body: Type.Object(
    {
      in: Type.Literal('body'),
      field: Type.Optional(
        pointer(
          'Where the page holds the next marker; default: `/NextMarker`, and `/NextFile` where that is not there.',
        ),
      ),
    },
    {
      ...closed,
      title: 'In the body',
      description:
        'The page holds the marker of the next one; absent, null or `""` is the end. A marker that is an absolute URL ' +
        "of the listing's own origin is followed; any other goes into the query parameter `markerParam`.",
    },
  ),
  link: Type.Object(
    { in: Type.Literal('link') },
    { ...closed, title: 'In the Link header', description: 'A `Link` header with `rel=next` (RFC 8288).' },
  ),
  page: Type.Object(
    { in: Type.Literal('page'), param: param('page'), first: first(1) },
    {
      ...closed,
      title: 'Page number',
      description: 'Each page has a number, one more than the last; an empty page is the end.',
    },
  ),
  offset: Type.Object(
    { in: Type.Literal('offset'), param: param('offset'), first: first(0) },
    {
      ...closed,
      title: 'Offset',
      description: 'Each page is asked for by the number of names before it; an empty page is the end.',
    },
  ),
};

const NextSchema = Type.Unsafe<
  | { in: 'body'; field?: string }
  | { in: 'link' }
  | { in: 'page'; param?: string; first?: number }
  | { in: 'offset'; param?: string; first?: number }
>({
  type: 'object',
  description: 'How a page of the listing tells the next one; default: `{ "in": "body" }`.',
  required: ['in'],
  discriminator: { propertyName: 'in' },
  oneOf: Object.values(nextForms),
});

export const ListingSourceSchema = Type.Object(
  {
    type: Type.Literal('listing'),
    url: url('The http or https URL of the first page, without credentials.', {
      examples: ['http://127.0.0.1:3900/list'],
    }),
    fileUrl: Type.Optional(
      url('The URL of a file, resolved against `url`. `{name}` becomes its name, each path segment percent-encoded.', {
        default: 'get/{name}',
      }),
    ),
    namesField: Type.Optional(
      pointer('A JSON Pointer to the array of names in a page; `""` where the page itself is the array.', {
        default: '/FileNames',
      }),
    ),
    nameField: Type.Optional(pointer('A JSON Pointer to the name in an item; needed where items are objects.')),
    sizeField: Type.Optional(pointer('A JSON Pointer to the size in bytes in an item that is an object.')),
    urlField: Type.Optional(
      pointer("A JSON Pointer to the file's URL in an item that is an object, in place of `fileUrl`."),
    ),
    next: Type.Optional(NextSchema),
    markerParam: Type.Optional(
      Type.String({
        default: 'next-marker',
        minLength: 1,
        maxLength: 128,
        description: 'The query parameter that takes the marker of the next page.',
      }),
    ),
  },
  { ...closed, title: 'Listing', description: 'A paginated JSON listing that names files.' },
);

export type ListingRequest = Static<typeof ListingSourceSchema>;
export type Next = Static<typeof NextSchema>;
export type ListingSourceSpec = Filled<
  Pick<ListingRequest, 'type' | 'url' | 'fileUrl' | 'namesField' | 'markerParam'>
> &
  Pick<ListingRequest, 'nameField' | 'sizeField' | 'urlField'> & {
    /** Without `field`, "body" means `/NextMarker`, and `/NextFile` where that is not there. */
    next: Next;
  };

export function fillListing(request: ListingRequest): ListingSourceSpec {
  const next = request.next ?? { in: 'body' };
  return { ...filled(ListingSourceSchema, request), next: fillNext(next) };
}

function fillNext(next: Next): Next {
  return filled(nextForms[next.in], next);
}

/** What is wrong in it; pointers into the source. */
export function* checkListing(request: ListingRequest, mayReach: AddressPolicy): Generator<FieldError> {
  const source = fillListing(request);
  const base = URL.parse(source.url);
  const problem = urlProblem(base, mayReach);
  if (base === null || problem !== null) yield { detail: problem ?? '', pointer: '/url' };
  else yield* checkFileUrl(source.fileUrl, base, mayReach);
  const nextParam = 'param' in source.next ? source.next.param : undefined;
  for (const [pointer, param] of [
    ['/markerParam', source.markerParam],
    ['/next/param', nextParam],
  ] as const) {
    if (param?.isWellFormed() === false) yield { detail: 'holds half a surrogate pair, which no URL can', pointer };
  }
  if (source.nameField !== undefined) return;
  for (const field of ['sizeField', 'urlField'] as const) {
    if (source[field] === undefined) continue;
    yield { detail: 'needs nameField too: without it the items are plain names', pointer: `/${field}` };
  }
}

function* checkFileUrl(template: string, base: URL, mayReach: AddressPolicy): Generator<FieldError> {
  const pointer = '/fileUrl';
  if (!template.includes('{name}')) {
    yield { detail: 'must hold {name}, the place of the file name', pointer };
    return;
  }
  const [one, other] = ['a', 'b'].map((name) => URL.parse(template.replaceAll('{name}', name), base.href));
  const problem = urlProblem(one ?? null, mayReach);
  if (problem !== null) yield { detail: `resolved against url it ${problem}`, pointer };
  // A listing decides what the files are called, not whom they are asked of.
  else if (one?.origin !== other?.origin) yield { detail: 'must not have {name} in the host', pointer };
  else if (one?.pathname === other?.pathname && one?.search === other?.search) {
    yield { detail: 'must have {name} in the path or the query', pointer };
  }
}
