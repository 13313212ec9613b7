import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** What collects garbage now: only then does `memoryInUse` tell what is held. */
export function collector(): () => void {
  setFlagsFromString('--expose-gc');
  return runInNewContext('gc') as () => void;
}

/** In bytes. */
export function memoryInUse(): number {
  const { arrayBuffers, heapUsed } = process.memoryUsage();
  return arrayBuffers + heapUsed;
}
