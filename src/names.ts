/** Which file names can be stored faithfully and safely. */

/** The folder inside a sink where the service keeps what is its own; no file name can lead there. */
export const privateFolder = '.gigafetch';

const partBytesMax = 255;
const nameBytesMax = 4096;

// Nearly every name is plain ASCII without a part that begins with a dot: one pass over it tells that it is safe.
const plain = /^[ --0-~][ -.0-~]{0,254}(?:\/[ --0-~][ -.0-~]{0,254})*$/;

/**
 * Tells whether a file of this name can be stored: null if so, else a message why it is an `unsafe_name`. A "/" makes
 * folders, every other character but NUL only stands for itself. The bounds (a part 255 bytes, the whole 4,096, as
 * UTF-8) are Linux's NAME_MAX and PATH_MAX.
 */
export function checkName(name: string): string | null {
  if (name.length <= nameBytesMax && plain.test(name)) return null;
  if (name === '') return 'the name is empty';
  if (!name.isWellFormed()) return 'the name holds half a surrogate pair, which no file system can store';
  if (name.includes('\0')) return 'the name holds a NUL';
  if (name.startsWith('/')) return 'the name is absolute';
  if (Buffer.byteLength(name) > nameBytesMax) return `the name is longer than ${nameBytesMax} bytes`;
  const parts = name.split('/');
  for (const part of parts) {
    // File systems may fold the case of letters; deeper down it may be another sink's.
    if (part.toLowerCase() === privateFolder) return `the name leads into ${privateFolder}`;
    if (part === '') return 'a part of the name is empty';
    if (part === '.' || part === '..') return `the name has "${part}" as a part`;
    if (Buffer.byteLength(part) > partBytesMax) return `a part of the name is longer than ${partBytesMax} bytes`;
  }
  return null;
}
