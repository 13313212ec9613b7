/** How much memory a worker holds that it does not need, and when what huge listing pages took goes back. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** A listing page is huge from this many bytes or names on: tens of megabytes once it is parsed. */
export const HUGE_PAGE_BYTES = 8 * 1024 * 1024;
export const HUGE_PAGE_NAMES = 20_000;

/** By itself, V8 lets the old generation be four times what lived, here of an archive's names: 400 MB in a job of ten million. */
const garbagePercentMax = 50;

const delayMs = 5_000;
let timer: NodeJS.Timeout | null = null;

/** Lets the old generation grow by half of what lived after its last collection, and no more. Not to be had by NODE_OPTIONS. */
export function holdLittleGarbage(): void {
  setFlagsFromString(`--heap-growing-percent=${garbagePercentMax}`);
}

/**
 * Gives all that is garbage in 5 s back to the system; calls until then are one. V8 would keep it for good where nothing
 * but small files follows: it collects when the heap has outgrown what it was at its largest. Holds the process up for
 * 50 to 200 ms, so it is for pages that were huge alone.
 */
export function giveMemoryBackSoon(): void {
  timer ??= setTimeout(() => {
    timer = null;
    void collector()({ type: 'major', execution: 'async', flavor: 'last-resort' });
  }, delayMs).unref();
}

/** What collects garbage when it is called. Node has no call for it: a context that is made after the flag was set has V8's own. */
export function collector(): NodeJS.GCFunction {
  setFlagsFromString('--expose-gc');
  return runInNewContext('gc') as NodeJS.GCFunction;
}
