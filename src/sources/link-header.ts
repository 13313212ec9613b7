/**
 * The Link header (RFC 8288). Own code because what npm has for it loses a next link, and with it the rest of a listing,
 * after a parameter without a value (`</a.css>; rel=preload; crossorigin, </list?page=2>; rel=next`) or inside quotes.
 */

const target = /[\s,]*<([^>]*)>/y;
const parameter = /\s*;\s*(?:([^\s=;,"<>]+)\s*(?:=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*)))?)?/y;
const end = /\s*(?:,[\s,]*|$)/y;

/**
 * The target of the first link with the relation "next", as it stands there; null if there is none. Follows the parsing
 * of RFC 8288, Appendix B.2. Throws Error where the header is malformed: what comes after would be lost silently.
 */
export function nextLink(header: string): string | null {
  let at = 0;
  const take = (pattern: RegExp): RegExpExecArray | null => {
    pattern.lastIndex = at;
    const match = pattern.exec(header);
    if (match !== null) at = pattern.lastIndex;
    return match;
  };
  while (at < header.length) {
    const link = take(target);
    if (link === null) {
      if (/^[\s,]*$/.test(header.slice(at))) return null;
      throw new Error(`the Link header is malformed at character ${at}`);
    }
    const parameters = new Map<string, string>();
    for (let found = take(parameter); found !== null; found = take(parameter)) {
      const name = found[1]?.toLowerCase() ?? '';
      const value = found[2]?.replaceAll(/\\(.)/g, '$1') ?? found[3] ?? '';
      // Section 3.3: a second "rel" is ignored.
      if (!parameters.has(name)) parameters.set(name, value);
    }
    if (take(end) === null) throw new Error(`the Link header is malformed at character ${at}`);
    const relations = parameters.get('rel')?.toLowerCase().split(/\s+/) ?? [];
    // Section 3.2: a link with an anchor says something about another page than this.
    if (relations.includes('next') && !parameters.has('anchor')) return link[1] ?? '';
  }
  return null;
}
