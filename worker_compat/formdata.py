"""FormData: the fields of a form, and their multipart and urlencoded wire forms."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from itertools import starmap
from typing import Any, TypeAlias, cast

from . import jsjson
from .blob import Blob, File

FormDataValue: TypeAlias = "str | Blob"
"""A field: text, or a file. A blob that is no file becomes one."""

MULTIPART = "multipart/form-data"
URLENCODED = "application/x-www-form-urlencoded"

_UNRECOGNISED = (
    "Unrecognized Content-Type header value. FormData can only parse the following MIME types: "
    f"{MULTIPART}, {URLENCODED}"
)
_NO_BOUNDARY = (
    "No boundary string in Content-Type header. The multipart/form-data MIME type requires a boundary parameter, "
    "e.g. 'Content-Type: multipart/form-data; boundary=\"abcd\"'. See RFC 7578, section 4."
)
_MAX_FIELDS = 10_000
_TOO_MANY = f"A form with more than {_MAX_FIELDS} fields."
_PARAMETER = re.compile(r';[ \t]*([^\s;="]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))[ \t]*', re.DOTALL)
_DISPOSITION = re.compile(r'\s*([\w\-]+)\s*((?:;\s*[\w\-*]+\s*=\s*"(?:[^"\n\\]|\\[^\n])+"\s*)*)')
_FIELD = re.compile(r'([\w\-*]+)\s*=\s*"((?:[^"\n\\]|\\[^\n])+)"')
_QUOTED = re.compile(r"\\(.)", re.DOTALL)
_HEADERS_END = re.compile(rb"\r?\n\r?\n")
_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\r\n\0]*?)[ \t]*\Z")


class FormData(MutableMapping[str, FormDataValue]):
    """Named fields in order; a name may occur more than once.

    As a mapping it gives the first value of a name, None for a missing one, and setting a name replaces all of its
    values. Iteration, ``items()`` and ``len()`` count every field. https://developer.mozilla.org/docs/Web/API/FormData
    """

    __slots__ = ("_fields",)

    def __init__(
        self, form_data: Mapping[str, FormDataValue] | Iterable[tuple[str, FormDataValue]] | None = None
    ) -> None:
        pairs = form_data.items() if isinstance(form_data, Mapping) else form_data or ()
        self._fields: list[tuple[str, str | File]] = [(str(name), _entry(name, value)) for name, value in pairs]

    def append(self, key: str, value: FormDataValue, filename: str | None = None) -> None:
        """Add a field; ``filename`` is for files and blobs."""
        if filename is not None and not isinstance(value, Blob):
            raise TypeError("a filename is for a Blob or File")
        self._fields.append((key, _entry(key, value, filename)))

    def delete(self, key: str) -> None:
        """Remove every field of this name; a missing one is no error."""
        self._fields = [field for field in self._fields if field[0] != key]

    def get_all(self, key: str) -> list[str | File]:
        """Every value of this name."""
        return [value for name, value in self._fields if name == key]

    getAll = get_all

    def set(self, key: str, value: FormDataValue, filename: str | None = None) -> None:
        """Replace every field of this name by one, at the place of the first."""
        entry = _entry(key, value, filename)
        at = next((place for place, field in enumerate(self._fields) if field[0] == key), len(self._fields))
        rest = [field for field in self._fields[at:] if field[0] != key]
        self._fields = [*self._fields[:at], (key, entry), *rest]

    def has(self, key: str) -> bool:
        """Whether a field has this name."""
        return key in self

    def get(self, key: str, default: Any = None) -> Any:
        """The first value of this name."""
        return next((value for name, value in self._fields if name == key), default)

    def pop(self, key: str, default: Any = None) -> Any:
        """The first value of this name, and remove all of them."""
        value = self.get(key, default)
        self.delete(key)
        return value

    def setdefault(self, key: str, default: FormDataValue = "") -> str | File:
        """The first value of this name, set to ``default`` if there is none."""
        if key not in self:
            self.set(key, default)
        found: str | File = self.get(key)
        return found

    def __getitem__(self, key: str) -> Any:
        return self.get(key)

    def __setitem__(self, key: str, value: FormDataValue) -> None:
        self.set(key, value)

    def __delitem__(self, key: str) -> None:
        self.delete(key)

    def __contains__(self, key: object) -> bool:
        return any(name == key for name, _ in self._fields)

    def __iter__(self) -> Iterator[str]:
        return iter([name for name, _ in self._fields])

    def __len__(self) -> int:
        return len(self._fields)

    def items(self) -> list[tuple[str, str | File]]:  # type: ignore[override] # every field, repeats included
        """Every field in order."""
        return list(self._fields)

    entries = items

    def keys(self) -> list[str]:  # type: ignore[override] # every field, repeats included
        """The name of every field in order."""
        return list(self)

    def values(self) -> list[str | File]:  # type: ignore[override] # every field, repeats included
        """The value of every field in order."""
        return [value for _, value in self._fields]

    def __repr__(self) -> str:
        # Names only: values are what users typed.
        return f"<FormData {list(self)}>"


def encoded(form: FormData) -> tuple[bytes, str]:
    """``form`` as multipart/form-data, and the content type with its boundary."""
    boundary = os.urandom(16).hex()
    parts = starmap(_part, form.items())
    body = b"".join(b"--%b\r\n%b\r\n" % (boundary.encode(), part) for part in parts)
    return body + f"--{boundary}--".encode(), f"{MULTIPART}; boundary={boundary}"


def decoded(data: bytes, content_type: str | None) -> FormData:
    """The form in a body. ``TypeError`` with Workers' text when the type is none of a form, or the body is broken."""
    if content_type is None:
        raise TypeError("Parsing a Body as FormData requires a Content-Type header.")
    kind, semicolon, rest = content_type.partition(";")
    kind = kind.strip().lower()
    options = _options(semicolon + rest)
    form = FormData()
    if kind == MULTIPART:
        if not options.get("boundary"):
            raise TypeError(_NO_BOUNDARY)
        for field in _parts(data, jsjson.to_utf8(options["boundary"])):
            if len(form) == _MAX_FIELDS:
                raise TypeError(_TOO_MANY)
            form._fields.append(field)
    elif kind == URLENCODED:
        if options.get("charset", "utf-8").lower() not in ("utf-8", "utf8", "unicode-1-1-utf-8"):
            raise TypeError("Non-utf-8 application/x-www-form-urlencoded body.")
        form._fields = _pairs(data)
    else:
        raise TypeError(_UNRECOGNISED)
    return form


def _entry(name: str, value: FormDataValue, filename: str | None = None) -> str | File:
    if isinstance(value, File) and filename is None:
        return value
    if isinstance(value, Blob):
        return File(value, name if filename is None else filename)
    text = jsjson.to_string(value)
    if text is None:
        raise TypeError(f"a form field is a str, Blob or File, not {type(value).__name__}")
    return text


def _part(name: str, value: str | File) -> bytes:
    head = f'Content-Disposition: form-data; name="{_quoted(name)}"'
    if isinstance(value, str):
        return jsjson.to_utf8(f"{head}\r\n\r\n{value}")
    content_type = value.content_type or "application/octet-stream"
    head = f'{head}; filename="{_quoted(value.name)}"\r\nContent-Type: {content_type}\r\n\r\n'
    return jsjson.to_utf8(head) + value._data


def _quoted(text: str) -> str:
    if text.endswith("\\"):
        raise TypeError("Name or filename can't end with backslash")
    return text.replace("\\", "\\\\").replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _options(parameters: str) -> dict[str, str]:
    """The parameters of a content type; the first of a name wins."""
    found: dict[str, str] = {}
    for name, quoted, plain in _PARAMETER.findall(parameters):
        found.setdefault(name.lower(), _QUOTED.sub(r"\1", quoted) or plain)
    return found


def _pairs(data: bytes) -> list[tuple[str, str | File]]:
    from urllib.parse import parse_qsl

    if data.count(b"&") >= _MAX_FIELDS:
        raise TypeError(_TOO_MANY)
    pairs = parse_qsl(data.decode("utf-8", "surrogateescape"), keep_blank_values=True, errors="replace")
    return cast("list[tuple[str, str | File]]", pairs)


def _parts(data: bytes, boundary: bytes) -> Iterator[tuple[str, str | File]]:
    delimiter = b"\n--" + boundary
    start = data.find(delimiter[1:])
    at = start + len(delimiter) - 1
    if start == -1 or at >= len(data):
        raise TypeError("No initial boundary string (or you have a truncated message).")
    while not data.startswith(b"--", at):
        if data.startswith(b"\r\n", at):
            at += 2
        elif data.startswith(b"\n", at):
            at += 1
        else:
            raise TypeError("Boundary string was not succeeded by CRLF, LF, or '--'.")
        head = _HEADERS_END.search(data, at)
        if head is None:
            raise TypeError("No multipart message header termination found.")
        end = data.find(delimiter, head.end())
        if end == -1 or end + len(delimiter) >= len(data):
            raise TypeError("No subsequent boundary string after multipart message.")
        # The carriage return belongs to the delimiter.
        last = end - 1 if end > head.end() and data[end - 1] == 0x0D else end
        yield _field(data[at : head.start()], data[head.end() : last])
        at = end + len(delimiter)


def _field(head: bytes, content: bytes) -> tuple[str, str | File]:
    lines = {}
    for line in head.split(b"\n"):
        match = _HEADER.match(line.removesuffix(b"\r"))
        if match is None:
            raise TypeError("FormData part had invalid headers.")
        lines[match[1].lower()] = match[2].decode("utf-8", "replace")
    disposition = lines.get(b"content-disposition")
    if disposition is None:
        raise TypeError("No valid Content-Disposition header found in FormData part.")
    parts = _DISPOSITION.match(disposition)
    if parts is None:
        raise TypeError("Invalid Content-Disposition header found in FormData part.")
    if parts[1] != "form-data":
        raise TypeError(
            'Content-Disposition header for FormData part must have the value "form-data", '
            f'possibly followed by parameters. Got: "{parts[1]}"'
        )
    options = {name: _QUOTED.sub(r"\1", value) for name, value in _FIELD.findall(parts[2])}
    if "name" not in options:
        raise TypeError("Content-Disposition header in FormData part is missing a name.")
    if "filename" in options:
        return options["name"], File.received(content, options["filename"], lines.get(b"content-type", ""))
    return options["name"], content.decode("utf-8", "replace")
