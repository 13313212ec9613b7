import { execSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync } from 'node:fs';
import { basename, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import dockerignore from '@balena/dockerignore';
import { DockerfileParser, type Copy, type Env, type Instruction } from 'dockerfile-ast';
import { temporaryFolder } from './folders.ts';

const context = fileURLToPath(new URL('../../', import.meta.url));

/** What a Dockerfile makes, as far as its COPY, ENV and npm lines do: everything else is a matter of the base image. */
export interface Image {
  /** The folder that its commands run in. */
  readonly workDir: string;
  readonly environment: Readonly<Record<string, string>>;
}

interface Stage {
  readonly root: string;
  workDir: string;
  environment: Record<string, string>;
}

/** Builds the last stage of the project's Dockerfile in a folder of its own. Throws where a COPY line finds nothing. */
export function buildImage(): Image {
  const folder = temporaryFolder();
  const stages = new Map<string, Stage>();
  let stage: Stage = { root: folder, workDir: folder, environment: {} };
  for (const instruction of DockerfileParser.parse(
    readFileSync(join(context, 'Dockerfile'), 'utf8'),
  ).getInstructions()) {
    const words = instruction.getArguments().map((argument) => argument.getValue());
    switch (instruction.getKeyword()) {
      case 'FROM': {
        const root = mkdtempSync(join(folder, 'stage-'));
        stage = { root, workDir: root, environment: {} };
        if (words[2] !== undefined) stages.set(words[2], stage);
        break;
      }
      case 'WORKDIR':
        stage.workDir = join(stage.root, words[0] ?? '');
        mkdirSync(stage.workDir, { recursive: true });
        break;
      case 'ENV':
        for (const property of (instruction as Env).getProperties()) {
          stage.environment[property.getName()] = property.getValue() ?? '';
        }
        break;
      case 'COPY':
        copy(words, stage, stages.get((instruction as Copy).getFromFlag()?.getValue() ?? '')?.root);
        break;
      case 'RUN':
        run(instruction, stage);
        break;
    }
  }
  return stage;
}

/** `from`: the root of another stage; undefined: the build's context, without what .dockerignore leaves out. */
function copy(words: readonly string[], { workDir }: Stage, from: string | undefined): void {
  const ignored = dockerignore.default().add(readFileSync(join(context, '.dockerignore'), 'utf8'));
  const isThere = (path: string): boolean => from !== undefined || !ignored.ignores(relative(context, path));
  const target = words.at(-1) ?? '';
  for (const source of words.slice(0, -1)) {
    const to = resolve(workDir, target, target.endsWith('/') ? basename(source) : '');
    cpSync(join(from ?? context, source), to, { recursive: true, filter: isThere });
    if (!existsSync(to)) throw new Error(`.dockerignore leaves out ${source}, which the Dockerfile copies`);
  }
}

function run(instruction: Instruction, { workDir }: Stage): void {
  const command = instruction.getArgumentsContent() ?? '';
  const env = { ...process.env, npm_config_prefer_offline: 'true' };
  if (command.startsWith('npm ')) execSync(command, { cwd: workDir, env, stdio: 'pipe' });
}
