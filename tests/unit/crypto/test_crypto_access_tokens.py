from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest

from keyvault.crypto.access_tokens import (
    MAX_TOKEN_BYTES,
    AccessTokenExpired,
    InvalidAccessToken,
    _decoded,
    mint_access_token,
    verify_access_token,
)
from keyvault.crypto.globs import GlobError
from keyvault.crypto.keyring_document import ServiceKeys, new_document
from tests.forging import Forge

KEYS = new_document(["prod"]).service
NOW = datetime(2026, 3, 1, 12, 0, 0, 900_000, tzinfo=UTC)
ISSUED = int(NOW.timestamp())
ISSUER, AUDIENCE = "https://keys.example", "keyturn:3fa85f64"
PARENT = "3fa85f64-5717-4562-b3fc-2c963f66afa6"


def mint(**changes: Any) -> str:
    arguments: dict[str, Any] = {
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "parent": PARENT,
        "environment": "prod",
        "paths": ["/v1/keys/a/prod/", "/v1/keys/b/*"],
        "now": NOW,
        "expires_in": 60,
    }
    return mint_access_token(KEYS, **(arguments | changes)).expose()


def verify(text: str, *, now: datetime = NOW, keys: ServiceKeys = KEYS) -> object:
    return verify_access_token(keys, text, issuer=ISSUER, audience=AUDIENCE, now=now)


FORGE = Forge(KEYS, ISSUER, AUDIENCE, PARENT, ISSUED)


def test_a_minted_token_says_what_it_was_minted_for() -> None:
    read = verify_access_token(KEYS, mint(), issuer=ISSUER, audience=AUDIENCE, now=NOW)
    assert (read.token_id, read.environment) == (PARENT, "prod")
    assert read.paths == ("/v1/keys/a/prod/", "/v1/keys/b/*")
    assert read.issued_at == NOW.replace(microsecond=0)
    assert read.expires_at == read.issued_at + timedelta(seconds=60)
    assert str(uuid.UUID(read.jti)) == read.jti
    other = verify_access_token(KEYS, mint(), issuer=ISSUER, audience=AUDIENCE, now=NOW)
    assert other.jti != read.jti


def test_the_token_is_a_standard_jwt_of_the_closed_profile() -> None:
    text = mint()
    public = KEYS.signing.public_key()
    body = jwt.decode(
        text,
        public,
        algorithms=["EdDSA"],
        audience=AUDIENCE,
        issuer=ISSUER,
        options={"verify_exp": False, "verify_nbf": False, "verify_iat": False},
    )
    assert jwt.get_unverified_header(text) == FORGE.header()
    assert body.keys() == FORGE.claims().keys()
    assert (body["iat"], body["nbf"], body["exp"]) == (ISSUED, ISSUED, ISSUED + 60)


def test_the_same_contents_by_hand_are_accepted() -> None:
    """Shows that the refusals below come from what is changed there."""
    assert verify(FORGE.sound())


@pytest.mark.parametrize("seconds", [1, 60, 600])
def test_a_token_works_until_the_second_it_expires(seconds: int) -> None:
    text = mint(expires_in=seconds)
    end = datetime.fromtimestamp(ISSUED + seconds, UTC)
    assert verify(text, now=end - timedelta(microseconds=1))
    for late in (end, end + timedelta(seconds=1), end + timedelta(days=900)):
        with pytest.raises(AccessTokenExpired):
            verify(text, now=late)


def test_a_token_from_a_host_a_little_ahead_works_and_one_far_ahead_does_not() -> None:
    text = mint()
    assert verify(text, now=datetime.fromtimestamp(ISSUED - 5, UTC))
    with pytest.raises(InvalidAccessToken):
        verify(text, now=datetime.fromtimestamp(ISSUED - 6, UTC))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        *[({"expires_in": value}, ValueError) for value in (0, 601, -1, True, 60.0, "60", None)],
        ({"paths": []}, GlobError),
        ({"paths": ["/admin/*"]}, GlobError),
        ({"paths": ["*"] * 21}, GlobError),
        ({"parent": "not-a-uuid"}, ValueError),
        ({"parent": ""}, ValueError),
        ({"environment": "Prod"}, ValueError),
        ({"environment": ""}, ValueError),
        ({"issuer": ""}, ValueError),
        ({"audience": ""}, ValueError),
        ({"issuer": "https://" + "a" * 3000}, ValueError),
        ({"now": datetime(2026, 3, 1)}, ValueError),  # noqa: DTZ001 - the point of the case
    ],
)
def test_what_must_not_be_signed_is_not_signed(changes: Mapping[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        mint(**changes)


def test_the_largest_allowed_scope_fits() -> None:
    paths = ["/v1/" + "a" * 196] * 10 + ["/v1/" + "b" * 44]
    text = mint(paths=paths)
    assert sum(map(len, paths)) == 2048
    assert len(text) <= MAX_TOKEN_BYTES
    assert verify(text)


FORGED = FORGE.all()


@pytest.mark.parametrize("name", FORGED)
def test_what_is_not_ours_is_refused_although_much_of_it_is_right(name: str) -> None:
    """Headers and claims are changed under a right signature; then keys and spellings are."""
    with pytest.raises(InvalidAccessToken) as caught:
        verify(FORGED[name])
    assert type(caught.value) is InvalidAccessToken


def test_true_is_not_the_second_one_in_any_clock() -> None:
    """At the start of the epoch true would pass for 1; nothing but the type tells them apart."""
    early = datetime.fromtimestamp(10, UTC)
    whole = FORGE.claims() | {"iat": 1, "nbf": 1, "exp": 60}
    assert verify(FORGE.signed(FORGE.header(), whole), now=early)
    with pytest.raises(InvalidAccessToken):
        verify(FORGE.signed(FORGE.header(), whole | {"iat": True, "nbf": True}), now=early)


def test_a_key_of_another_installation_does_not_sign_for_us() -> None:
    with pytest.raises(InvalidAccessToken):
        verify(mint(), keys=new_document(["prod"]).service)


def test_an_expired_token_of_somebody_else_is_invalid_and_not_expired() -> None:
    late = NOW + timedelta(days=1)
    text = mint()
    with pytest.raises(InvalidAccessToken) as caught:
        verify(text[:-4] + ("AAAA" if text[-4:] != "AAAA" else "BBBB"), now=late)
    assert type(caught.value) is InvalidAccessToken
    with pytest.raises(InvalidAccessToken) as other:
        verify_access_token(KEYS, text, issuer=ISSUER, audience="keyturn:other", now=late)
    assert type(other.value) is InvalidAccessToken


TEXT = mint()


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "..", "...", "a.b.c", "é", "\ud800", "\x00", TEXT + "=", TEXT + "==", TEXT + "\n",
        " " + TEXT, TEXT + " ", TEXT + ".", TEXT + ".x", "." + TEXT, TEXT[:-1], TEXT + "A",
        TEXT.replace(".", "..", 1),
        TEXT.rsplit(".", 1)[0], TEXT.rsplit(".", 1)[0] + ".", TEXT.replace(".", "=.", 1), TEXT.upper(),
        TEXT.replace(".", "\n.", 1), TEXT + "A" * 4000, "A" * 100_000, f"AccessToken {TEXT}",
    ],
    ids=lambda text: f"{len(text)}-{ascii(text)[:12]}",
)  # fmt: skip
def test_another_spelling_is_no_token_and_no_other_error(text: str) -> None:
    assert verify(TEXT)
    with pytest.raises(InvalidAccessToken):
        verify(text)


def test_loose_bits_at_the_end_of_a_segment_are_seen() -> None:
    """86 characters carry 516 bits for a signature of 512: four of them must be zero."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    value = alphabet.index(TEXT[-1])
    assert value % 16 == 0
    for loose in range(1, 16):
        with pytest.raises(InvalidAccessToken):
            verify(TEXT[:-1] + alphabet[value + loose])
        # The library sees it today; it must not be the only one.
        with pytest.raises(InvalidAccessToken):
            _decoded(TEXT.split(".")[2][:-1] + alphabet[value + loose])


def test_an_expired_token_is_also_an_invalid_one_for_whoever_does_not_care() -> None:
    assert issubclass(AccessTokenExpired, InvalidAccessToken)
    assert str(AccessTokenExpired()) != str(InvalidAccessToken())
