/** The queue as bull-board shows it: loaded only where QUEUES_UI is on. */
import type { AppControllerRoute } from '@bull-board/api/typings/app';
import type { FastifyInstance } from 'fastify';
import type { JobService } from '../jobs/service.ts';
import { securityHeaders } from './callers.ts';
import { answerError } from './problems.ts';

/** Its pages say by `<base>` what their links are relative to. */
const policy = securityHeaders['content-security-policy'].replace("base-uri 'none'", "base-uri 'self'");

/** Adds /queues, to look at alone: of bull-board's calls those are left out that change something. */
export async function queuesUi(
  app: FastifyInstance,
  { service }: { service: Pick<JobService, 'board'> },
): Promise<void> {
  const [{ createBullBoard }, { FastifyAdapter }] = await Promise.all([
    import('@bull-board/api'),
    import('@bull-board/fastify'),
  ]);
  class LookingAlone extends FastifyAdapter {
    override setApiRoutes(routes: AppControllerRoute[]): this {
      super.setApiRoutes(routes.filter(({ method }) => method === 'get'));
      return this;
    }
  }
  const adapter = new LookingAlone();
  createBullBoard({
    queues: [await service.board()],
    serverAdapter: adapter,
    options: { uiConfig: { boardTitle: 'Gigafetch', hideRedisDetails: true } },
  });
  app.addHook('onRequest', async (_request, reply) => {
    void reply.header('content-security-policy', policy);
  });
  // bull-board answers errors in its own way otherwise, a missing token too.
  app.addHook('onRoute', (route) => {
    route.errorHandler = answerError;
  });
  await app.register(adapter.registerPlugin(), { prefix: '/queues' });
}
