import { Pool, Agent, setGlobalDispatcher } from 'undici';
import { demoName } from '../../../src/demo/files.ts';
import { expectOk, type Task, type Way } from './way.ts';

/** undici's `request` over a Pool, as a person would write it. */
export const request: Way = async (task) => {
  const pool = new Pool(task.origin, { connections: task.connections });
  await loops(task, async (path) => {
    const { statusCode, body } = await pool.request({ path, method: 'GET' });
    expectOk(statusCode);
    return body.bytes();
  });
  await pool.close();
};

/** The global `fetch`, as a person would write it. */
export const globalFetch: Way = async (task) => {
  // Also Node's own fetch takes its connections from here.
  const agent = new Agent({ connections: task.connections });
  setGlobalDispatcher(agent);
  await loops(task, async (path) => {
    const answer = await fetch(task.origin + path);
    expectOk(answer.status);
    return answer.bytes();
  });
  await agent.close();
};

/** As many loops as connections, each getting one file after the other. */
async function loops(
  { from, to, connections, store }: Task,
  get: (path: string) => Promise<Uint8Array>,
): Promise<void> {
  let started = from;
  const loop = async (): Promise<void> => {
    while (started < to) {
      const name = demoName(started);
      started += 1;
      store(name, await get(`/get/${name}`));
    }
  };
  await Promise.all(Array.from({ length: connections }, loop));
}
