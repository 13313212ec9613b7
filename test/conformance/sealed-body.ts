import { createHash } from 'node:crypto';

const sealBytes = 64;

/** About `bytes` bytes that tell by themselves whether they are whole and unmixed. */
export function sealedBody(seed: string, bytes: number): Buffer {
  const content = Buffer.alloc(bytes, `${seed} `);
  return Buffer.concat([Buffer.from(sealOf(content)), content]);
}

export function isSealed(body: Buffer): boolean {
  return body.toString('latin1', 0, sealBytes) === sealOf(body.subarray(sealBytes));
}

function sealOf(content: Buffer): string {
  return createHash('sha256').update(content).digest('hex');
}
