"""The smallest handler; as a Cloudflare Python Worker it begins with ``from workers import ...`` instead."""

from worker_compat import Request, Response, WorkerEntrypoint


class Default(WorkerEntrypoint):
    """Says hello to whoever asks."""

    async def fetch(self, request: Request) -> Response:
        """Answer every request."""
        return Response(f"hello from {request.url}\n")
