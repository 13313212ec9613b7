/** `npm run chaos -- --seed N --runs M [--faults "a,b"] [--verbose]`: rounds of chaos, one line each. */
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { faultNames, type FaultName } from './faults.ts';
import { playRound, type Round } from './round.ts';

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: String(Math.floor(Math.random() * 1e9)) },
    runs: { type: 'string', default: '10' },
    faults: { type: 'string', default: faultNames.join() },
    verbose: { type: 'boolean', default: false },
  },
});

const names = values.faults.split(',').map((name) => name.trim()) as FaultName[];
const unknown = names.filter((name) => !faultNames.includes(name));
if (unknown.length > 0) {
  process.stderr.write(`there is no fault ${unknown.join()}; there are: ${faultNames.join(', ')}\n`);
  process.exit(2);
}

// So that what this process began is ended with it.
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1));

const injected = new Map<string, number>();
let violated = 0;
const first = Number(values.seed);
const last = first + Number(values.runs) - 1;
for (let seed = first; seed <= last; seed += 1) {
  const round = await playRound(seed, names);
  for (const { name } of round.injected) injected.set(name, (injected.get(name) ?? 0) + 1);
  if (round.violations.length > 0) violated += 1;
  tell(round);
}
const kinds = [...injected].sort(([, a], [, b]) => b - a).map(([name, times]) => `${name} ${times}`);
const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' }).trim();
const today = new Date().toISOString().slice(0, 10);
process.stdout.write(`| ${today} | ${commit} | ${first} to ${last} | ${kinds.join(', ')} | ${violated} |\n`);
process.exit(violated === 0 ? 0 : 1);

function tell(round: Round): void {
  const { seed, files, seconds, violations } = round;
  const what = round.injected.map(
    ({ name, atMs, undoneMs }) => `${name} ${atMs}${undoneMs === atMs ? '' : `-${undoneMs}`}`,
  );
  const verdict = violations.length === 0 ? 'ok' : 'VIOLATED';
  process.stdout.write(`seed ${seed}: ${verdict}, ${files} files, ${seconds.toFixed(1)} s; ${what.join(', ')}\n`);
  if (values.verbose) process.stdout.write(`  ${JSON.stringify(round.plan)}\n  ${round.notes.join('\n  ')}\n`);
  if (violations.length === 0) return;
  for (const { check, message } of violations.slice(0, 8)) process.stdout.write(`  ${check}: ${message}\n`);
  const file = join(tmpdir(), `gigafetch-chaos-${seed}.log`);
  const { output, ...rest } = round;
  writeFileSync(file, `${JSON.stringify(rest, null, 2)}\n${output}`);
  const narrowed = names.length === faultNames.length ? '' : ` --faults ${JSON.stringify(values.faults)}`;
  process.stdout.write(`  all of it: ${file}; again: npm run chaos -- --seed ${seed} --runs 1${narrowed}\n`);
}
