"""Notes in KV, streamed in and out, and a cron that counts them; the same file runs on Cloudflare."""

from urllib.parse import unquote, urlsplit

from workers import Response, WorkerEntrypoint


class Default(WorkerEntrypoint):
    """``PUT`` and ``GET /notes/<name>``, ``GET /notes`` for the names, ``GET /report`` for what the cron found."""

    async def fetch(self, request):
        """Route one request."""
        path = urlsplit(request.url).path
        if path == "/report":
            report = await self.env.NOTES.get("report", type="json")
            return Response.json(report or {"notes": None})
        if path == "/notes":
            return Response.json({"title": self.env.TITLE, "names": await self.names()})
        if path.startswith("/notes/"):
            key = f"note:{unquote(path.removeprefix('/notes/'))}"
            return await (self.store(key, request) if request.method == "PUT" else self.read(key))
        return Response("try /notes\n", status=404)

    async def store(self, key, request):
        """Stream the body into KV, with its type as metadata."""
        kind = request.headers.get("content-type") or "application/octet-stream"
        await self.env.NOTES.put(key, request.body or "", metadata={"type": kind})
        return Response("stored\n", status=201)

    async def read(self, key):
        """Stream the value out of KV."""
        found = await self.env.NOTES.getWithMetadata(key, type="stream")
        if found.value is None:
            return Response("no such note\n", status=404)
        return Response(found.value, headers={"content-type": found.metadata["type"]})

    async def names(self):
        """The names of all notes, page by page."""
        names, cursor, complete = [], None, False
        while not complete:
            options = {"cursor": cursor} if cursor else {}
            page = await self.env.NOTES.list(prefix="note:", **options)
            names += [key["name"].removeprefix("note:") for key in page["keys"]]
            cursor, complete = page.get("cursor"), page["list_complete"]
        return names

    async def scheduled(self, controller, env, ctx):
        """Count the notes; on Cloudflare ``env`` and ``ctx`` are None here, so everything comes from ``self``."""
        report = f'{{"notes": {len(await self.names())}, "cron": "{controller.cron}"}}'
        await self.env.NOTES.put("report", report)
