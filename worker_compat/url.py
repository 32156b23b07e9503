"""URLs by the WHATWG standard: parsed, normalised and resolved against a base, with the standard library only."""

from __future__ import annotations

import re
from dataclasses import dataclass

DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443, "ftp": 21, "file": None}
"""The schemes that the standard calls special, and the port that each leaves unsaid."""

# What most URLs look like: nothing in it would change. A last label that begins with a letter is no IPv4 number.
_USUAL = re.compile(
    r"""https?://(?:[a-z0-9_-]+\.)*[a-z][a-z0-9_-]*(?::(?!80/|443/)[1-9][0-9]{0,3})?
    (?:/(?!\.|%2[eE])[!$%&'()*+,\-.0-9:;=@A-Z\[\]_a-z|~]*)+
    (?:\?[!$%&()*+,\-./0-9:;=?@A-Z\[\]_a-z|~`{}^\\]*)?(?:\#[!$%&'()*+,\-./0-9:;=?@A-Z\[\]_a-z|~{}^\\]*)?\Z""",
    re.VERBOSE,
)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):")
_EDGES = "".join(map(chr, range(0x21)))
_REMOVED = str.maketrans("", "", "\t\n\r")
_PORT = re.compile(r"[0-9]*\Z")
_DRIVE = re.compile(r"[A-Za-z][:|](?=/|\Z)")
_USERINFO = re.compile(r"(?<=[/\\])[^/\\]*@")


def _outside(safe: str) -> re.Pattern[str]:
    """Matches the characters to percent-encode: all but the printable ASCII in ``safe``."""
    return re.compile(f"[^{re.escape(safe)}]")


_PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))
_CONTROL = _outside(_PRINTABLE)
_FRAGMENT = _outside(_PRINTABLE.translate(str.maketrans("", "", ' "<>`')))
_QUERY = _outside(_PRINTABLE.translate(str.maketrans("", "", ' "#<>')))
_SPECIAL_QUERY = _outside(_PRINTABLE.translate(str.maketrans("", "", " \"#<>'")))
_PATH = _outside(_PRINTABLE.translate(str.maketrans("", "", ' "#<>?^`{}')))
_USER = _outside(_PRINTABLE.translate(str.maketrans("", "", ' "#<>?^`{}/:;=@[\\]|')))


@dataclass(frozen=True, slots=True)
class URL:
    """The parts of a URL; ``query`` and ``fragment`` without their mark, None when that is missing too.

    ``path`` is opaque (``mailto:x``) when it does not begin with a slash; ``port`` is None for the scheme's own.
    The properties are those of JavaScript's class.
    https://developers.cloudflare.com/workers/runtime-apis/web-standards/#url-api
    """

    scheme: str
    username: str
    password: str
    hostname: str | None
    port: int | None
    path: str
    query: str | None
    fragment: str | None
    opaque: bool = False

    @property
    def host(self) -> str:
        """Name and port."""
        return f"{self.hostname or ''}{'' if self.port is None else f':{self.port}'}"

    @property
    def origin(self) -> str:
        """Scheme, name and port; ``null`` for a scheme that has no origin."""
        if self.scheme in DEFAULT_PORTS and self.scheme != "file":
            return f"{self.scheme}://{self.host}"
        if self.scheme == "blob" and self.opaque and _USUAL_BLOB.match(self.path):
            return parse(self.path).origin
        return "null"

    @property
    def href(self) -> str:
        """The whole URL, normalised."""
        if self.hostname is None:
            # A path that begins with two slashes must not look like a host.
            head = "/." if self.path.startswith("//") and not self.opaque else ""
        else:
            password = f":{self.password}" if self.password else ""
            at = "@" if self.username or password else ""
            head = f"//{self.username}{password}{at}{self.host}"
        query = "" if self.query is None else f"?{self.query}"
        fragment = "" if self.fragment is None else f"#{self.fragment}"
        return f"{self.scheme}:{head}{self.path}{query}{fragment}"

    def __str__(self) -> str:
        return self.href


_USUAL_BLOB = re.compile(r"https?:", re.IGNORECASE)


def normalise(url: str) -> str:
    """``parse(url).href``, at once for URLs that are in this form already."""
    return url if _USUAL.match(url) else parse(url).href


def parse(url: str, base: URL | str | None = None) -> URL:
    """The URL in ``url``, relative to ``base`` if that is given.

    ``TypeError`` (``Invalid URL: ...``, without query and user) when it is none. https://url.spec.whatwg.org/
    """
    against = parse(base) if isinstance(base, str) else base
    try:
        return _parsed(_scalar(url).strip(_EDGES).translate(_REMOVED), against)
    except ValueError:
        raise TypeError(f"Invalid URL: {loggable(url)}") from None


def loggable(url: str) -> str:
    """``url`` without query, fragment, user and password: keys stand there, and errors end in logs."""
    return _USERINFO.sub("", re.split(r"[?#]", url, maxsplit=1)[0])


def _scalar(text: str) -> str:
    """``text`` with U+FFFD for lone surrogates, as JavaScript's USVString."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _parsed(text: str, base: URL | None) -> URL:
    match = _SCHEME.match(text)
    scheme = match[1].lower() if match else None
    rest, mark, fragment = (text[match.end() :] if match else text).partition("#")
    end = _encoded(fragment, _FRAGMENT) if mark else None
    if scheme is None:
        if base is None:
            raise ValueError("relative without a base")
        if base.opaque:
            if rest or end is None:
                raise ValueError("relative to an opaque path")
            return _with(base, base.path, base.query, end)
        return _read(base.scheme, rest, end, base)
    same = base is not None and base.scheme == scheme and scheme in DEFAULT_PORTS
    return _read(scheme, rest, end, base if same else None)


def _read(scheme: str, rest: str, end: str | None, base: URL | None) -> URL:
    """The URL in what stands between scheme and fragment."""
    rest, mark, search = rest.partition("?")
    special = scheme in DEFAULT_PORTS
    query = _encoded(search, _SPECIAL_QUERY if special else _QUERY) if mark else None
    if special:
        rest = rest.replace("\\", "/")
    if scheme == "file":
        return _file(rest, query, end, base)
    if base is not None and not rest.startswith("//"):
        return _relative(rest, query, end, base)
    if special or rest.startswith("//"):
        return _absolute(scheme, rest.lstrip("/") if special else rest[2:], query, end)
    if rest.startswith("/"):
        return URL(scheme, "", "", None, None, _path(rest[1:], [], scheme), query, end)
    return URL(scheme, "", "", None, None, _opaque(rest, last=query is end is None), query, end, True)


def _with(base: URL, path: str, query: str | None, fragment: str | None) -> URL:
    """``base`` with all behind its host replaced."""
    return URL(
        base.scheme, base.username, base.password, base.hostname, base.port, path, query, fragment, base.opaque
    )  # fmt: skip


def _relative(rest: str, query: str | None, fragment: str | None, base: URL) -> URL:
    if not rest:
        return _with(base, base.path, base.query if query is None else query, fragment)
    if rest.startswith("/"):
        return _with(base, _path(rest[1:], [], base.scheme), query, fragment)
    return _with(base, _path(rest, _segments(base)[:-1], base.scheme), query, fragment)


def _segments(url: URL) -> list[str]:
    return url.path.split("/")[1:]


def _absolute(scheme: str, rest: str, query: str | None, fragment: str | None) -> URL:
    from .urlhost import parse_host

    authority, slash, path = rest.partition("/")
    user, at, server = authority.rpartition("@")
    name, password = "", ""
    if at:
        name, _, password = user.partition(":")
        if not server:
            raise ValueError("a user without a host")
    # Colons inside the brackets of an IPv6 address are its own.
    colon = server.find(":", server.rfind("]") + 1)
    host, digits = (server, "") if colon == -1 else (server[:colon], server[colon + 1 :])
    special = scheme in DEFAULT_PORTS
    if not host and (special or colon != -1):
        raise ValueError("no host")
    where = _path(path, [], scheme) if slash or special else ""
    hostname = parse_host(host, special)
    port = _port(digits, scheme)
    return URL(scheme, _encoded(name, _USER), _encoded(password, _USER), hostname, port, where, query, fragment)


def _port(digits: str, scheme: str) -> int | None:
    if not _PORT.match(digits):
        raise ValueError("a port is a number")
    digits = digits.lstrip("0") or digits[:1]
    if not digits:
        return None
    if len(digits) > 5 or int(digits) > 65535:
        raise ValueError("no such port")
    return None if int(digits) == DEFAULT_PORTS.get(scheme) else int(digits)


def _file(rest: str, query: str | None, fragment: str | None, base: URL | None) -> URL:
    host, kept = "", list[str]()
    if rest.startswith("//"):
        host, rest = _file_host(rest[2:])
    elif base is None:
        rest = rest.removeprefix("/")
    elif rest.startswith("/"):
        host, rest = base.hostname or "", rest[1:]
        first = _segments(base)[:1]
        kept = first if first and _is_drive(first[0]) and not _DRIVE.match(rest) else []
    elif not rest:
        return _with(base, base.path, base.query if query is None else query, fragment)
    else:
        host = base.hostname or ""
        kept = [] if _DRIVE.match(rest) else _shortened(_segments(base), "file")
    return URL("file", "", "", host, None, _path(rest, kept, "file"), query, fragment)


def _file_host(rest: str) -> tuple[str, str]:
    """Host and path behind ``file://``, where a drive letter is no host."""
    from .urlhost import parse_host

    host, _, path = rest.partition("/")
    if _DRIVE.match(host):
        return "", rest
    name = parse_host(host, True) if host else ""
    return "" if name == "localhost" else name, path


def _is_drive(segment: str) -> bool:
    return len(segment) == 2 and segment[1] == ":" and segment[0].isascii() and segment[0].isalpha()


def _shortened(path: list[str], scheme: str) -> list[str]:
    if scheme == "file" and len(path) == 1 and _is_drive(path[0]):
        return path
    return path[:-1]


def _path(text: str, segments: list[str], scheme: str) -> str:
    """The path of ``text`` (behind a slash) below ``segments``, dots resolved."""
    path = list(segments)
    parts = text.split("/")
    for index, part in enumerate(parts):
        dots = part if part in ("", ".", "..") or "%" not in part else re.sub("%2e", ".", part, flags=re.IGNORECASE)
        if dots == "..":
            if not (scheme == "file" and len(path) == 1 and _is_drive(path[0])):
                del path[-1:]
        elif dots != ".":
            drive = scheme == "file" and not path and len(part) == 2 and _DRIVE.match(part)
            path.append(f"{part[0]}:" if drive else _encoded(part, _PATH))
            continue
        if index == len(parts) - 1:
            path.append("")
    return "/" + "/".join(path)


def _opaque(text: str, *, last: bool) -> str:
    # Without this a URL that loses its query would end in a space, which the next parser trims.
    if not last and text.endswith(" "):
        text = f"{text[:-1]}%20"
    return _encoded(text, _CONTROL)


def _encoded(text: str, unsafe: re.Pattern[str]) -> str:
    return unsafe.sub(_percent, text)


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode())
