"""The aiohttp adapter: a host that serves handlers and a fetcher that relays byte for byte."""

from .fetcher import AiohttpFetcher as AiohttpFetcher
from .fetcher import open_fetcher as open_fetcher
from .host import AiohttpHost as AiohttpHost
from .host import open_host as open_host

__all__ = ("AiohttpFetcher", "AiohttpHost", "open_fetcher", "open_host")
