/** What a manifest says of each file, and what comes of comparing it with the files: a line of JSON each. */
import { Type, type Static } from 'typebox';
import { count, literals, nullable, time } from './schema-parts.ts';
import { FailureReasonSchema } from './schemas.ts';

const SHA_256 = '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08';

export const ManifestFileSchema = Type.Object(
  {
    name: Type.String({ description: 'As the listing says it.' }),
    url: nullable(Type.String()),
    sizeBytes: nullable(count('Its size as it is stored; null: it failed.')),
    sha256: nullable(
      Type.String({
        description:
          'Of the file as it is stored. null: it failed, or it was skipped, and what was there was not read.',
      }),
    ),
    outcome: literals(['downloaded', 'skipped', 'failed']),
    at: time('When it was stored, found to be there, or given up.'),
    listed: Type.Optional(
      Type.Integer({ minimum: 2, description: 'How often its page lists it, where that is more than once.' }),
    ),
    shard: Type.Optional(Type.String({ description: 'The archive it lies in, in the folder of the sink.' })),
    reason: Type.Optional(FailureReasonSchema),
    statusCode: Type.Optional(
      nullable(Type.Integer({ description: 'The HTTP status for which it failed, if one was received.' })),
    ),
  },
  {
    $id: 'ManifestFile',
    description: 'What became of one file.',
    examples: [
      {
        name: 'a/17.bin',
        url: 'http://127.0.0.1:3900/get/a/17.bin',
        sizeBytes: 4,
        sha256: SHA_256,
        outcome: 'downloaded',
        at: '2026-11-20T10:00:01.000Z',
      },
    ],
  },
);
export type ManifestFile = Static<typeof ManifestFileSchema>;

const problems = {
  missing: 'what should be there is not',
  size: 'a file has another size',
  checksum: 'it has the same size and another content',
  unreadable: 'it is there and cannot be read',
  damaged: 'a shard is damaged around the files that it holds, or ends too soon',
  unlisted: 'a shard holds something that its index does not have',
  index: "a shard's index, or a part of the manifest, is damaged: what it had is not compared",
  stray: "a file is named as if it were one of the job's shards, indexes or parts of its manifest, and no page has it",
  count: 'the manifest has more or fewer files than the job has counted',
  changed: 'the job was retried or deleted meanwhile: verify it again',
} as const;

const FindingSchema = Type.Object({
  type: Type.Literal('problem'),
  problem: literals(Object.keys(problems) as (keyof typeof problems)[], {
    description: Object.entries(problems)
      .map(([problem, meaning]) => `\`${problem}\`: ${meaning}.`)
      .join(' '),
  }),
  name: nullable(Type.String({ description: 'The name of the file, where it is one.' })),
  path: nullable(Type.String({ description: 'What was looked at, below the folder of the sink.' })),
  files: count('How many files of the job it spoils, as far as that is known.'),
  message: Type.String(),
});

const soFar = {
  filesChecked: count('Files that were compared.'),
  bytesRead: count('Bytes of their bodies, and of the archives that hold them, as they are unpacked.'),
};

const ProgressSchema = Type.Object({ type: Type.Literal('progress'), ...soFar });

const SummarySchema = Type.Object({
  type: Type.Literal('summary'),
  ok: Type.Boolean({ description: 'Whether there was no problem.' }),
  problems: count('Lines that told of one.'),
  ...soFar,
  filesRight: count('Files that are as the manifest says.'),
  filesInManifest: count('Files as the job counts them: as often as a page lists them.'),
  filesInJob: count('`filesDownloaded` and `filesSkipped` of the job.'),
});

export const VerifyLineSchema = Type.Unsafe<
  Static<typeof FindingSchema> | Static<typeof ProgressSchema> | Static<typeof SummarySchema>
>({
  $id: 'VerifyLine',
  description: 'A problem as it is found, how far it is (once a second), or, as the last line, what came of it all.',
  oneOf: [FindingSchema, ProgressSchema, SummarySchema],
  examples: [
    {
      type: 'problem',
      problem: 'checksum',
      name: 'a/17.bin',
      path: 'a/17.bin',
      files: 1,
      message: 'its content is another one; it was changed at 2026-11-21T08:00:00.000Z, after the end of the job',
    },
  ],
});
export type VerifyLine = Static<typeof VerifyLineSchema>;

/** A problem, but for its `type`. */
export type Finding = Omit<Static<typeof FindingSchema>, 'type'>;
