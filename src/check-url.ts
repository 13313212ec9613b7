import { literalAddress, whyBlocked, type AddressPolicy } from './ssrf.ts';

/** What is wrong with a URL that jobs shall go to, null where nothing is; `url`: null where a text is none. */
export function urlProblem(url: URL | null, mayReach: AddressPolicy): string | null {
  if (url === null || !/^https?:$/.test(url.protocol)) return 'must be an http or https URL, such as http://host/list';
  if (url.username !== '' || url.password !== '') return 'must not hold credentials; send them by "headers"';
  const address = literalAddress(url);
  return address === null || mayReach(address) ? null : `must not lead there: ${whyBlocked(address)}`;
}
