from workers import Response, WorkerEntrypoint


class Default(WorkerEntrypoint):
    async def fetch(self, request):
        name = self.env.NAME
        return Response(f"Hello, {name}!", headers={"x-greeting": "hello"})
