"""The conformance kit of record stores, and the batches that it appends; imports no test runner."""

from .records import AdvancingClock as AdvancingClock
from .records import RecordStoreConformance as RecordStoreConformance
from .samples import HEADLESS as HEADLESS
from .samples import KEY_ID as KEY_ID
from .samples import entry as entry
from .samples import extension as extension

__all__ = ("AdvancingClock", "RecordStoreConformance", "HEADLESS", "KEY_ID", "entry", "extension")
