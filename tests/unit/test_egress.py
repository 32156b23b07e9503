"""EGRESS reaches public addresses and no other: every connect is seen where the event loop makes it."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from ipaddress import ip_address
from typing import Any, TypeVar

import pytest
import trustme
from aiohttp.abc import AbstractResolver, ResolveResult

from tests.wire.raw import Message, RawUpstream, Respond, answer
from worker_compat.addresses import is_public, parse_address
from worker_compat.errors import ConnectFailed, FetchError, FetchTimeout, ProtocolError
from worker_compat.request import Request
from worker_compat_aiohttp.egress import MAX_ANSWER, EgressFetcher, EgressRefused, open_egress

PUBLIC, PUBLIC_6 = "93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"
REMEDY = "WEBHOOK_ALLOW_PRIVATE"

PRIVATE = """
    127.0.0.1 127.255.255.254 0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1
    100.64.0.1 100.100.100.200 100.127.255.255 169.254.169.254 169.254.170.2 168.63.129.16 192.0.0.1 192.0.0.192
    192.0.2.1 198.51.100.1 203.0.113.1 198.18.0.1 198.19.255.255 192.88.99.1 224.0.0.1 239.255.255.255 240.0.0.1
    255.255.255.255
    :: ::1 fe80::1 febf::1 fc00::1 fd00::8 fd00:ec2::254 fec0::1 ff02::1 100::1 5f00::1
    ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:93.184.215.14 ::127.0.0.1 ::93.184.215.14
    64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b::5db8:d70e 64:ff9b:1::1 2002:7f00:1::1 2002:5db8:d70e::1
    2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:db8::1 2001:2::1 2001:10::1 3fff::1
""".split()

OTHER_SPELLINGS = """
    2130706433 0x7f000001 017700000001 0177.0.0.1 0x7f.0.0.1 127.1 127.0.1 0 2852039166 0xa9fea9fe 3232235521
    [::ffff:127.0.0.1] [::ffff:7f00:1] [0:0:0:0:0:ffff:127.0.0.1] [::127.0.0.1] [64:ff9b::127.0.0.1] [::0001]
""".split()

S = TypeVar("S", bound=RawUpstream)


class NetworkLoop(asyncio.SelectorEventLoop):
    """A loop that notes every address connected to. ``routes`` leads public ones to servers of this machine."""

    def __init__(self) -> None:
        super().__init__()
        self.connects: list[str] = []
        self.routes: dict[str, int] = {}

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect on this machine only: nothing here may send a packet elsewhere."""
        self.connects.append(address[0])
        place = parse_address(address[0])
        assert place is not None
        if place.is_loopback or place.is_unspecified:
            await super().sock_connect(sock, address)
        elif address[0] in self.routes:
            local = "::1" if place.version == 6 else "127.0.0.1"
            await super().sock_connect(sock, (local, self.routes[address[0]]))
        else:
            raise OSError(101, "Network is unreachable")


class Names(AbstractResolver):
    """Answers the look-ups of names in turn, the last answer again and again, and counts them."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            # An alias (CNAME) shows as another name of the address.
            ResolveResult(hostname=f"alias.of.{host}", host=each, port=port, family=family, proto=0, flags=0)
            for each in found
        ]

    async def close(self) -> None:
        return


def in_network(main: Callable[[NetworkLoop], Coroutine[Any, Any, None]]) -> None:
    """Run ``main`` in a loop of its own."""
    with asyncio.Runner(loop_factory=NetworkLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, NetworkLoop)
        runner.run(main(loop))


@contextmanager
def listening() -> Iterator[tuple[int, Callable[[], int]]]:
    """A port on every address of this machine, and how many have connected to it so far."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        server.setblocking(False)

        def accepted() -> int:
            count = 0
            try:
                while True:
                    server.accept()[0].close()
                    count += 1
            except BlockingIOError:
                return count

        yield server.getsockname()[1], accepted


AUTHORITY = trustme.CA()


class TlsUpstream(RawUpstream):
    """The same behind TLS, for one name; ``names`` are those that clients asked for."""

    def __init__(self, name: str, address: str = "127.0.0.1") -> None:
        super().__init__()
        self.names: list[str | None] = []
        self._address = address
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        AUTHORITY.issue_cert(name).configure_cert(self._context)
        self._context.sni_callback = lambda _socket, asked, _context: self.names.append(asked)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, self._address, 0, ssl=self._context)


@asynccontextmanager
async def upstream(sink: S) -> AsyncIterator[S]:
    await sink.start()
    try:
        yield sink
    finally:
        await sink.stop()


@asynccontextmanager
async def trusting(names: AbstractResolver, **options: Any) -> AsyncIterator[EgressFetcher]:
    """An egress that refuses private addresses and trusts our authority."""
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    async with open_egress(allow_private=False, resolver=names, ssl_context=context, **options) as egress:
        yield egress


def post(url: str, body: bytes = b"{}") -> Request:
    return Request.outgoing(url, "POST", [(b"X-Secret", b"s3cret")], body)


def bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def test_no_connect_to_a_private_address_that_is_written_out() -> None:
    async def main(loop: NetworkLoop) -> None:
        names = Names(["127.0.0.1"])
        with listening() as (port, accepted):
            async with open_egress(allow_private=False, resolver=names) as egress:
                for address in PRIVATE:
                    with pytest.raises(EgressRefused, match=REMEDY):
                        await egress.fetch(post(f"https://{bracketed(address)}:{port}/hook"))
            assert (loop.connects, accepted(), names.asked) == ([], 0, [])

    in_network(main)


def test_no_connect_to_a_name_with_a_private_address() -> None:
    async def main(loop: NetworkLoop) -> None:
        with listening() as (port, accepted):
            loop.routes = {PUBLIC: port, PUBLIC_6: port}
            for address in PRIVATE:
                for found in ([address], [PUBLIC, address], [address, PUBLIC], [PUBLIC_6, address, PUBLIC]):
                    names = Names(found)
                    async with open_egress(allow_private=False, resolver=names) as egress:
                        with pytest.raises(EgressRefused, match=REMEDY):
                            await egress.fetch(post(f"https://hook.example:{port}/"))
                    assert names.asked == ["hook.example"]
            assert (loop.connects, accepted()) == ([], 0)

    in_network(main)


@pytest.mark.parametrize("make", [post, lambda url: Request(url, method="POST")], ids=["as it is", "normalised"])
def test_no_connect_to_other_spellings_of_a_private_address(make: Callable[[str], Request]) -> None:
    async def main(loop: NetworkLoop) -> None:
        with listening() as (port, accepted):
            # The system's resolver reads decimal, octal and hexadecimal spellings, and this one does too.
            async with open_egress(allow_private=False, resolver=Names(["127.0.0.1"])) as egress:
                for host in OTHER_SPELLINGS:
                    with pytest.raises(ConnectFailed):
                        await egress.fetch(make(f"https://{host}:{port}/"))
            assert (loop.connects, accepted()) == ([], 0)

    in_network(main)


@pytest.mark.parametrize("host", ["localhost", "localhost.", "LOCALHOST", "127.1", "0x7f000001", "127.0.0.1"])
def test_no_connect_by_the_resolver_of_this_machine(host: str) -> None:
    async def main(loop: NetworkLoop) -> None:
        with listening() as (port, accepted):
            async with open_egress(allow_private=False) as egress:
                with pytest.raises(ConnectFailed):
                    await egress.fetch(post(f"https://{host}:{port}/"))
            assert (loop.connects, accepted()) == ([], 0)

    in_network(main)


def test_a_name_that_turns_private_is_refused() -> None:
    """DNS rebinding: what was looked up is what is connected to, and every new connection is looked up."""

    async def main(loop: NetworkLoop) -> None:
        async with upstream(TlsUpstream("hook.example")) as sink:
            sink.respond = answer(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", close=True)
            loop.routes[PUBLIC] = sink.port
            names = Names([PUBLIC], ["127.0.0.1"])
            with listening() as (port, accepted):
                async with trusting(names) as egress:
                    assert (await egress.fetch(post(f"https://hook.example:{port}/a"))).status == 204
                    assert (names.asked, loop.connects) == (["hook.example"], [PUBLIC])
                    with pytest.raises(EgressRefused):
                        await egress.fetch(post(f"https://hook.example:{port}/b"))
                assert (names.asked, loop.connects) == (["hook.example"] * 2, [PUBLIC])
                assert (accepted(), len(sink.requests)) == (0, 1)

    in_network(main)


def test_a_public_name_is_asked_over_tls_by_its_name() -> None:
    async def main(loop: NetworkLoop) -> None:
        async with upstream(TlsUpstream("hook.example")) as sink:
            loop.routes[PUBLIC] = sink.port
            async with trusting(Names([PUBLIC])) as egress:
                response = await egress.fetch(post("https://hook.example/a?token=t", b"body"))
            assert (response.status, await response.bytes()) == (200, b"ok")
            (request,) = sink.requests
            assert (request.start, request.body) == (b"POST /a?token=t HTTP/1.1", b"body")
            assert (request.get(b"host"), sink.names) == (b"hook.example", ["hook.example"])

    in_network(main)


def test_public_addresses_of_both_kinds_are_reached() -> None:
    async def main(loop: NetworkLoop) -> None:
        for address, local in ((PUBLIC, "127.0.0.1"), (PUBLIC_6, "::1")):
            async with upstream(TlsUpstream(address, local)) as sink:
                loop.routes[address] = sink.port
                async with trusting(Names([address])) as egress:
                    assert (await egress.fetch(post(f"https://{bracketed(address)}/"))).status == 200
        assert loop.connects == [PUBLIC, PUBLIC_6]

    in_network(main)


def test_a_certificate_of_another_name_gets_nothing() -> None:
    async def main(loop: NetworkLoop) -> None:
        async with upstream(TlsUpstream("other.example")) as sink:
            loop.routes[PUBLIC] = sink.port
            async with trusting(Names([PUBLIC])) as egress:
                with pytest.raises(ConnectFailed):
                    await egress.fetch(post("https://hook.example/"))
            assert sink.requests == []

    in_network(main)


@pytest.mark.parametrize(
    "url",
    [
        "https://user@{host}/", "https://user:pass@{host}/", "https://:pass@{host}/", "https://hook.example@{host}/",
        "https://hook.example\\@{host}/", "http://{host}/", "ftp://{host}/", "ws://{host}/", "unix://{host}/",
    ],
)  # fmt: skip
def test_no_connect_with_userinfo_or_without_tls(url: str) -> None:
    async def main(loop: NetworkLoop) -> None:
        with listening() as (port, accepted):
            loop.routes[PUBLIC] = port
            async with open_egress(allow_private=False, resolver=Names([PUBLIC])) as egress:
                with pytest.raises(EgressRefused) as caught:
                    await egress.fetch(post(url.format(host=f"hook.example:{port}")))
            assert "pass@" not in str(caught.value)
            assert (loop.connects, accepted()) == ([], 0)

    in_network(main)


def test_userinfo_is_refused_where_private_addresses_are_allowed() -> None:
    async def main(loop: NetworkLoop) -> None:
        async with open_egress(allow_private=True, resolver=Names(["127.0.0.1"])) as egress:
            with pytest.raises(EgressRefused, match="user or a password"):
                await egress.fetch(post("https://user:pass@127.0.0.1/"))
        assert loop.connects == []

    in_network(main)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer(status: int) -> None:
    async def main(loop: NetworkLoop) -> None:
        with listening() as (port, accepted):
            async with upstream(TlsUpstream("hook.example")) as sink:
                loop.routes[PUBLIC] = sink.port
                location = f"Location: http://127.0.0.1:{port}/\r\n"
                sink.respond = answer(f"HTTP/1.1 {status} Elsewhere\r\n{location}Content-Length: 0\r\n\r\n".encode())
                async with trusting(Names([PUBLIC])) as egress:
                    # As a handler would make it: its redirect is "follow".
                    assert (await egress.fetch(Request("https://hook.example/", method="POST"))).status == status
            assert (loop.connects, accepted(), len(sink.requests)) == ([PUBLIC], 0, 1)

    in_network(main)


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(loop: NetworkLoop) -> None:
        with listening() as (port, accepted):
            for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
                monkeypatch.setenv(name.lower(), f"http://127.0.0.1:{port}")
            async with upstream(TlsUpstream("hook.example")) as sink:
                loop.routes[PUBLIC] = sink.port
                async with trusting(Names([PUBLIC])) as egress:
                    assert (await egress.fetch(post("https://hook.example/"))).status == 200
            assert (loop.connects, accepted()) == ([PUBLIC], 0)

    in_network(main)


def test_private_addresses_and_http_where_they_are_allowed() -> None:
    async def main(loop: NetworkLoop) -> None:
        async with upstream(RawUpstream()) as sink:
            async with open_egress(allow_private=True, resolver=Names(["127.0.0.1"])) as egress:
                for host in ("127.0.0.1", "hook.internal"):
                    response = await egress.fetch(post(f"http://{host}:{sink.port}/"))
                    assert (response.status, await response.bytes()) == (200, b"ok")
            assert [request.start for request in sink.requests] == [b"POST / HTTP/1.1"] * 2

    in_network(main)


def test_a_kept_connection_leads_to_the_address_that_was_looked_at() -> None:
    async def main(loop: NetworkLoop) -> None:
        async with upstream(TlsUpstream("hook.example")) as sink:
            loop.routes[PUBLIC] = sink.port
            names = Names([PUBLIC], ["127.0.0.1"])
            async with trusting(names) as egress:
                for _ in range(3):
                    assert (await egress.fetch(post("https://hook.example/"))).status == 200
                with pytest.raises(EgressRefused):  # another port is another connection
                    await egress.fetch(post("https://hook.example:8443/"))
            assert (loop.connects, len(names.asked), len(sink.requests)) == ([PUBLIC], 2, 3)

    in_network(main)


@pytest.mark.parametrize("found", [[], ["no address"], ["127.1"], ["2130706433"], ["fe80::1%lo"], [f"{PUBLIC_6}%lo"]])
def test_a_strange_answer_of_the_resolver_is_no_address(found: list[str]) -> None:
    async def main(loop: NetworkLoop) -> None:
        async with open_egress(allow_private=False, resolver=Names(found)) as egress:
            with pytest.raises(ConnectFailed):
                await egress.fetch(post("https://hook.example/"))
        assert loop.connects == []

    in_network(main)


class Slow(Names):
    """A resolver that takes its time."""

    delay_s = 0.8

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
        await asyncio.sleep(self.delay_s)
        return await super().resolve(host, port, family)


async def _silence(message: Message, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def _drip_a_head(message: Message, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X: y\r\n")
        await asyncio.sleep(0.05)


async def _drip_a_body(message: Message, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        writer.write(b"x")
        await asyncio.sleep(0.05)


async def _flood(message: Message, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000000\r\n\r\n")
    while True:
        writer.write(bytes(1 << 16))
        await writer.drain()


async def _break_off(message: Message, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
    await writer.drain()
    writer.close()


@asynccontextmanager
async def local(respond: Respond) -> AsyncIterator[tuple[RawUpstream, EgressFetcher]]:
    async with upstream(RawUpstream()) as sink, open_egress(allow_private=True, timeout_s=0.5) as egress:
        sink.respond = respond
        yield sink, egress


@pytest.mark.parametrize("respond", [_silence, _drip_a_head], ids=["silence", "a head without an end"])
async def test_a_whole_call_has_an_end(respond: Any) -> None:
    async with local(respond) as (sink, egress):
        began = asyncio.get_running_loop().time()
        with pytest.raises(FetchTimeout):
            await egress.fetch(post(sink.url))
        assert 0.4 < asyncio.get_running_loop().time() - began < 2
        await sink.until_closed(3)


async def test_a_look_up_has_an_end() -> None:
    names = Slow(["127.0.0.1"])
    async with open_egress(allow_private=True, resolver=names, timeout_s=0.2) as egress:
        with pytest.raises(FetchTimeout):
            await egress.fetch(post("http://hook.example/"))
    assert names.asked == []


async def test_what_the_look_up_took_is_not_there_for_the_answer() -> None:
    async with (
        upstream(RawUpstream()) as sink,
        open_egress(allow_private=True, resolver=Slow(["127.0.0.1"]), timeout_s=1.0) as egress,
    ):
        sink.respond = _silence
        began = asyncio.get_running_loop().time()
        with pytest.raises(FetchTimeout):
            await egress.fetch(post(f"http://hook.example:{sink.port}/"))
        assert len(sink.requests) == 1
        assert asyncio.get_running_loop().time() - began < 1.5


@pytest.mark.parametrize(
    ("respond", "least", "most"),
    [(_drip_a_body, 1, 1000), (_flood, MAX_ANSWER, MAX_ANSWER), (_break_off, 3, 3)],
    ids=["a body without an end", "a body that is too large", "a body that breaks off"],
)
async def test_the_head_is_the_answer_whatever_follows(respond: Any, least: int, most: int) -> None:
    async with local(respond) as (sink, egress):
        response = await egress.fetch(post(sink.url))
        assert response.status == 200
        assert least <= len(await response.bytes()) <= most
        await sink.until_closed(3)


async def test_a_body_that_is_too_large_is_not_waited_for() -> None:
    async with upstream(RawUpstream()) as sink, open_egress(allow_private=True, timeout_s=60) as egress:
        sink.respond = _flood
        async with asyncio.timeout(5):
            assert len(await (await egress.fetch(post(sink.url))).bytes()) == MAX_ANSWER
            await sink.until_closed(3)


@pytest.mark.parametrize(
    ("lines", "length", "fits"), [(90, 10, True), (101, 10, False), (1, 8000, True), (1, 9000, False)]
)
async def test_a_head_that_is_too_large_is_no_answer(lines: int, length: int, fits: bool) -> None:
    head = b"HTTP/1.1 204 No Content\r\n" + (b"X-Filling: " + b"y" * length + b"\r\n") * lines + b"\r\n"
    async with local(answer(head)) as (sink, egress):
        if fits:
            assert (await egress.fetch(post(sink.url))).status == 204
            return
        with pytest.raises(ProtocolError):
            await egress.fetch(post(sink.url))
        await sink.until_closed(3)


async def test_errors_quote_neither_query_nor_headers() -> None:
    async with open_egress(allow_private=True, timeout_s=0.5, resolver=Names([])) as egress:
        with listening() as (port, _):
            pass
        for url in ("http://hook.example/?key=s3cret", f"http://127.0.0.1:{port}/s3cret?key=s3cret"):
            with pytest.raises(FetchError) as caught:
                await egress.fetch(post(url))
            assert "s3cret" not in repr(caught.value) + str(caught.value)


async def test_a_call_that_is_given_up_closes_its_connection() -> None:
    async with local(_silence) as (sink, egress):
        call = asyncio.create_task(egress.fetch(post(sink.url)))
        await sink.arrived.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await sink.until_closed(3)


def test_every_public_address_is_one_to_python_too() -> None:
    chance = random.Random(64)
    addresses = [chance.getrandbits(32) for _ in range(20_000)]
    addresses += [ip_address("2000::") + chance.getrandbits(125) for _ in range(20_000)]  # type: ignore[misc]
    public = [each for each in map(ip_address, addresses) if is_public(each)]
    assert 30_000 < len(public) < 40_000
    assert [str(each) for each in public if not each.is_global] == []


def test_names_are_no_addresses() -> None:
    assert [parse_address(text) for text in ("localhost", "127.1", "0x7f000001", "", "[::1]", "1.2.3.4 ")] == [None] * 6
