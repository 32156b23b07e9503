"""The benchmark: the gateway beside no proxy, nginx and a bare aiohttp pass-through, in one run."""
