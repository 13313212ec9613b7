import assert from 'node:assert/strict';

export interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

interface Family {
  readonly name: string;
  readonly type: string;
  readonly samples: Sample[];
}

const suffixes: Readonly<Record<string, string>> = { histogram: '(_bucket|_sum|_count)', summary: '(_sum|_count)?' };

/**
 * Reads Prometheus's text format, more strictly than Prometheus: each metric once, with HELP and TYPE before its samples;
 * no sample twice; histograms whole and cumulative. Fails the test otherwise.
 * https://prometheus.io/docs/instrumenting/exposition_formats/
 */
export function readExposition(text: string): Sample[] {
  assert.ok(text.endsWith('\n'));
  const families = new Map<string, Family>();
  let family: Family | null = null;
  let help: string | null = null;
  for (const line of text.split('\n')) {
    if (line === '') continue;
    const comment = /^# (HELP|TYPE) ([a-zA-Z_:][\w:]*) (.+)$/.exec(line);
    if (comment?.[1] === 'HELP') {
      help = comment[2]!;
    } else if (comment !== null) {
      const [, , name = '', type = ''] = comment;
      assert.equal(name, help, 'HELP goes before TYPE');
      assert.match(type, /^(counter|gauge|histogram|summary)$/);
      assert.ok(!families.has(name), line);
      family = { name, type, samples: [] };
      families.set(name, family);
    } else {
      const sample = readSample(line);
      assert.ok(family !== null, line);
      assert.match(sample.name, new RegExp(`^${family.name}${suffixes[family.type] ?? ''}$`));
      assert.ok(family.type !== 'counter' || (sample.name.endsWith('_total') && sample.value >= 0), line);
      family.samples.push(sample);
    }
  }
  const all = [...families.values()];
  for (const { type, name, samples } of all) if (type === 'histogram') checkHistogram(name, samples);
  const samples = all.flatMap((family) => family.samples);
  const keys = samples.map(({ name, labels }) => name + Object.entries(labels).map(String).sort().join(';'));
  assert.equal(new Set(keys).size, keys.length, 'a sample comes twice');
  return samples;
}

function readSample(line: string): Sample {
  const [, name, labels = '', value] =
    /^([a-zA-Z_:][\w:]*)(?:\{((?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)$/.exec(line) ?? [];
  assert.ok(name !== undefined && value !== undefined, line);
  assert.match(value, /^([+-]?\d+(\.\d+)?(e[+-]?\d+)?|[+-]Inf|Nan)$/i);
  const pairs = [...labels.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, label = '', text = '']) => [label, text]);
  assert.equal(new Set(pairs.map(([label]) => label)).size, pairs.length, `a label comes twice: ${line}`);
  return { name, labels: Object.fromEntries(pairs) as Record<string, string>, value: Number(value) };
}

/** https://prometheus.io/docs/concepts/metric_types/#histogram */
function checkHistogram(name: string, samples: readonly Sample[]): void {
  const series = Map.groupBy(samples, ({ labels }) => JSON.stringify({ ...labels, le: undefined }));
  for (const [labels, parts] of series) {
    const buckets = parts.filter((part) => part.name.endsWith('_bucket'));
    const bounds = buckets.map(({ labels: { le } }) => (le === '+Inf' ? Infinity : Number(le)));
    assert.deepEqual(
      bounds,
      bounds.toSorted((a, b) => a - b),
      `${name}${labels}`,
    );
    assert.equal(bounds.at(-1), Infinity);
    buckets.reduce((before, { value }) => (assert.ok(value >= before, `${name}${labels}`), value), 0);
    assert.equal(parts.find((part) => part.name === `${name}_count`)?.value, buckets.at(-1)?.value);
    assert.ok(parts.some((part) => part.name === `${name}_sum`));
  }
}

/** The value of one sample: `name` or `name{label}` with the value of its one label. Fails the test where there is none. */
export function valueOf(samples: readonly Sample[], name: string, label?: string): number {
  const found = samples.find(
    (sample) => sample.name === name && (label === undefined || Object.values(sample.labels).includes(label)),
  );
  assert.ok(found !== undefined, `${name} ${label ?? ''} is not there`);
  return found.value;
}
