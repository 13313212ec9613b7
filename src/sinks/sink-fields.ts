/** What can be ordered of every sink on a disk. */
import { Type } from 'typebox';
import { literals } from '../schema-parts.ts';

export const PathSchema = Type.Optional(
  Type.String({
    minLength: 1,
    maxLength: 1024,
    description: "The folder below DATA_DIR: relative, at least one part, no `.` or `..`; default: the job's id.",
    examples: ['mirror-a'],
  }),
);

export const DurabilitySchema = Type.Optional(
  literals(['process', 'power'], {
    default: 'process',
    description:
      '`process`: what is stored survives any end of processes. `power`: it is on the disk before its page counts as done.',
  }),
);
