from datetime import UTC, datetime

from workers import WorkerEntrypoint, wait_until


async def remember(kv, when):
    await kv.put("last", when)


class Default(WorkerEntrypoint):
    async def scheduled(self, controller, env, ctx):
        when = datetime.fromtimestamp(controller.scheduledTime / 1000, UTC).isoformat()
        print(f"{controller.cron} ran for {when}")
        wait_until(remember(self.env.LOG, when))
