import { createHash } from 'node:crypto';

const partBytesMax = 255;
const nameBytesMax = 4096;

/**
 * The name of a file that has none of its own: host, path and query as they stand in the URL, as `wget -x` does it, but so
 * that no two URLs give one name. "#" is in no URL's path or query (there it begins the fragment), so it marks what the URL
 * itself cannot say:
 *
 * | URL                                 | name                              |
 * | ----------------------------------- | --------------------------------- |
 * | `https://host/a/b.json`             | `host/a/b.json`                   |
 * | `http://host/a/b.json`              | `host:80/a/b.json`                |
 * | `http://host:8080/a`                | `host:8080/a`                     |
 * | `https://host:8080/a`               | `host:8080#https/a`               |
 * | `https://host/a/`                   | `host/a/#index.html`              |
 * | `https://host/a//b`                 | `host/a/#/b`                      |
 * | `https://host/get?id=1&of=/x`       | `host/get?id=1&of=#x`             |
 * | one with a part of over 255 bytes   | `host/#long/` and its SHA-256     |
 */
export function nameOfUrl(url: URL): string {
  const host = hostPart(url);
  const folders = url.pathname.slice(1).split('/');
  const file = folders.pop() || '#index.html';
  const parts = [host, ...folders.map((folder) => folder || '#'), file + url.search.replaceAll('/', '#')];
  // A normalised URL is ASCII: its characters are bytes.
  if (parts.every((part) => part.length <= partBytesMax)) {
    const name = parts.join('/');
    if (name.length <= nameBytesMax) return name;
  }
  return `${host}/#long/${createHash('sha256').update(`${url.origin}${url.pathname}${url.search}`).digest('hex')}`;
}

/** One host may serve other files by http than by https, and both at any port. */
function hostPart({ protocol, hostname, port }: URL): string {
  if (protocol === 'https:') return port === '' ? hostname : `${hostname}:${port}#https`;
  return `${hostname}:${port || '80'}`;
}
