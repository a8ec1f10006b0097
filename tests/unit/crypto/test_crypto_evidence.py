"""Evidence files: what is signed, in which form, and what is not taken for it."""

from __future__ import annotations

import base64
import json
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keyvault.crypto import signed as signing
from keyvault.crypto.access_tokens import InvalidAccessToken, mint_access_token, verify_access_token
from keyvault.crypto.evidence import sign_evidence, verify_evidence
from keyvault.crypto.keyring_document import ServiceKeys, new_document
from keyvault.crypto.signed import NotADocument, NotGenuine, UnknownSigner, canonical, read_document

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
CONTENT: dict[str, Any] = {
    "format": "keyturn-evidence",
    "version": 1,
    "plan": {"outgoing": 1, "steps": [{"weight": 5}]},
    "share": 33.3,
    "whole": 100.0,
    "text": "Größe \u2028 \x1f €",
    "nothing": None,
    "yes": True,
}


@pytest.fixture(scope="module")
def service() -> ServiceKeys:
    return new_document(["dev"]).service


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def key_set(service: ServiceKeys) -> dict[str, Any]:
    x = encoded(service.signing.public_key().public_bytes_raw())
    return {"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": service.signing_kid, "x": x}]}


def test_what_was_signed_verifies_after_any_way_of_writing_it_down(service: ServiceKeys) -> None:
    signed = sign_evidence(service, CONTENT)
    for text in (
        json.dumps(signed),
        json.dumps(signed, indent=2, sort_keys=True, ensure_ascii=False),
        json.dumps(dict(reversed(signed.items()))),
    ):
        assert verify_evidence(read_document(text.encode()), key_set(service)) == service.signing_kid


def test_the_same_content_gives_the_same_signature(service: ServiceKeys) -> None:
    assert sign_evidence(service, CONTENT) == sign_evidence(service, dict(reversed(CONTENT.items())))


def test_the_form_is_the_one_of_the_standard() -> None:
    assert canonical({"b": [1.0, 0.5, None], "a": {"z": "é\n\x1f\u2028", "y": True}}) == (
        '{"a":{"y":true,"z":"é\\n\\u001f\u2028"},"b":[1,0.5,null]}'.encode()
    )


@pytest.mark.parametrize("value", [1e-9, 1e300, float("nan"), float("inf"), {"é": 1}, {"a": "\ud800"}])
def test_what_has_no_one_form_is_not_signed(service: ServiceKeys, value: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (a UnicodeEncodeError is one)
        sign_evidence(service, {**CONTENT, "odd": value})
    with pytest.raises(ValueError, match="signed already"):
        sign_evidence(service, sign_evidence(service, CONTENT))


@pytest.mark.parametrize("part", [name for name in CONTENT if name not in ("format", "version")])
def test_no_part_can_be_changed_taken_out_or_added(service: ServiceKeys, part: str) -> None:
    signed = sign_evidence(service, CONTENT)
    rest = {name: value for name, value in signed.items() if name != part}
    for changed in ({**signed, part: "another"}, rest, {**signed, f"{part}2": 1}):
        with pytest.raises(NotGenuine):
            verify_evidence(changed, key_set(service))


@pytest.mark.parametrize("change", [{"format": "x"}, {"version": 2}, {"version": True}, {"version": "1"}])
def test_another_format_or_version_is_no_evidence(service: ServiceKeys, change: dict[str, Any]) -> None:
    with pytest.raises(NotADocument):
        verify_evidence({**sign_evidence(service, CONTENT), **change}, key_set(service))


@pytest.mark.parametrize(
    "signature", [None, 7, "", "a.b", "a.b.c", "..", "e30..AA", "é..é", "W10..AA", "bnVsbA..AA"]
)
def test_what_is_no_signature_is_refused(service: ServiceKeys, signature: object) -> None:
    with pytest.raises(NotGenuine):
        verify_evidence({**CONTENT, "signature": signature}, key_set(service))


def test_another_key_of_the_same_name_does_not_verify(service: ServiceKeys) -> None:
    stranger = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    other = {"keys": [{**key_set(service)["keys"][0], "x": encoded(stranger)}]}
    with pytest.raises(NotGenuine):
        verify_evidence(sign_evidence(service, CONTENT), other)


@pytest.mark.parametrize("keys", [{}, {"keys": None}, {"keys": []}, {"keys": [7]}])
def test_a_key_set_without_the_signer_is_told_apart(service: ServiceKeys, keys: dict[str, Any]) -> None:
    with pytest.raises(UnknownSigner):
        verify_evidence(sign_evidence(service, CONTENT), keys)


def test_a_key_that_is_none_is_no_signer(service: ServiceKeys) -> None:
    broken = {"keys": [{**key_set(service)["keys"][0], "x": "AA"}]}
    with pytest.raises(UnknownSigner):
        verify_evidence(sign_evidence(service, CONTENT), broken)


@pytest.mark.parametrize("text", [b"", b"[]", b"7", b"{", b'{"a": 1, "a": 2}', b'{"a": NaN}', b"\xff"])
def test_what_is_no_object_is_no_evidence(text: bytes) -> None:
    with pytest.raises(NotADocument):
        read_document(text)


def test_an_access_token_is_no_signature_of_evidence_and_the_other_way_round(service: ServiceKeys) -> None:
    token = mint_access_token(
        service, issuer="i", audience="a", parent=str(uuid.uuid4()), environment="dev", paths=["*"],
        now=NOW, expires_in=60,
    ).expose()  # fmt: skip
    header, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    with pytest.raises(NotGenuine, match="another kind"):
        verify_evidence(
            {**claims, "format": "keyturn-evidence", "version": 1, "signature": f"{header}..{signature}"},
            key_set(service),
        )
    signed = sign_evidence(service, {**claims, "format": "keyturn-evidence", "version": 1})
    head, _, tail = signed.pop("signature").split(".")
    with pytest.raises(InvalidAccessToken):
        verify_access_token(
            service, f"{head}.{encoded(canonical(signed))}.{tail}", issuer="i", audience="a", now=NOW
        )


def test_a_document_of_one_kind_is_none_of_another(service: ServiceKeys) -> None:
    checkpoint = signing.sign(service, "checkpoint", CONTENT)
    assert signing.verify(checkpoint, "checkpoint", key_set(service)) == service.signing_kid
    with pytest.raises(NotGenuine, match="another kind"):
        verify_evidence(checkpoint, key_set(service))
