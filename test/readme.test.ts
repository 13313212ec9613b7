import assert from 'node:assert/strict';
import { execFile, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import manifest from '../package.json' with { type: 'json' };
import { startDemoServer, type DemoServer } from '../src/demo/server.ts';
import { TestService } from './helpers/service.ts';

const run = promisify(execFile);
const root = new URL('../', import.meta.url);
const readme = readFileSync(new URL('README.md', root), 'utf8');
const commands = [...readme.matchAll(/^```sh\n([^]*?)^```$/gm)].flatMap(([, block = '']) => oneByOne(block));

/** A block's commands: a line that is not indented, or a `}'`, begins or ends one. */
function oneByOne(block: string): string[] {
  const found: string[] = [];
  for (const line of block.trimEnd().split('\n')) {
    if (/^(curl|npm) /.test(line)) found.push(line);
    else found.push(`${found.pop() ?? ''}\n${line}`);
  }
  return found;
}

const service = new TestService();
let files: DemoServer;
before(async () => {
  await service.start();
  files = await startDemoServer({ files: 3_000, port: 0 });
});
after(async () => {
  await files.close();
  assert.equal(await service.stop(), 0);
});

test('every npm script that the README names is there, and CI runs those that end by themselves', () => {
  const ci = readFileSync(new URL('.ci/run', root), 'utf8');
  for (const [, script = ''] of readme.matchAll(/`?npm (?:run )?([a-z:]+)/g)) {
    assert.ok(script in manifest.scripts, script);
  }
  for (const command of commands.filter((each) => each.startsWith('npm') && each !== 'npm run demo')) {
    assert.ok(ci.includes(command), command);
  }
});

const curls = commands.filter((command) => command.startsWith('curl'));
const curlIsThere = spawnSync('curl', ['--version']).status === 0;

test(
  'every curl command of the README does what it says',
  { skip: curlIsThere ? false : 'curl is not there' },
  async () => {
    let id = '';
    let kept = '';
    const answers: string[] = [];
    for (const command of curls) {
      const here = command
        .replaceAll('http://127.0.0.1:3000', service.url)
        .replaceAll('http://127.0.0.1:3900', files.url);
      // Not at its end yet: it is the last command that needs it to be.
      if (here.includes('DELETE')) await service.ended(id);
      if (here.includes('$KEPT') && kept !== '') await service.ended(kept);
      // Some wait for the job, whose files this process serves.
      const { stdout } = await run('sh', ['-c', here], { env: { ...process.env, ID: id, KEPT: kept } });
      answers.push(stdout);
      if (here.includes('"kept"')) kept = (JSON.parse(stdout) as { id: string }).id;
      if (id === '' && stdout !== '') id = (JSON.parse(stdout) as { id: string }).id;
    }
    const answerTo = (part: string): string =>
      answers[curls.findIndex((command) => `${command}\n`.includes(part))] ?? '';
    const jsonOf = (part: string) => JSON.parse(answerTo(part)) as Record<string, unknown>;
    assert.match(String(jsonOf('"path": "first"')['state']), /^(queued|running)$/);
    assert.equal(jsonOf('all said')['name'], 'the same, all said');
    const { jobs } = jsonOf('/jobs\n') as { jobs: unknown };
    assert.ok(Array.isArray(jobs) && jobs.length === 2);
    assert.equal(jsonOf('/jobs/$ID\n')['id'], id);
    assert.ok(Array.isArray(jsonOf('/workers')['workers']));
    assert.match(
      answerTo('/events'),
      /^retry: 1000\n\nevent: snapshot\n[^]*\nevent: state\n.*\ndata: .*"state":"completed".*\n\n$/,
    );
    for (const verb of ['/pause', '/resume', 'PATCH', '/cancel', '/retry']) {
      const { status, id: job } = jsonOf(verb);
      assert.ok(status === 409 || job === id, `${verb}: ${answerTo(verb)}`);
    }
    assert.match(answerTo('/metrics'), /^gigafetch_workers \d+$/m);
    assert.deepEqual(jsonOf('failures?limit')['failures'], []);
    assert.equal(answerTo('x-ndjson'), '');
    assert.match(answerTo('text/csv'), /^name,url,reason/);
    assert.equal(answerTo('DELETE'), '');
    assert.equal(answerTo('/manifest').trimEnd().split('\n').length, 3_000);
    assert.match(answerTo('/verify'), /"type":"summary","ok":true,.*\n$/);
    for (const [part, files] of [
      ['"path": "numbered"', 100],
      ['by/name.bin', 2],
    ] as const) {
      const ended = await service.ended(String(jsonOf(part)['id']));
      assert.equal(ended.progress.filesListed, files);
      assert.equal(ended.progress.filesFailed, 0);
    }
    assert.equal(jsonOf('/uploads')['urls'], 1);
  },
);
