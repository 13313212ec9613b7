import { opendir } from 'node:fs/promises';
import { systemCode } from '../errors.ts';
import type { Finding } from '../manifest-schemas.ts';

/**
 * The files in the folder `root` + `folder` whose names begin with `begin`, and which are none of those that `namesOf` gives
 * for a page of the job, which has `pages` of them. Throws the system's errors.
 */
export async function* straysIn(
  root: string,
  {
    folder,
    begin,
    namesOf,
    pages,
  }: { folder: string; begin: string; namesOf: (seq: number) => readonly string[]; pages: number },
): AsyncGenerator<Finding> {
  try {
    for await (const { name } of await opendir(root + folder)) {
      if (!name.startsWith(begin)) continue;
      const seq = Number(/^\d+/.exec(name.slice(begin.length))?.[0] ?? pages);
      if (seq < pages && namesOf(seq).includes(name)) continue;
      yield { problem: 'stray', name: null, path: folder + name, files: 0, message: 'no page of the job has it' };
    }
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw error;
  }
}
