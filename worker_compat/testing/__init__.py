"""Conformance kits and fakes for adapters and handlers; imports no test runner."""

from .fakes import FakeClock as FakeClock
from .fakes import ScriptedBody as ScriptedBody
from .fakes import ScriptedFetcher as ScriptedFetcher
from .fakes import SeenRequest as SeenRequest
from .fakes import read_response as read_response
from .fetcher import FetcherConformance as FetcherConformance
from .fetcher import fetcher_subjects as fetcher_subjects
from .host import HostConformance as HostConformance
from .host import host_subjects as host_subjects
from .kv import KVCompareAndPutConformance as KVCompareAndPutConformance
from .kv import KVStoreConformance as KVStoreConformance
from .kv import kv_subjects as kv_subjects
from .origin import Origin as Origin
from .origin import open_origin as open_origin
from .queue import QueueStoreConformance as QueueStoreConformance
from .queue import queue_subjects as queue_subjects

__all__ = (
    "FakeClock",
    "ScriptedBody",
    "ScriptedFetcher",
    "SeenRequest",
    "read_response",
    "FetcherConformance",
    "fetcher_subjects",
    "HostConformance",
    "host_subjects",
    "Origin",
    "open_origin",
    "KVCompareAndPutConformance",
    "KVStoreConformance",
    "kv_subjects",
    "QueueStoreConformance",
    "queue_subjects",
)
