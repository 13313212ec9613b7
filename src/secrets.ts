/** Shorter words, such as "Bearer", tell nothing, and would spoil messages. */
const secretCharactersMin = 8;

/**
 * A message without what a job sends in its headers: it may repeat what a server said, and that what it was sent. Where a
 * value was cut off in the message, its first characters go too.
 */
export function withoutSecrets(message: string, headers: Readonly<Record<string, string>>): string {
  let shown = message;
  for (const word of Object.values(headers).flatMap((value) => value.split(/[\s;,]+/))) {
    if (word.length < secretCharactersMin) continue;
    const begin = word.slice(0, secretCharactersMin);
    for (let at = shown.indexOf(begin); at >= 0; at = shown.indexOf(begin, at + 1)) {
      let length = begin.length;
      while (length < word.length && shown[at + length] === word[length]) length += 1;
      shown = `${shown.slice(0, at)}…${shown.slice(at + length)}`;
    }
  }
  return shown;
}
