import assert from 'node:assert/strict';
import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { temporaryFolder } from './helpers/folders.ts';

const script = fileURLToPath(new URL('fixtures/lock.ts', import.meta.url));

async function said(child: ChildProcess): Promise<string> {
  const [message] = (await once(child, 'message')) as [string];
  return message;
}

test('of two that lock a state folder in the same instant exactly one gets it, and kill -9 frees it', async (t) => {
  const children = [fork(script), fork(script)];
  t.after(() => children.forEach((child) => child.kill('SIGKILL')));
  await Promise.all(children.map(said));
  const folders = Array.from({ length: 4 }, () => temporaryFolder());
  for (const folder of folders) {
    const answers = children.map(said);
    for (const child of children) child.send(folder);
    const [one, other] = (await Promise.all(answers)).sort();
    assert.match(one ?? '', /^Gigafetch is already running on STATE_DIR/);
    assert.equal(other, 'mine');
  }
  for (const child of children) child.kill('SIGKILL');
  await Promise.all(children.map((child) => once(child, 'exit')));
  const heir = fork(script);
  children.push(heir);
  assert.equal(await said(heir), 'ready');
  const answer = said(heir);
  heir.send(folders[0] ?? '');
  assert.equal(await answer, 'mine');
});
