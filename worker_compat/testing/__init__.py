"""Conformance kits and fakes for adapters and handlers; imports no test runner."""

from .fakes import FakeClock as FakeClock
from .fakes import ScriptedBody as ScriptedBody
from .fakes import ScriptedFetcher as ScriptedFetcher
from .fakes import SeenRequest as SeenRequest
from .fakes import read_response as read_response

__all__ = ("FakeClock", "ScriptedBody", "ScriptedFetcher", "SeenRequest", "read_response")
