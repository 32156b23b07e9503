"""Running a conformance kit without a test runner: its cases, each with subjects of its own, and what came out."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

Subjects = Callable[[], AbstractAsyncContextManager[Mapping[str, Any]]]
"""Opens what cases ask for by the names of their arguments (``store``, ``clock``, ...); closed after each case."""

CASE_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Case:
    """One rule of a kit: the method ``test_<name>``; ``rule`` is the first line of its docstring."""

    kit: type
    name: str
    rule: str

    async def run(self, subjects: Mapping[str, Any]) -> None:
        """Raise what the case raises: an ``AssertionError`` when the rule is broken."""
        method = getattr(self.kit(), f"test_{self.name}")
        wanted = inspect.signature(method).parameters
        missing = sorted(set(wanted) - set(subjects))
        if missing:
            raise TypeError(f"{self.name} needs {', '.join(missing)}; the subjects are {', '.join(sorted(subjects))}")
        await method(**{name: subjects[name] for name in wanted})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one case came to; ``error`` is None when the rule holds."""

    case: Case
    error: BaseException | None

    @property
    def passed(self) -> bool:
        """Whether the rule holds."""
        return self.error is None


def cases(kit: type) -> Iterator[Case]:
    """The cases of a kit, in the order in which they are written."""
    written = {name: None for ancestor in reversed(kit.__mro__) for name in vars(ancestor)}
    for name in written:
        if name.startswith("test_"):
            rule = (inspect.getdoc(getattr(kit, name)) or "").partition("\n")[0]
            yield Case(kit, name.removeprefix("test_"), rule)


async def run(kit: type, subjects: Subjects, *, limit_s: float = CASE_LIMIT_S) -> Sequence[Outcome]:
    """Run every case of ``kit`` with fresh subjects, for at most ``limit_s`` seconds each; none stops the others.

    ``RuntimeError`` under ``python -O``, which takes assertions away.
    """
    if not __debug__:
        raise RuntimeError("python -O removes assertions: run the kit without it")
    return [await _outcome(case, subjects, limit_s) for case in cases(kit)]


async def _outcome(case: Case, subjects: Subjects, limit_s: float) -> Outcome:
    try:
        async with asyncio.timeout(limit_s), subjects() as given:
            await case.run(given)
    except Exception as error:
        return Outcome(case, error)
    return Outcome(case, None)
