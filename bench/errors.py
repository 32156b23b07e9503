"""The one error of the benchmark: a run that cannot give honest figures."""

from __future__ import annotations


class BenchError(Exception):
    """The run is stopped; the message says why, with the output of the process to blame."""
