"""A handler in the words that Cloudflare's SDK and this runtime share: answers, KV, a proxy, work left behind."""

# Written as users write them, without annotations.
# mypy: ignore-errors

import json
from urllib.parse import urlsplit

from workers import Response, WorkerEntrypoint, fetch


class Default(WorkerEntrypoint):
    """One method for each path."""

    async def fetch(self, request):
        path = urlsplit(request.url).path
        method = getattr(self, f"answer{path.replace('/', '_')}", None)
        return Response("nothing here\n", status=404) if method is None else await method(request)

    async def answer_echo(self, request):
        names = ("x-one", "x-two", "content-type")
        seen = {name: request.headers.get(name) for name in names}
        text = await request.text()
        return Response.json(
            {"method": str(request.method.value), "url": request.url, "headers": seen, "text": text}, status=201
        )

    async def answer_cookies(self, request):
        headers = [("Set-Cookie", "a=1; Expires=Thu, 01 Jan 2026 00:00:00 GMT"), ("Set-Cookie", "b=2"), ("X-A", "1")]
        return Response("two cookies", status=202, headers=[*headers, ("X-A", "2")])

    async def answer_bytes(self, request):
        return Response(bytes(range(256)) + await request.bytes(), headers={"content-type": "image/x"})

    async def answer_empty(self, request):
        return Response(None, status=204)

    async def answer_json(self, request):
        return Response.json({"sent": await request.json(), "text": "é€😀", "none": None})

    async def answer_proxy(self, request):
        upstream = await fetch(f"{self.env.UPSTREAM}/stream", headers={"x-from": "worker"}, method="POST", body=b"up")
        kept = ("content-type", "x-upstream", "x-saw")
        return Response(
            upstream.body, status=upstream.status, headers=[(name, upstream.headers.get(name)) for name in kept]
        )

    async def answer_read(self, request):
        upstream = await fetch(f"{self.env.UPSTREAM}/stream")
        chunks = [bytes(chunk) async for chunk in upstream.body]
        return Response(b"|".join([b"".join(chunks), str(upstream.ok).encode()]))

    async def answer_missing(self, request):
        upstream = await fetch(f"{self.env.UPSTREAM}/missing")
        return Response.json({"status": upstream.status, "ok": upstream.ok, "text": await upstream.text()})

    async def answer_redirected(self, request):
        upstream = await fetch(f"{self.env.UPSTREAM}/redirect")
        text = await upstream.text()
        return Response.json({"url": upstream.url, "redirected": upstream.redirected, "text": text})

    async def answer_unreachable(self, request):
        try:
            await fetch("http://127.0.0.1:1/")
        except OSError:
            return Response("an OSError")
        return Response("reached")

    async def answer_kv(self, request):
        kv = self.env.KV
        await kv.put("text", "é€😀")
        await kv.put("number", 1.0)
        await kv.put("json", json.dumps({"a": [1, None, True]}), metadata={"m": [1, "é"], "n": 0})
        await kv.put("bytes", bytes(range(256)), expirationTtl=3600)
        await kv.put("gone", "x")
        await kv.delete("gone")
        found = await kv.getWithMetadata("json", type="json")
        page = await kv.list(limit=2)
        rest = await kv.list(prefix="", cursor=page["cursor"])
        bulk = await kv.get(["text", "number", "missing"])
        return Response.json(
            {
                "text": await kv.get("text"),
                "number": await kv.get("number"),
                "missing": await kv.get("missing"),
                "bytes": list(await kv.get("bytes", type="arrayBuffer")),
                "value": found.value,
                "metadata": found.metadata,
                "names": [key.name for key in (*page["keys"], *rest["keys"])],
                "complete": [page.list_complete, rest.list_complete],
                "bulk": dict(bulk),
            }
        )

    async def answer_refused(self, request):
        texts = []
        for call in (
            lambda: self.env.KV.put("k" * 513, "v"),
            lambda: self.env.KV.put("k", "v", expirationTtl=1),
            lambda: self.env.KV.get("json", type="json"),
            lambda: self.env.KV.list(limit=1001),
            lambda: self.env.KV.get(""),
        ):
            try:
                texts.append(await call())
            except Exception as error:
                texts.append(f"{error.name}: {error.message}")
        return Response.json(texts)

    async def answer_later(self, request):
        self.ctx.waitUntil(self.remember("later", "done"))
        return Response("soon\n")

    async def remember(self, key, value):
        await self.env.KV.put(key, value)

    async def scheduled(self, controller, env, ctx):
        assert env is None
        assert ctx is None
        await self.env.KV.put("cron", json.dumps([controller.cron, controller.scheduledTime]))
        self.ctx.waitUntil(self.remember("cron-later", controller.cron))
