"""What a user of an SDK can see of one call, in a form that two calls can be compared in."""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

# Where the SDKs keep what they know about an error; the response object itself never equals another.
_ERROR_FIELDS = ("status_code", "code", "status", "message", "body", "details", "type", "param", "request_id")
# Headers are compared in test_headers.py: the gateway adds some.
_TRANSPORT_FIELDS = ("sdk_http_response",)


@dataclass(frozen=True)
class Case:
    """One call of an SDK; `call` takes the sync or the async client and returns what that returns."""

    name: str
    call: Callable[[Any], Any]
    sees: tuple[str, ...] = ()
    """Strings in the outcome's repr, so that two equally wrong outcomes do not pass for equal ones."""
    error: str = ""
    """Class name of the exception that ends it."""


@dataclass
class Outcome:
    items: list[Any] = field(default_factory=list)
    error: dict[str, Any] | None = None

    def fulfils(self, case: Case) -> None:
        error = "" if self.error is None else str(self.error["class"])
        assert error.rpartition(".")[2] == case.error, f"{self.error}"
        seen = repr(self)
        for expected in case.sees:
            assert expected in seen, f"no {expected!r} in {seen[:4000]}"


def run(call: Callable[[Any], Any], client: Any) -> Outcome:
    outcome = Outcome()
    try:
        result = call(client)
        if _iterates(result):
            for item in result:
                outcome.items.append(typed(item))
        else:
            outcome.items.append(typed(result))
    except Exception as error:
        outcome.error = _described(error)
    return outcome


async def arun(call: Callable[[Any], Any], client: Any) -> Outcome:
    outcome = Outcome()
    try:
        result = call(client)
        if inspect.isawaitable(result) and not hasattr(result, "__aiter__"):
            result = await result
        if hasattr(result, "__aiter__"):
            async for item in result:
                outcome.items.append(typed(item))
        else:
            outcome.items.append(typed(result))
    except Exception as error:
        outcome.error = _described(error)
    return outcome


def _iterates(value: Any) -> bool:
    # A pydantic model iterates over its fields; the SDKs' pages are models too, but iterate over all items.
    pages = hasattr(value, "iter_pages") or hasattr(value, "next_page")
    return pages or (hasattr(value, "__iter__") and not isinstance(value, BaseModel | dict | list | str))


def typed(value: Any) -> Any:
    """Class and content, all the way down."""
    if isinstance(value, BaseModel):
        fields = {**value.__dict__, **(value.__pydantic_extra__ or {})}
        content = {name: typed(part) for name, part in fields.items() if name not in _TRANSPORT_FIELDS}
        return (_name(type(value)), content)
    if isinstance(value, list | tuple):
        return [typed(part) for part in value]
    if isinstance(value, dict):
        return {key: typed(part) for key, part in value.items()}
    return value


def _described(error: Exception) -> dict[str, Any]:
    fields = {name: typed(getattr(error, name)) for name in _ERROR_FIELDS if hasattr(error, name)}
    cause = None if error.__cause__ is None else _name(type(error.__cause__))
    return {"class": _name(type(error)), "cause": cause, **fields}


def _name(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def script(**keys: Any) -> dict[str, str]:
    """The request header that scripts the provider."""
    return {"x-script": json.dumps(keys, separators=(",", ":"))}
