from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum

import pytest

from keyvault.crypto.mac import (
    Field,
    fingerprint,
    fingerprint_digest,
    keyed_digest,
    lp,
    row_mac,
    row_mac_matches,
    short_fingerprint,
)
from keyvault.crypto.secret import Secret

KEY = bytes(range(32))
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class State(StrEnum):
    ACTIVE = "active"


def test_every_field_stands_behind_its_length() -> None:
    assert lp() == b""
    assert lp("", b"ab", "é") == b"\0\0\0\0" + b"\0\0\0\2ab" + b"\0\0\0\2\xc3\xa9"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", "c"), ("a", "bc")),
        (("a",), ("a", "")),
        (("a", None), ("a", "")),
        (("1",), (1,)),
        (("1",), (b"1",)),
        ((None,), ("n",)),
        ((None,), (0,)),
        ((1,), (11,)),
        ((-1,), (1,)),
        ((NOON,), (NOON + timedelta(microseconds=1),)),
        ((NOON,), (NOON.isoformat(),)),
        ((datetime(1969, 12, 31, tzinfo=UTC),), (datetime(1970, 1, 2, tzinfo=UTC),)),
    ],
)
def test_different_rows_have_different_macs(one: tuple[Field, ...], other: tuple[Field, ...]) -> None:
    assert row_mac(KEY, "token", *one) != row_mac(KEY, "token", *other)
    assert row_mac_matches(row_mac(KEY, "token", *one), KEY, "token", *one)
    assert not row_mac_matches(row_mac(KEY, "token", *one), KEY, "token", *other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((True, False), (1, 0)),
        ((State.ACTIVE,), ("active",)),
        ((NOON,), (NOON.astimezone(timezone(timedelta(hours=5, minutes=30))),)),
    ],
)
def test_what_a_database_may_return_differently_has_one_mac(
    one: tuple[Field, ...], other: tuple[Field, ...]
) -> None:
    assert row_mac(KEY, "token", *one) == row_mac(KEY, "token", *other)


def test_table_and_key_are_part_of_the_mac() -> None:
    macs = {row_mac(KEY, "token", "a"), row_mac(KEY, "grant", "a"), row_mac(bytes(32), "token", "a")}
    assert {len(mac) for mac in macs} == {32}
    assert len(macs) == 3


def test_a_time_without_a_zone_has_no_mac() -> None:
    with pytest.raises(ValueError, match="zone"):
        row_mac(KEY, "token", datetime(2026, 3, 1))  # noqa: DTZ001 - the point of the test


def test_a_mac_of_another_length_does_not_match() -> None:
    assert not row_mac_matches(b"", KEY, "token", "a")
    assert not row_mac_matches(row_mac(KEY, "token", "a")[:16], KEY, "token", "a")


def test_a_keyed_digest_is_hmac_sha256_over_purpose_and_data() -> None:
    expected = hmac.new(KEY, lp("kv1/digest", "audit", b"data"), hashlib.sha256).hexdigest()
    assert keyed_digest(KEY, "audit", b"data") == expected
    assert keyed_digest(KEY, "other", b"data") != expected
    assert keyed_digest(KEY, "auditd", b"ata") != expected


def test_a_fingerprint_is_the_start_of_its_digest_in_groups() -> None:
    secret = Secret("sk-1")
    digest = fingerprint_digest(KEY, secret)
    shown = fingerprint(KEY, secret)
    assert [len(group) for group in shown.split("-")] == [4, 4, 4, 4]
    assert digest.startswith(shown.replace("-", ""))
    assert shown == short_fingerprint(digest)
    assert len(digest) == 64
    assert fingerprint_digest(KEY, Secret("sk-1")) == digest
    assert fingerprint_digest(KEY, Secret("sk-2")) != digest
    assert fingerprint_digest(bytes(32), secret) != digest
