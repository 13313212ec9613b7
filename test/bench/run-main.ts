import { Interrupted } from '../../src/demo/interrupt.ts';
import { DemoError } from '../../src/demo/service.ts';

/** Runs a script to its end: what people should read is printed without a stack, and the process gets the exit code. */
export async function runMain(main: () => Promise<number | void>): Promise<void> {
  try {
    process.exitCode = (await main()) ?? 0;
  } catch (error) {
    console.error(error instanceof DemoError ? error.message : error);
    process.exitCode = error instanceof Interrupted ? 130 : 1;
  }
}
