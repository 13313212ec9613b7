/** What WebDataset takes for one sample: neighbours in a tar whose names are the same up to the first dot. */

export interface Sample<Member> {
  /** How many the page lists. */
  readonly members: number;
  readonly held: Member[];
}

/**
 * The samples of more than one member, by the names of their members. Only names that are listed next to each other count:
 * https://github.com/webdataset/webdataset (`base_plus_ext` and `group_by_keys` in tariterators.py).
 */
export function samplesOf<Member>(names: readonly string[]): ReadonlyMap<string, Sample<Member>> {
  const samples = new Map<string, Sample<Member>>();
  let from = 0;
  let key = '';
  for (let index = 0; index <= names.length; index += 1) {
    const name = names[index];
    if (name !== undefined && key !== '' && keyOf(name) === key) continue;
    if (index - from > 1 && key !== '') addSample(samples, new Set(names.slice(from, index)));
    from = index;
    key = name === undefined ? '' : keyOf(name);
  }
  return samples;
}

function addSample<Member>(samples: Map<string, Sample<Member>>, names: ReadonlySet<string>): void {
  if (names.size === 1) return;
  const sample = { members: names.size, held: [] };
  for (const name of names) samples.set(name, sample);
}

/** "" where it is in no sample. */
function keyOf(name: string): string {
  const base = name.lastIndexOf('/') + 1;
  const dot = name.indexOf('.', base);
  return dot > base ? name.slice(0, dot) : '';
}
