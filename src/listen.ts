import { StartError, systemCode } from './errors.ts';

/** What a failed attempt to listen becomes: a StartError that says what to do, or the error itself where nobody foresaw it. */
export function listenError(error: unknown, host: string, port: number, portVariable = 'PORT'): unknown {
  const reasons: Record<string, string> = {
    EADDRINUSE: `something listens there already; set another ${portVariable}`,
    EACCES: `this user may not listen there; set a ${portVariable} above 1023`,
    EADDRNOTAVAIL: 'this machine has no such address; set another HOST',
    ENOTFOUND: 'there is no such host; set another HOST',
  };
  const reason = reasons[systemCode(error) ?? ''];
  return reason === undefined ? error : new StartError(`HOST ${host}, ${portVariable} ${port}: ${reason}`);
}
