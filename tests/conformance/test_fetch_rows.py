"""Every rule of fetch, Request, Response and Headers: a case, a test, or a line in docs/parity.md.

``fetch_cases.json`` holds programs in small steps with what workerd answered. They are performed here, and again on
the real workerd, where drift fails the run. A case that is decided otherwise here has ``here`` and quotes its row.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.architecture.tree import ROOT
from tests.conformance.fetch_steps import performed
from tests.scale import figure
from tests.services.node import node
from worker_compat.runtime import Runtime
from worker_compat.testing.origin import Peer, open_origin
from worker_compat_aiohttp import AiohttpFetcher, open_fetcher
from worker_compat_brotli import open_decoder

CASES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("fetch_cases.json").read_text(encoding="utf-8"))
WORKERD = ROOT / "tests" / "workerd"
UNIT = "tests/unit/"
HOST = "worker_compat/testing/host.py::HostConformance::test_"
FETCHER = "worker_compat/testing/fetcher.py::FetcherConformance::test_"


@dataclass(frozen=True)
class Parity:
    """A rule that is decided otherwise here: words of its line in docs/parity.md."""

    words: str


Where = str | Parity
CASE = "a case in fetch_cases.json"

ROWS: dict[str, dict[str, tuple[Where, ...]]] = {
    "the SDK's surface": {
        "sdk: exported names": (
            "tests/architecture/test_public_names.py::test_every_name_of_cloudflare_is_here_or_has_a_reason",
        ),
        "sdk: snake case and aliases": (UNIT + "test_formdata.py::TestWire::test_both_spellings_and_used_bodies",),
        "sdk: request constructor": (
            UNIT + "test_request.py::TestMaking::test_everything_given",
            Parity("unknown constructor options (`json=`)"),
            Parity("`headers=None` is a `TypeError`"),
        ),
        "sdk: method is an HTTPMethod": (
            UNIT + "test_request.py::TestMaking::test_a_method_is_an_http_method_where_python_has_one",
            Parity("a method that it does not know is a `KeyError`"),
        ),
        "sdk: request properties": (UNIT + "test_request.py::TestMaking::test_defaults", Parity("`cache`, `fetcher`"),
                                    Parity("requests have no `signal` property")),
        "sdk: request readers": (UNIT + "test_body.py::TestReading::test_each_way_to_read", Parity("reading twice is")),
        "sdk: response constructor": (UNIT + "test_response.py::TestMaking::test_arguments_by_position",
                                      UNIT + "test_body.py::TestMaking::test_other_types_are_refused",
                                      Parity("async generators are a `TypeError`")),
        "sdk: response defaults": (UNIT + "test_response.py::TestMaking::test_defaults",),
        "sdk: headers argument": (UNIT + "test_headers.py::TestMaking::test_from_mapping_pairs_and_headers",
                                  Parity("`headers=` takes a dict")),
        "sdk: headers are read": (UNIT + "test_headers.py::TestReading::test_a_missing_name_reads_as_none",
                                  Parity("`.headers` is an `http.client.HTTPMessage`")),
        "sdk: response properties": (UNIT + "test_response.py::TestMaking::test_defaults",),
        "sdk: response readers": (UNIT + "test_body.py::TestReading::test_each_way_to_read",
                                  Parity("`string()`, `memoryview()`"), Parity("`clone()` a pyodide")),
        "sdk: json and from_json": (UNIT + "test_response.py::TestJson::test_it_is_what_json_dumps_gives",
                                    UNIT + "test_response.py::TestJson::test_on_an_instance_it_reads"),
        "sdk: redirect": (UNIT + "test_response.py::TestRedirect::test_other_statuses",
                          Parity("`Response.redirect` gives a raw")),
        "sdk: replace_body": (UNIT + "test_response.py::TestCopies::test_replace_body",),
        "sdk: fetch": (UNIT + "test_fetch.py::TestFetch::test_options_come_by_keyword",
                       UNIT + "test_fetch.py::TestFetch::test_no_response_is_an_os_error",
                       Parity("a bad URL, too many redirects")),
        "sdk: streaming read": (UNIT + "test_streams.py::TestReading::test_iteration_to_the_end_gives_the_lock_back",
                                Parity("`body` is a JavaScript stream")),
        "sdk: form data": (CASE, UNIT + "test_formdata.py::TestMapping::test_each_way_to_read",
                           Parity("a missing form field")),
        "sdk: form data parsing": (CASE,),
        "sdk: blob": (CASE, UNIT + "test_blob.py::test_files", Parity("`slice()` of a blob")),
        "sdk: rpc conversion": ("tests/unit/test_bindings.py",),
        "sdk: handler": ("tests/unit/test_entrypoint.py",),
        "sdk: bindings": ("tests/unit/test_kv_values.py",),
        "sdk: service bindings": ("tests/unit/test_bindings.py",),
    },
    "errors as Python sees them": {
        "errors: of a binding": (UNIT + "test_kv_values.py", Parity("errors are `pyodide.ffi.JsException`")),
        "errors: range and type": (UNIT + "test_response.py::TestMaking::test_status_out_of_range",
                                   Parity("a `RangeError` of the constructor")),
        "errors: fetch failure": (UNIT + "test_fetch.py::TestFetch::test_no_response_is_an_os_error",),
        "errors: body used": (UNIT + "test_body.py::TestReading::test_a_body_is_read_once", Parity("reading twice is")),
        "errors: missing binding": ("tests/unit/test_entrypoint.py",),
    },
    "headers": {
        "headers: repeats join": (CASE, "tests/wire/test_exact.py::test_every_byte_of_requests_and_answers_passes"),
        "headers: set-cookie apart": (CASE,),
        "headers: a client's two cookies": (
            UNIT + "test_headers.py::TestReading::test_repeats_are_joined_on_read_and_separate_on_the_wire",
        ),
        "headers: iteration": (
            CASE,
            UNIT + "test_headers.py::TestReading::test_iteration_is_sorted_lower_case_and_a_snapshot",
        ),
        "headers: case on the wire": (Parity("known names are normalised on the wire"),),
        "headers: names are tokens": (CASE, Parity("an empty name, and in workerd a non-ASCII one")),
        "headers: values": (CASE, UNIT + "test_headers.py::TestWriting::test_values_are_trimmed_and_sent_as_utf8"),
        "headers: nothing is forbidden": (CASE,),
        "headers: on sending": (CASE, Parity("Proxy-Authorization and headers named in `Connection`")),
        "headers: on receiving": (CASE, "tests/wire/test_framing.py::test_hop_by_hop_lines_of_an_answer_stay_here"),
        "headers: none added": (CASE, UNIT + "test_fetch.py::TestFetch::test_no_header_is_added"),
        "headers: guards": (CASE,),
    },
    "request": {
        "request: url": (CASE, Parity("an incoming `request.url` is normalised")),
        "request: method": (CASE, Parity("an unknown method on the wire is 501")),
        "request: get without body": (
            CASE,
            UNIT + "test_request.py::TestFromRequest::test_an_incoming_get_with_a_body_may_be_copied",
        ),
        "request: redirect": (CASE,),
        "request: cache": (CASE, Parity("`cache`, `fetcher`")),
        "request: ignored options": (CASE, Parity("`cache`, `fetcher`")),
        "request: null body": (CASE, UNIT + "test_body.py::TestReading::test_an_empty_body_is_not_null"),
        "request: content type": (CASE, Parity("`URLSearchParams` as a body")),
        "request: from request": (CASE,),
        "request: never decoded": (CASE,),
        "request: chunks are bytes": (CASE,),
        "request: body used": (CASE, Parity("reading twice is")),
        "request: text decoding": (CASE, UNIT + "test_body.py::TestReading::test_text_is_utf8_without_a_leading_mark"),
    },
    "response": {
        "response: status range": (CASE, Parity("status 101")),
        "response: null body statuses": (CASE,),
        "response: status text": (CASE,),
        "response: json": (CASE,),
        "response: redirect": (CASE,),
        "response: content type": (CASE,),
        "response: error": (Parity("`Response.error()`"),),
        "response: used body": (CASE, UNIT + "test_runtime.py::TestDispatch::test_a_response_cannot_be_returned_twice",
                                Parity("a `Response` object cannot be returned twice")),
        "response: clone": (CASE,),
        "response: wrong return value": (UNIT + "test_runtime.py::TestDispatch::test_a_wrong_return_value_is_a_500",),
        "response: framing": (HOST + "head_and_null_statuses_have_no_body",
                              HOST + "a_response_streams"),
        "response: content encoding by code": (
            CASE, UNIT + "test_decoding.py::TestPassingOn::test_new_text_under_old_headers_is_compressed",
            Parity("`Content-Encoding: br` set by code"),
        ),
    },
    "fetch": {
        "fetch: decompression": (CASE, Parity("brotli bodies are decoded when read")),
        "fetch: pass-through": (
            CASE,
            UNIT + "test_decoding.py::TestPassingOn::test_untouched_bytes_pass",
            UNIT + "test_decoding.py::TestPassingOn::test_without_its_headers_the_body_goes_decoded",
        ),
        "fetch: opting out": (CASE,),
        "fetch: redirects": (CASE,),
        "fetch: authorization stays with its origin": (
            UNIT + "test_fetch.py::TestWhere::test_authorization_stays_with_its_origin",
        ),
        "fetch: manual": (CASE,),
        "fetch: schemes": (CASE, Parity("`data:` URLs")),
        "fetch: failures": (FETCHER + "a_body_that_is_cut",
                            FETCHER + "a_refused_connection",
                            Parity("connect failures and cut connections")),
        "fetch: abort": (CASE, UNIT + "test_abort.py::TestBody::test_aborted_while_a_read_waits",
                         Parity("an abort reason may be any value")),
        "fetch: null body": (CASE,),
        "fetch: both directions": (FETCHER + "a_response_may_come_before_the_request_has_ended",),
        "fetch: url": (CASE,),
        "fetch: subrequest limits": (Parity("50 or 10 000 subrequests"),),
        "fetch: sizes of heads and URLs": (Parity("URL 16 KB, headers 128 KB"),),
    },
    "differences between oracles": {
        "oracles: default status text": (UNIT + "test_response.py::TestMaking::test_defaults",),
        "oracles: a failing stream of KV": (Parity("a put of a stream that is locked or breaks"),),
        "oracles: cancel after a disconnect": (HOST + "a_client_that_leaves_closes_the_body",),
        "oracles: ctx.abort": (Parity("`abort()` outside the handler's own task"),),
        "oracles: error texts": (CASE,),
    },
}  # fmt: skip

# How many rules the contract has in each section; two rows of its table are told apart in ROWS.
COUNTS = {
    "the SDK's surface": 24,
    "errors as Python sees them": 5,
    "headers": 12,
    "request": 13,
    "response": 12,
    "fetch": 14,
    "differences between oracles": 5,
}


def case_id(case: dict[str, Any]) -> str:
    return str(case["id"])


def parity() -> str:
    return (ROOT / "docs" / "parity.md").read_text(encoding="utf-8")


@pytest.fixture
async def fetcher() -> AsyncIterator[AiohttpFetcher]:
    async with open_fetcher() as fetcher:
        yield fetcher


async def _hang(peer: Peer) -> None:
    await peer.closed()


@pytest.mark.parametrize("case", CASES, ids=case_id)
async def test_a_case(fetcher: AiohttpFetcher, case: dict[str, Any]) -> None:
    async with open_origin() as origin:
        for path, answer in case.get("origin", {}).items():
            origin.routes[path] = _hang if answer == "hang" else answer.encode("latin-1")
        with Runtime(fetcher, decoders={"br": open_decoder}).use():
            results = await performed(case["steps"], origin)
    assert json.loads(json.dumps(results)) == case.get("here", case["results"])


def test_workerd_gives_the_same() -> None:
    answers = json.loads(node(WORKERD / "fetch_replay.mjs", given=json.dumps(CASES)))
    drifted = {case["id"]: answers[case["id"]] for case in CASES if answers[case["id"]] != case["results"]}
    assert drifted == {}
    alike = sum(1 for case in CASES if "here" not in case)
    figure("fetch cases with the same results as workerd", f"{alike} of {len(CASES)}, {len(CASES) - alike} by decision")


def test_every_other_decision_is_needed_and_told() -> None:
    others = [case for case in CASES if "here" in case]
    assert [case["id"] for case in others if case["here"] == case["results"]] == []
    text = parity()
    assert [case["id"] for case in others if case["parity"] not in text] == []


def test_every_rule_is_counted_and_every_case_belongs_to_one() -> None:
    assert {section: len(rows) for section, rows in ROWS.items()} == COUNTS
    rules = {rule for rows in ROWS.values() for rule in rows}
    assert {case["row"] for case in CASES} <= rules
    assert len({case["id"] for case in CASES}) == len(CASES)


@pytest.mark.parametrize("rule", [rule for rows in ROWS.values() for rule in rows])
def test_where_a_rule_is_kept_exists(rule: str) -> None:
    with_cases = {case["row"] for case in CASES} | {"oracles: error texts"}
    where = next(rows[rule] for rows in ROWS.values() if rule in rows)
    assert where
    for place in where:
        if isinstance(place, Parity):
            assert place.words in parity(), f"docs/parity.md has no line with {place.words!r}"
        elif place == CASE:
            assert rule in with_cases
        else:
            file, _, node = place.partition("::")
            source = (ROOT / file).read_text(encoding="utf-8")
            kind, _, name = node.rpartition("::")
            assert not kind or f"class {kind}" in source, place
            assert not name or f"def {name}(" in source, place
