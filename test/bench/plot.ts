import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { parse, View } from 'vega';
import { compile, type TopLevelSpec } from 'vega-lite';

/**
 * Draws a Vega-Lite specification (https://vega.github.io/vega-lite/docs/) and writes it to `path` as SVG, on white, so
 * that it can be read on dark pages too. The data stands in the specification: nothing is fetched. The same
 * specification always gives the same bytes. Throws where the specification is wrong or the file cannot be written.
 */
export async function writePlot(path: string, spec: TopLevelSpec): Promise<void> {
  const { spec: program } = compile({ background: 'white', padding: 10, ...spec });
  const view = new View(parse(program), { renderer: 'none' });
  try {
    const svg = await view.toSVG();
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, `${svg}\n`);
  } finally {
    view.finalize();
  }
}
