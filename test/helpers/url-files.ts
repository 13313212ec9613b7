import { UrlFiles } from '../../src/url-files.ts';
import { temporaryFolder } from './folders.ts';

/** Lists of URLs in a folder of their own. */
export function urlFiles(bytesMax = 1_000_000): UrlFiles {
  return new UrlFiles({ dataDir: temporaryFolder(), bytesMax });
}
