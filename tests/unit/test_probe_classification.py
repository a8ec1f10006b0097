"""What an answer to a probe proves, for every shape of 401 and every other answer."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvault.crypto.secret import Secret
from keyvault.presets import PROVIDER_PRESETS
from rotation.drivers.base import ProbeOutcome, ProbeSpec, ProbeSpecError, ProviderSpec, garble
from rotation.drivers.probe import classify, classify_failure, probe, retry_after
from rotation.egress import (
    EgressConnectError,
    EgressError,
    EgressInterrupted,
    EgressRefused,
    EgressResponse,
    EgressTimeout,
)

pytestmark = pytest.mark.once

PROBE = ProbeSpec("GET", "/v1/jobs/none", accepted=(200, 404))
NESTED = ProviderSpec("nested", "https://api.example.com", "X-API-Key", probe=PROBE, errors="nested")
FLAT = ProviderSpec("flat", "https://api.example.com", "X-API-Key", probe=PROBE, errors="flat")


def answer(status: int, body: Any = b"", **headers: str) -> EgressResponse:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return EgressResponse(status, {name.replace("_", "-"): value for name, value in headers.items()}, content)


def nested(code: object, **more: object) -> dict[str, object]:
    return {"error": {"code": code, "message": "No.", "status": 401, **more}}


BODIES = [
    # body, outcome where errors are nested, outcome where they are flat
    (nested("missing_api_key"), "missing", "missing"),
    (nested("invalid_api_key"), "rejected", "rejected"),
    (nested("INVALID_API_KEY"), "rejected", "rejected"),
    (nested("revoked_key"), "rejected", "rejected"),
    ({"error": "missing_api_key"}, "missing", "missing"),
    ({"error": "invalid_api_key", "message": "Key not recognized"}, "rejected", "rejected"),
    ({"code": "invalid_api_key"}, "rejected", "rejected"),
    ({"error": {"type": "missing_api_key"}}, "missing", "missing"),
    ({"error": "unauthorized", "message": "API key missing"}, "inconclusive", "rejected"),
    ({"error": "unauthorized", "message": "API key invalid"}, "inconclusive", "rejected"),
    ({"detail": "Invalid API key."}, "inconclusive", "rejected"),
    (nested("unauthorized"), "inconclusive", "rejected"),
    (nested("account_locked"), "inconclusive", "rejected"),
    (nested(None), "inconclusive", "rejected"),
    (nested(401), "inconclusive", "rejected"),
    (nested(["missing_api_key"]), "inconclusive", "rejected"),
    ({"error": None}, "inconclusive", "rejected"),
    ({"error": ["missing_api_key"]}, "inconclusive", "rejected"),
    ({}, "inconclusive", "rejected"),
    ([], "inconclusive", "rejected"),
    ("missing_api_key", "inconclusive", "rejected"),
    (None, "inconclusive", "rejected"),
    (b"", "inconclusive", "rejected"),
    (b"Unauthorized", "inconclusive", "rejected"),
    (b"\xff\xfe\x00", "inconclusive", "rejected"),
    (b'{"error": {"code": "missing_api_key"', "inconclusive", "rejected"),
    (b"[" * 50_000, "inconclusive", "rejected"),
    (b"<html><body>401</body></html>", "inconclusive", "inconclusive"),
    (b"\n  <!DOCTYPE html>", "inconclusive", "inconclusive"),
]


@pytest.mark.parametrize(("body", "in_nested", "in_flat"), BODIES)
def test_a_401_is_judged_by_its_code_and_then_by_the_providers_shape(
    body: Any, in_nested: str, in_flat: str
) -> None:
    assert classify(NESTED, answer(401, body)).outcome == in_nested
    assert classify(FLAT, answer(401, body)).outcome == in_flat


def test_a_page_of_a_proxy_never_rejects_a_key() -> None:
    response = answer(401, b"Please sign in", content_type="text/html; charset=utf-8")
    assert classify(FLAT, response).outcome is ProbeOutcome.INCONCLUSIVE


def test_a_status_in_the_body_does_not_outweigh_the_real_one() -> None:
    body = {"error": {"code": "invalid_api_key", "status": 401}}
    assert classify(NESTED, answer(200, body)).outcome is ProbeOutcome.ACCEPTED
    assert classify(NESTED, answer(500, body)).outcome is ProbeOutcome.UNREACHABLE


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, "accepted"),
        (404, "accepted"),
        (204, "inconclusive"),
        (301, "inconclusive"),
        (308, "inconclusive"),
        (400, "inconclusive"),
        (402, "forbidden"),
        (403, "forbidden"),
        (405, "inconclusive"),
        (418, "inconclusive"),
        (429, "rate_limited"),
        (500, "unreachable"),
        (502, "unreachable"),
        (503, "unreachable"),
        (599, "unreachable"),
    ],
)
def test_every_other_status_has_one_meaning(status: int, outcome: str) -> None:
    for spec in (NESTED, FLAT):
        result = classify(spec, answer(status))
        assert (result.outcome, result.status) == (outcome, status)


def test_a_provider_may_reject_keys_with_another_status() -> None:
    spec = ProviderSpec(
        "other",
        "https://api.example.com",
        "X-API-Key",
        probe=ProbeSpec("GET", "/", accepted=(200,), rejected=(400, 403)),
        errors="flat",
    )
    assert classify(spec, answer(400, {"error": "bad key"})).outcome is ProbeOutcome.REJECTED
    assert classify(spec, answer(403, {"error": "bad key"})).outcome is ProbeOutcome.REJECTED
    assert classify(spec, answer(401, {"error": "bad key"})).outcome is ProbeOutcome.INCONCLUSIVE
    assert classify(spec, answer(401, nested("invalid_api_key"))).outcome is ProbeOutcome.REJECTED


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (EgressConnectError("connect", "x"), "unreachable"),
        (EgressConnectError("dns", "x"), "unreachable"),
        (EgressConnectError("tls", "x"), "unreachable"),
        (EgressTimeout("timeout", "x"), "unreachable"),
        (EgressInterrupted("cut", "x"), "unreachable"),
        (EgressInterrupted("answer_too_large", "x"), "inconclusive"),
        (EgressRefused("url_forbidden_host", "x"), "inconclusive"),
        (EgressRefused("header_invalid", "x"), "inconclusive"),
    ],
)
def test_no_answer_is_never_a_verdict_on_the_key(error: EgressError, outcome: str) -> None:
    assert classify_failure(error).outcome == outcome


@given(st.integers(200, 599), st.binary(max_size=400), st.sampled_from([NESTED, FLAT]))
def test_no_answer_crashes_the_classifier(status: int, body: bytes, spec: ProviderSpec) -> None:
    assert classify(spec, answer(status, body)).outcome in ProbeOutcome


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["error", "code", "x"]), inner)
    ),
    max_leaves=8,
)


@given(JSON)
def test_only_a_known_code_turns_a_nested_401_into_a_verdict(body: Any) -> None:
    outcome = classify(NESTED, answer(401, body)).outcome
    if outcome is not ProbeOutcome.INCONCLUSIVE:
        assert "api_key" in json.dumps(body).lower() or "_key" in json.dumps(body).lower()


# -- evidence ---------------------------------------------------------------------------------------------


def test_the_request_id_comes_from_the_header_or_else_from_the_body() -> None:
    assert classify(NESTED, answer(401, nested("x"), x_request_id="head-1")).request_id == "head-1"
    assert classify(NESTED, answer(401, nested("x", request_id="body-1"))).request_id == "body-1"
    assert classify(NESTED, answer(401, {"error": "x", "request_id": "body-2"})).request_id == "body-2"
    assert classify(NESTED, answer(401)).request_id is None
    for odd in ("", "a b", "x" * 129, "a\nb"):
        assert classify(NESTED, answer(401, nested("x", request_id=odd))).request_id is None
    assert classify(NESTED, answer(401, nested("x", request_id=7))).request_id is None


def test_two_different_request_ids_are_mentioned() -> None:
    result = classify(NESTED, answer(401, nested("x", request_id="body-1"), x_request_id="head-1"))
    assert result.request_id == "head-1"
    assert "another request id" in result.detail


DATE = "Tue, 03 Mar 2026 10:00:00 GMT"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("17", 17.0),
        (" 17 ", 17.0),
        ("900", 900.0),
        ("901", 900.0),
        ("99999999", 900.0),
        ("Tue, 03 Mar 2026 10:00:30 GMT", 30.0),
        ("Tue, 03 Mar 2026 11:00:30 +0100", 30.0),
        ("Tue, 03 Mar 2026 09:00:00 GMT", 0.0),
        ("Wed, 04 Mar 2026 10:00:00 GMT", 900.0),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("1e3", None),
        ("٣", None),
        ("9" * 400, None),
        ("soon", None),
        ("Tue, 99 Mar 2026 10:00:00 GMT", None),
        ("Tue, 03 Mar 99999 10:00:00 GMT", None),
        ("Tue, 03 Mar 2026 10:00:30", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_capped(value: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": value, "date": DATE}) == seconds


def test_a_retry_date_without_a_date_to_measure_from_says_nothing() -> None:
    assert retry_after({"retry-after": "Tue, 03 Mar 2026 10:00:30 GMT"}) is None
    assert retry_after({}) is None


@given(st.text(max_size=60))
def test_no_retry_after_crashes_or_exceeds_the_cap(value: str) -> None:
    wait = retry_after({"retry-after": value, "date": DATE})
    assert wait is None or 0.0 <= wait <= 900.0


# -- what is asked ----------------------------------------------------------------------------------------


def test_without_a_probe_nothing_is_proved() -> None:
    spec = ProviderSpec("none", "https://api.example.com", "X-API-Key")
    assert probe(spec, Secret("be_4f1d")).outcome is ProbeOutcome.INCONCLUSIVE


def test_a_key_that_cannot_stand_in_a_header_is_not_sent() -> None:
    result = probe(NESTED, Secret("be_4f1d\r\nX-Evil: 1"))
    assert result.outcome is ProbeOutcome.INCONCLUSIVE
    assert "not sent" in result.detail
    assert "be_4f1d" not in result.detail


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"method": "get"}, "probe.method"),
        ({"method": None}, "probe.method"),
        ({"path": "v2"}, "probe.path"),
        ({"path": "//evil.example/"}, "probe.path"),
        ({"path": "/a b"}, "probe.path"),
        ({"path": "/a\\b"}, "probe.path"),
        ({"path": "/a#b"}, "probe.path"),
        ({"path": "/ä"}, "probe.path"),
        ({"headers": {"X": "a\nb"}}, "probe.headers"),
        ({"headers": ["X"]}, "probe.headers"),
        ({"body": {"a": 1}}, "probe.body"),
        ({"accepted": []}, "at least one"),
        ({"accepted": [True]}, "probe.accepted"),
        ({"accepted": ["200"]}, "probe.accepted"),
        ({"accepted": [302]}, "probe.accepted"),
        ({"accepted": [500]}, "probe.accepted"),
        ({"accepted": [401], "rejected": [403]}, "must not hold 401"),
        ({"accepted": [200, 429]}, "must not hold 401"),
        ({"accepted": [400], "rejected": [400]}, "must not share"),
        ({"verb": "GET"}, "unknown field 'verb'"),
    ],
)
def test_a_bad_probe_is_named(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ProbeSpecError, match=problem):
        ProbeSpec.from_json({**PROBE.to_json(), **change})


def test_a_probe_survives_its_own_json() -> None:
    assert ProbeSpec.from_json(json.loads(json.dumps(PROBE.to_json()))) == PROBE
    with pytest.raises(ProbeSpecError):
        ProbeSpec.from_json("GET /")


@pytest.mark.parametrize(
    "preset", [preset for preset in PROVIDER_PRESETS if preset.probe], ids=lambda p: p.slug
)
def test_every_preset_has_a_probe_that_can_be_used(preset: Any) -> None:
    spec = ProbeSpec.from_json(preset.probe)
    assert 401 in spec.rejected
    assert ProbeSpec.from_json(spec.to_json()) == spec


def test_the_preset_of_removebgvideo_never_asks_an_open_route() -> None:
    (preset,) = [preset for preset in PROVIDER_PRESETS if preset.slug == "removebgvideo"]
    assert preset.probe is not None
    assert str(preset.probe["path"]).startswith("/v1/")


# -- the negative control -----------------------------------------------------------------------------------


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=80))
def test_a_garbled_key_differs_and_looks_the_same(text: str) -> None:
    wrong = garble(Secret(text)).expose()
    assert wrong != text
    assert len(wrong) == len(text)
    assert wrong[: len(text) // 2] == text[: len(text) // 2]
    if any(char.isalnum() for char in text[len(text) // 2 :]):
        for old, new in zip(text, wrong, strict=True):
            same = (str.isdigit, str.islower, str.isupper)
            assert [kind(old) for kind in same] == [kind(new) for kind in same]


@given(st.text("0123456789abcdef", min_size=8, max_size=64))
def test_a_garbled_hexadecimal_key_stays_hexadecimal(text: str) -> None:
    assert set(garble(Secret(text)).expose()) <= set("0123456789abcdef")


def test_nothing_cannot_be_garbled() -> None:
    with pytest.raises(ValueError, match="empty"):
        garble(Secret(""))
