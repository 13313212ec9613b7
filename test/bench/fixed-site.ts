import { mkdirSync, mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { demoFileBytes } from '../../src/demo/files.ts';
import { memoryDir } from '../helpers/folders.ts';
import { startJanitor } from './janitor.ts';
import { startNginx } from './nginx.ts';
import { writeSite, type FileServer } from './site.ts';
import { findTools, needTool, toolEnvironment } from './tools.ts';

export const fixedPageSize = 1000;

/** A file server that answers each file with the same bytes, from memory, and a folder beside it. */
export interface FixedSite extends AsyncDisposable {
  /** For what else there is to be measured; everything that works in it is ended with the site. */
  readonly folder: string;
  readonly server: FileServer;
  /** The source of a job of so many files: one of the numbers in `listings`. */
  source(files: number): { type: 'listing'; url: string; fileUrl: string };
}

/** Starts nginx with a listing for each of the numbers in `listings`. Installs it where there is none. Throws a DemoError. */
export async function startFixedSite(listings: readonly number[]): Promise<FixedSite> {
  needTool('nginx');
  const cleanUp = new AsyncDisposableStack();
  try {
    const folder = mkdtempSync(join(memoryDir(), `gigafetch-bench-${process.pid}-`));
    cleanUp.defer(startJanitor(folder));
    const home = process.cwd();
    // All that is started below works there, which is how whoever cleans up knows it.
    process.chdir(folder);
    cleanUp.defer(() => process.chdir(home));
    const site = join(folder, 'site');
    mkdirSync(site);
    writeSite(site, { files: 0, fileBytes: demoFileBytes, pageSize: fixedPageSize }, listings, false);
    const server = await startNginx('nginx', findTools(['nginx']).get('nginx') ?? '', site, toolEnvironment());
    cleanUp.defer(() => server.stop());
    return {
      folder,
      server,
      source: (files) => ({ type: 'listing', url: `${server.url}/list-${files}`, fileUrl: 'fixed/{name}' }),
      [Symbol.asyncDispose]: () => cleanUp.disposeAsync(),
    };
  } catch (error) {
    await cleanUp.disposeAsync();
    throw error;
  }
}
