import { realpathSync } from 'node:fs';
import { holds, type Config } from './config.ts';
import { StartError, systemCode } from './errors.ts';

/**
 * The real paths of DATA_DIR and STATE_DIR; what is not there stays as it was said. Throws StartError where by their links
 * one is the other or lies inside it: jobs could then write into the service's own state.
 */
export function separateFolders({ dataDir, stateDir }: Pick<Config, 'dataDir' | 'stateDir'>): {
  data: string;
  state: string;
} {
  const [data, state] = [realPath(dataDir), realPath(stateDir)];
  if (!holds(data, state) && !holds(state, data)) return { data, state };
  throw new StartError(`by their links, STATE_DIR (${state}) and DATA_DIR (${data}) are not two separate folders`);
}

function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return path;
    throw error;
  }
}
