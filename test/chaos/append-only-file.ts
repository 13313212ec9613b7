/** Where in a Redis append-only file one command ends and the next begins. */

const NEWLINE = 10;

/**
 * The byte offsets in the file's content at which it may be cut: behind each whole command or transaction, in ascending
 * order. The format is that of requests (RESP: `*n`, then n times `$bytes` and the bytes), a transaction `MULTI` … `EXEC`.
 */
export function cuts(content: Buffer): number[] {
  const found: number[] = [];
  let open = false;
  let at = 0;
  const line = (): string => {
    const end = content.indexOf(NEWLINE, at);
    const text = content.toString('latin1', at, end - 1);
    at = end + 1;
    return text;
  };
  while (at < content.length && content.indexOf(NEWLINE, at) !== -1) {
    const head = line();
    if (head.startsWith('#')) continue;
    const words = Number(head.slice(1));
    let first = '';
    for (let word = 0; word < words; word += 1) {
      const bytes = Number(line().slice(1));
      if (word === 0) first = content.toString('latin1', at, at + bytes).toUpperCase();
      at += bytes + 2;
    }
    // What was only half written when it died.
    if (at > content.length) break;
    if (first === 'MULTI') open = true;
    if (first === 'EXEC') open = false;
    if (!open) found.push(at);
  }
  return found;
}
