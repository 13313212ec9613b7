/** Which of the files that a source names belong to a job. */
import { Minimatch } from 'minimatch';
import { Type, type Static } from 'typebox';
import type { FieldError } from '../errors.ts';
import { closed, whole, type Filled } from '../schema-parts.ts';
import type { JobList } from '../url-files.ts';
import type { BadItem, GetListing, SourceFile, SourcePage } from './index.ts';

/** What one pattern may become by its braces. */
const alternativesMax = 1000;

function globs(description: string) {
  return Type.Optional(
    Type.Array(Type.String({ minLength: 1, maxLength: 256 }), { default: [], maxItems: 100, description }),
  );
}

export const FilterSchema = Type.Object(
  {
    include: globs('Only names that match one of these globs; none: all.'),
    exclude: globs('No names that match one of these globs.'),
    maxFiles: whole('The job ends after so many files; 0: no limit.', 0, 0, 1_000_000_000_000),
  },
  {
    ...closed,
    description:
      'Which files. Globs are matched against whole names: `*` and `?` stand for any characters but `/`, `**` for any ' +
      'folders, `[a-z]` and `{a,b}` for what they list; a `\\` takes their meaning away.',
    examples: [{ include: ['**/*.json'], exclude: ['tmp/**'], maxFiles: 0 }],
  },
);

export type Filter = Filled<Static<typeof FilterSchema>>;

/** What is wrong in it; pointers into the filter. */
export function* checkFilter(filter: Filter): Generator<FieldError> {
  for (const list of ['include', 'exclude'] as const) {
    for (const [index, pattern] of filter[list].entries()) {
      if (globOf(pattern).set.length <= alternativesMax) continue;
      yield { detail: `must not stand for more than ${alternativesMax} patterns`, pointer: `/${list}/${index}` };
    }
  }
}

interface Pages {
  /** How many files there are, null where that is not known. */
  readonly filesTotal: number | null;
  /** The first page's token. */
  first(): string;
  /** Lists the page that the token names. Throws FetchError. */
  read(token: string, get: GetListing, list: JobList): Promise<SourcePage>;
}

/** The same pages with what the filter leaves of them. */
export function filtered(filter: Filter, pages: Pages): Pages {
  return limited(filter.maxFiles, matching(filter, pages));
}

/** What is no name at all stays: it shall be told. */
function matching({ include, exclude }: Filter, pages: Pages): Pages {
  if (include.length === 0 && exclude.length === 0) return pages;
  const [wanted, unwanted] = [include.map(globOf), exclude.map(globOf)];
  const belongs = (item: SourceFile | BadItem): boolean => {
    if ('bad' in item && item.bad !== 'unsafe_name') return true;
    const matches = (glob: Minimatch): boolean => glob.match(item.name);
    return (wanted.length === 0 || wanted.some(matches)) && !unwanted.some(matches);
  };
  return {
    ...pages,
    filesTotal: null,
    read: async (...args) => {
      const { items, next } = await pages.read(...args);
      return { items: items.filter(belongs), next };
    },
  };
}

/** A page's token says how many files come before it: "123 token". */
function limited(maxFiles: number, pages: Pages): Pages {
  if (maxFiles === 0) return pages;
  return {
    filesTotal: pages.filesTotal === null ? null : Math.min(maxFiles, pages.filesTotal),
    first: () => `0 ${pages.first()}`,
    read: async (token, ...more) => {
      const space = token.indexOf(' ');
      const before = Number(token.slice(0, space));
      const page = await pages.read(token.slice(space + 1), ...more);
      const items = page.items.slice(0, maxFiles - before);
      const listed = before + items.length;
      return {
        items,
        next: page.next === null || listed >= maxFiles ? null : `${listed} ${page.next}`,
        ...(page.filesTotal === undefined ? {} : { filesTotal: Math.min(maxFiles, page.filesTotal) }),
      };
    },
  };
}

function globOf(pattern: string): Minimatch {
  return new Minimatch(pattern, {
    // Hidden files are files; no pattern means more than it says at any place of it.
    dot: true,
    nocomment: true,
    nonegate: true,
    noext: true,
    braceExpandMax: alternativesMax + 1,
  });
}
