import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { writePlot } from './bench/plot.ts';
import { temporaryFolder } from './helpers/folders.ts';

test('a plot is an SVG file with its data in it, and the same each time', async () => {
  const paths = ['one.svg', 'two.svg'].map((name) => join(temporaryFolder(), 'plots', name));
  for (const path of paths) {
    await writePlot(path, {
      data: {
        values: [
          { client: 'the <first>', rate: 1000 },
          { client: 'second', rate: 2500 },
        ],
      },
      mark: 'bar',
      encoding: {
        x: { field: 'rate', type: 'quantitative', title: 'files a second' },
        y: { field: 'client', type: 'nominal' },
      },
    });
  }
  const [svg = '', again] = paths.map((path) => readFileSync(path, 'utf8'));
  assert.match(svg, /^<svg [^]*<\/svg>\n$/);
  for (const text of ['files a second', 'the &lt;first&gt;', 'second']) assert.ok(svg.includes(text), text);
  assert.equal(again, svg);
});
