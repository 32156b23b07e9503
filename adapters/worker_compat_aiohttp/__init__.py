"""The aiohttp adapter: a host that serves handlers, a fetcher that relays byte for byte, one for users' addresses."""

from .egress import EgressFetcher as EgressFetcher
from .egress import EgressRefused as EgressRefused
from .egress import open_egress as open_egress
from .fetcher import AiohttpFetcher as AiohttpFetcher
from .fetcher import open_fetcher as open_fetcher
from .host import AiohttpHost as AiohttpHost
from .host import open_host as open_host

__all__ = (
    "AiohttpFetcher", "AiohttpHost", "EgressFetcher", "EgressRefused", "open_egress", "open_fetcher", "open_host",
)  # fmt: skip
