"""URLs of Redis: every form, every option, and what is wrong said without a password."""

from __future__ import annotations

import pytest

from worker_compat.errors import ConfigError
from worker_compat_redis.settings import Settings, settings_of

KV = "namespace"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", Settings("", [("h", 6379)], "default")),
        ("REDIS://h:1/", Settings("", [("h", 1)], "default")),
        ("redis://[::1]:7/3?namespace=a%20b", Settings("", [("::1", 7)], "a b", db=3)),
        ("redis://[::1]", Settings("", [("::1", 6379)], "default")),
        ("redis://u:p%40%2F%23@h/0", Settings("", [("h", 6379)], "default", user="u", password="p@/#")),
        ("redis://:p:q@h", Settings("", [("h", 6379)], "default", password="p:q")),
        ("redis://u@h", Settings("", [("h", 6379)], "default", user="u")),
        (
            "rediss://h?ca=/a&cert=/b&key=/c",
            Settings("", [("h", 6379)], "default", tls=True, ca="/a", cert="/b", key="/c"),
        ),
        (
            "redis://h?timeout_ms=1000&connect_timeout_ms=50&max_connections=3",
            Settings("", [("h", 6379)], "default", connect_timeout_s=0.05, timeout_s=1.0, max_connections=3),
        ),
        (
            "redis+sentinel://u:p@a,b:2/main?sentinel_password=s",
            Settings(
                "sentinel",
                [("a", 26379), ("b", 2)],
                "default",
                service="main",
                user="u",
                password="p",
                sentinel_password="s",
            ),
        ),
        ("rediss+sentinel://a/main/4", Settings("sentinel", [("a", 26379)], "default", service="main", db=4, tls=True)),
        ("redis://h?namespace=a@b", Settings("", [("h", 6379)], "a@b")),
        ("redis+cluster://a:1,b", Settings("cluster", [("a", 1), ("b", 6379)], "default")),
        ("rediss+cluster://a/0", Settings("cluster", [("a", 6379)], "default", tls=True)),
    ],
)
def test_a_url_is_read(url: str, expected: Settings) -> None:
    assert settings_of(url, KV) == expected


def test_a_queue_has_its_own_option() -> None:
    assert settings_of("redis://h?queue=q", "queue").name == "q"
    with pytest.raises(ConfigError, match=r"no such option 'namespace'; it has .*queue"):
        settings_of("redis://h?namespace=n", "queue")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("h:6379", "not the URL of a Redis: write redis://"),
        ("http://h", "not the URL of a Redis"),
        ("redis+ring://h", "not the URL of a Redis"),
        ("redis://", "no valid host and port: write redis://"),
        ("redis://h:0", "no valid host"),
        ("redis://h:99999", "no valid host"),
        ("redis://h:x", "no valid host"),
        ("redis://::1", "no valid host"),
        ("redis://a,b", r"a single Redis has one host; for several write redis\+sentinel"),
        ("redis://h/x", "the number of a database"),
        ("redis://h/0/1", "the number of a database"),
        ("redis+sentinel://a", "does not name the service"),
        ("redis+sentinel://a/", "does not name the service"),
        ("redis+sentinel://a,/main", r"no valid host and port: write redis\+sentinel"),
        ("redis+cluster://a/1", "database 0 only"),
        ("redis://:SECRET#x@h", "password of a Redis URL as %2F %23 %3F"),
        ("redis://:SECRET?SECRET@h:1", "password of a Redis URL as %2F %23 %3F"),
        ("redis://:a?SECRET=x@h:1", "password of a Redis URL as %2F %23 %3F"),
        ("redis://h?namespace=", "namespace of the Redis URL is empty"),
        ("redis://h?namespace=a&namespace=b", "given twice"),
        (
            "redis://h?timeout=1",
            "no such option 'timeout'; it has connect_timeout_ms, max_connections, namespace, timeout_ms",
        ),
        ("redis://h?ca=/a", "no such option 'ca'"),
        ("rediss://h?key=/c", "needs the option cert"),
        ("redis://h?sentinel_password=SECRET", "no such option 'sentinel_password'"),
        ("redis://h?timeout_ms=0", "timeout_ms of the Redis URL must be a whole number from 1"),
        ("redis://h?timeout_ms=SECRET", "timeout_ms of the Redis URL must be a whole number"),
        ("redis://h?max_connections=-1", "max_connections of the Redis URL must be a whole number"),
        ("redis://:SECRET@:6379", "no valid host"),
        ("redis://:SECRET/x@h", "password of a Redis URL as %2F"),
    ],
)
def test_a_wrong_url_says_what_to_write(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        settings_of(url, KV)
    assert "SECRET" not in str(raised.value)


def test_no_secret_is_shown() -> None:
    shown = repr(settings_of("redis+sentinel://u:SECRET@h/main?sentinel_password=SECRET", KV))
    assert "SECRET" not in shown
    assert "'u'" in shown
