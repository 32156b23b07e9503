import json

from workers import Response, WorkerEntrypoint, env


async def count(key):
    seen = await env.COUNTS.get(key)
    total = int(seen or 0) + 1
    await env.COUNTS.put(key, str(total), expirationTtl=3600)
    return total


class Default(WorkerEntrypoint):
    async def fetch(self, request):
        if request.method != "GET":
            return Response(json.dumps({"error": "use GET"}), status=405, headers={"allow": "GET"})
        return Response.json({"visits": await count("visits")})
