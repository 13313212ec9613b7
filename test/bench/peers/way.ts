/** What a bare loop in Node has to do: get the demo files `from` to `to` - 1, over so many connections. */
export interface Task {
  /** Without a final slash. */
  readonly origin: string;
  readonly from: number;
  readonly to: number;
  readonly connections: number;
  /** Called once with each whole file. */
  readonly store: (name: string, body: Uint8Array) => void;
}

/** A way to do so. Rejects where a file could not be had. */
export type Way = (task: Task) => Promise<void>;

/** Throws unless the answer is what all files are answered with. */
export function expectOk(status: number): void {
  if (status !== 200) throw new Error(`the server answered ${status}`);
}
