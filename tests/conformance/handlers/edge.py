"""A handler of this runtime with what Cloudflare's SDK has not: generators, our errors, our queue, our context."""

# Written as users write them, without annotations.
# mypy: ignore-errors

import asyncio
import json
from urllib.parse import urlsplit

from worker_compat import KVError, Request, Response, WorkerEntrypoint, fetch, wait_until

HELD, LEFT = [], []


class Default(WorkerEntrypoint):
    """One method for each path."""

    async def fetch(self, request):
        return await getattr(self, f"answer{urlsplit(request.url).path.replace('/', '_')}")(request)

    async def answer_generator(self, request):
        async def chunks():
            for number in range(3):
                await asyncio.sleep(0)
                yield f"chunk {number}\n".encode()
            # The event goes on while its body is read.
            upstream = await fetch(f"{self.env.UPSTREAM}/missing")
            yield await upstream.bytes()
            wait_until(self.remember("streamed", "to the end"))

        return Response(chunks(), headers={"content-type": "text/event-stream"})

    async def answer_endless(self, request):
        async def chunks():
            try:
                while True:
                    yield b"more\n"
                    await asyncio.sleep(0)
            finally:
                LEFT.append("closed")

        HELD.append(chunks())  # else its end would be the garbage collector's doing
        return Response(HELD[0])

    async def answer_left(self, request):
        return Response.json(LEFT)

    async def answer_upload(self, request):
        async def chunks():
            yield b"<"
            async for chunk in request.body:
                yield chunk
            yield b">"

        return await fetch(Request(f"{self.env.UPSTREAM}/echo", method="POST", body=chunks()))

    async def answer_tee(self, request):
        upstream = await fetch(f"{self.env.UPSTREAM}/stream")
        mine, theirs = upstream.body.tee()
        wait_until(self.record(theirs))
        return Response(mine, upstream.status)

    async def record(self, stream):
        await self.remember("recorded", await stream.read_all())

    async def remember(self, key, value):
        await self.env.KV.put(key, value)

    async def answer_errors(self, request):
        texts = []
        for call in (
            lambda: self.env.KV.put("", "v"),
            lambda: self.env.KV.put("k", "v", expiration_ttl=60),
            lambda: self.env.KV.put("k", "v", {"expirationTtl": 1}),
            lambda: fetch("http://127.0.0.1:1/"),
        ):
            try:
                texts.append(await call())
            except (KVError, TypeError) as error:
                texts.append(f"{type(error).__name__} {error}")
            except OSError as error:
                texts.append(isinstance(error, OSError))
        return Response.json(texts)

    async def answer_streams(self, request):
        await self.env.KV.put("stream", request.body, metadata=[1])
        found = await self.env.KV.getWithMetadata("stream", "stream")
        return Response(found.value, headers={"x-metadata": json.dumps(found.metadata)})

    async def answer_env(self, request):
        try:
            missing = self.env.MISSING
        except AttributeError as error:
            missing = str(error)
        settings = self.env.SETTINGS
        return Response.json([missing, settings.nested.value, settings.list, self.env.FLAG, self.env.NUMBER])

    async def answer_immutable(self, request):
        try:
            request.headers.set("x-a", "1")
        except TypeError as error:
            return Response(str(error))
        return Response("it was changed")

    async def answer_raises(self, request):
        raise RuntimeError("a secret")

    async def answer_send(self, request):
        await self.env.QUEUE.send({"n": 1}, delaySeconds=5)
        await self.env.QUEUE.sendBatch([{"body": "a", "contentType": "text"}, {"body": {"b": None}}])
        return Response("sent")

    async def queue(self, batch):
        await self.env.KV.put("batch", json.dumps([batch.queue, [(m.id, m.body, m.attempts) for m in batch.messages]]))
        for message in batch.messages:
            if message.body == "bad":
                message.retry(delaySeconds=7)
            elif message.body == "raise":
                raise RuntimeError("poison")
            elif message.body != "unmarked":
                message.ack()

    async def scheduled(self, controller, env, ctx):
        if controller.cron == "fails":
            raise RuntimeError("the cron failed")
        controller.noRetry()
        await self.remember("tick", f"{controller.cron} {controller.scheduledTime}")
