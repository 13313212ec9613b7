import { hash } from 'node:crypto';

/** The size of every demo file. */
export const demoFileBytes = 100;

/** The name of demo file number `index`, from 0: `file-0000042.bin`. */
export function demoName(index: number): string {
  return `file-${String(index).padStart(7, '0')}.bin`;
}

/** The number of the demo file with this name, or null where no demo file is called so. */
export function demoIndex(name: string): number | null {
  const digits = /^file-(\d{7,15})\.bin$/.exec(name)?.[1];
  if (digits === undefined) return null;
  const index = Number(digits);
  return demoName(index) === name ? index : null;
}

/**
 * The bytes of the demo file with this name, 100 unless it is said otherwise: SHAKE256 of the name (FIPS 202). A pure
 * function, so that neither the server nor the check keeps anything for each file.
 */
export function demoBytes(name: string, bytes = demoFileBytes): Buffer {
  return hash('shake256', name, { outputLength: bytes, outputEncoding: 'buffer' });
}
