from __future__ import annotations

import inspect
import struct
import traceback
from collections.abc import Callable, Mapping
from dataclasses import fields, replace

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keyvault.crypto import envelope
from keyvault.crypto.envelope import (
    MAX_PLAINTEXT,
    Context,
    IntegrityError,
    KeyServiceUnavailable,
    Sealed,
    open_sealed,
    rewrap,
    seal,
)
from keyvault.crypto.keyring import KekDescription, Keyring
from keyvault.crypto.keyring_document import EnvironmentKeks, KeyringDocument, new_document
from keyvault.crypto.mac import lp
from keyvault.crypto.secret import Secret

PLAIN = "sk-live-canary-9b1c"


def with_second_kek(keks: Keyring) -> tuple[Keyring, str]:
    """The same keyring with a fresh primary in prod; returns it and the old kid."""
    document = keks._document
    old = document.environments["prod"]
    fresh = new_document(["prod"]).environments["prod"]
    both = EnvironmentKeks(fresh.primary, {**old.keks, **fresh.keks})
    environments = {**document.environments, "prod": both}
    return Keyring(KeyringDocument(environments, document.service)), old.primary


def length_prefixed(*parts: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


@pytest.mark.parametrize("text", ["", "x", PLAIN, "ключ ✓", "a" * 65536, "a" * MAX_PLAINTEXT], ids=len)
def test_what_was_sealed_opens(keks: Keyring, context: Context, text: str) -> None:
    sealed = seal(Secret(text), context, environment="prod", keks=keks)
    assert open_sealed(sealed, context, environment="prod", keks=keks).expose() == text
    assert len(sealed.ciphertext) == 80 + len(text.encode()) + 16
    assert len(sealed.wrapped_dek) == 12 + 32 + 16


def test_the_stored_bytes_are_as_documented(keks: Keyring, context: Context) -> None:
    sealed = seal(Secret(PLAIN), context, environment="prod", keks=keks)
    ctx = length_prefixed(*(getattr(context, field.name).encode() for field in fields(context)))
    header, body = sealed.ciphertext[:80], sealed.ciphertext[80:]
    assert header[:4] == b"KV\x01\x01"
    salt, commit, nonce = header[4:36], header[36:68], header[68:80]

    kek = keks._document.environments["prod"].keks[sealed.kid]
    assert isinstance(kek, bytes)
    aad = length_prefixed(b"kv1/wrap", sealed.kid.encode(), ctx, commit)
    dek = AESGCM(kek).decrypt(sealed.wrapped_dek[:12], sealed.wrapped_dek[12:], aad)
    hkdf = HKDF(algorithm=SHA256(), length=64, salt=salt, info=length_prefixed(b"kv1/data", ctx))
    okm = hkdf.derive(dek)
    assert okm[32:] == commit
    plain = AESGCM(okm[:32]).decrypt(nonce, body, length_prefixed(b"kv1/ct", header, ctx))
    assert plain == PLAIN.encode()


def test_a_ciphertext_that_its_dek_is_not_committed_to_does_not_open(keks: Keyring, context: Context) -> None:
    """Even whoever holds the KEK cannot make one ciphertext that opens under two DEKs."""
    ctx, kid = context.encoded(), keks.primary("prod")
    dek, salt, nonce = bytes(range(32)), bytes(32), bytes(12)
    hkdf = HKDF(algorithm=SHA256(), length=64, salt=salt, info=length_prefixed(b"kv1/data", ctx))
    okm = hkdf.derive(dek)
    for commit, opens in ((okm[32:], True), (bytes(32), False)):
        header = b"KV\x01\x01" + salt + commit + nonce
        aad = length_prefixed(b"kv1/ct", header, ctx)
        body = AESGCM(okm[:32]).encrypt(nonce, PLAIN.encode(), aad)
        wrap_aad = length_prefixed(b"kv1/wrap", kid.encode(), ctx, commit)
        sealed = Sealed(header + body, keks.wrap("prod", kid, dek, wrap_aad), kid)
        if opens:
            assert open_sealed(sealed, context, environment="prod", keks=keks).expose() == PLAIN
        else:
            for operation in (open_sealed, rewrap):
                with pytest.raises(IntegrityError):
                    operation(sealed, context, environment="prod", keks=keks)


def test_nothing_repeats_between_two_seals(keks: Keyring, context: Context) -> None:
    first, second = (seal(Secret(PLAIN), context, environment="prod", keks=keks) for _ in range(2))
    assert first.ciphertext[4:36] != second.ciphertext[4:36]
    assert first.ciphertext[68:80] != second.ciphertext[68:80]
    assert first.wrapped_dek[:12] != second.wrapped_dek[:12]
    assert first.ciphertext[80:] != second.ciphertext[80:]


@pytest.mark.parametrize("name", [field.name for field in fields(Context)])
def test_another_context_does_not_open_it(keks: Keyring, context: Context, name: str) -> None:
    sealed = seal(Secret(PLAIN), context, environment="prod", keks=keks)
    other = replace(context, **{name: getattr(context, name) + "x"})
    with pytest.raises(IntegrityError):
        open_sealed(sealed, other, environment="prod", keks=keks)
    with pytest.raises(IntegrityError):
        rewrap(sealed, other, environment="prod", keks=keks)


def test_shifting_text_between_fields_does_not_open_it(keks: Keyring, context: Context) -> None:
    sealed = seal(Secret(PLAIN), context, environment="prod", keks=keks)
    shifted = replace(context, service=context.service + context.environment, environment="")
    with pytest.raises(IntegrityError):
        open_sealed(sealed, shifted, environment="prod", keks=keks)


TAMPERINGS: Mapping[str, Callable[[Sealed, Sealed], Sealed]] = {
    "empty": lambda one, two: replace(one, ciphertext=b""),
    "plaintext instead": lambda one, two: replace(one, ciphertext=PLAIN.encode() * 9),
    "magic": lambda one, two: replace(one, ciphertext=b"KX" + one.ciphertext[2:]),
    "version": lambda one, two: replace(one, ciphertext=b"KV\x02" + one.ciphertext[3:]),
    "suite": lambda one, two: replace(one, ciphertext=b"KV\x01\x00" + one.ciphertext[4:]),
    "header only": lambda one, two: replace(one, ciphertext=one.ciphertext[:80]),
    "cut by one": lambda one, two: replace(one, ciphertext=one.ciphertext[:-1]),
    "longer by one": lambda one, two: replace(one, ciphertext=one.ciphertext + b"\0"),
    "too large": lambda one, two: replace(one, ciphertext=one.ciphertext + bytes(MAX_PLAINTEXT)),
    "other row's ciphertext": lambda one, two: replace(one, ciphertext=two.ciphertext),
    "other row's DEK": lambda one, two: replace(one, wrapped_dek=two.wrapped_dek),
    "other row's body": lambda one, two: replace(one, ciphertext=one.ciphertext[:80] + two.ciphertext[80:]),
    "no DEK": lambda one, two: replace(one, wrapped_dek=b""),
    "short DEK": lambda one, two: replace(one, wrapped_dek=one.wrapped_dek[:20]),
    "no kid": lambda one, two: replace(one, kid=""),
    "odd kid": lambda one, two: replace(one, kid="../../etc"),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_every_tampering_fails_in_the_same_way(keks: Keyring, context: Context, name: str) -> None:
    one, two = (seal(Secret(PLAIN), context, environment="prod", keks=keks) for _ in range(2))
    bad = TAMPERINGS[name](one, two)
    with pytest.raises(IntegrityError) as caught:
        open_sealed(bad, context, environment="prod", keks=keks)
    assert str(caught.value) == str(IntegrityError())
    assert caught.value.__cause__ is None


def test_a_kid_of_another_environment_is_refused(keks: Keyring, context: Context) -> None:
    sealed = seal(Secret(PLAIN), context, environment="prod", keks=keks)
    with pytest.raises(IntegrityError):
        open_sealed(sealed, context, environment="dev", keks=keks)
    with pytest.raises(IntegrityError):
        open_sealed(replace(sealed, kid=keks.primary("dev")), context, environment="prod", keks=keks)


def test_relabelling_the_kid_does_not_open_it_even_with_the_same_environment(
    keks: Keyring, context: Context
) -> None:
    both, old_kid = with_second_kek(keks)
    sealed = seal(Secret(PLAIN), context, environment="prod", keks=both)
    with pytest.raises(IntegrityError):
        open_sealed(replace(sealed, kid=old_kid), context, environment="prod", keks=both)


def test_an_absent_environment_or_kek_is_unavailable_not_tampering(keks: Keyring, context: Context) -> None:
    sealed = seal(Secret(PLAIN), context, environment="prod", keks=keks)
    with pytest.raises(KeyServiceUnavailable, match="staging"):
        seal(Secret(PLAIN), context, environment="staging", keks=keks)
    with pytest.raises(KeyServiceUnavailable, match="prod"):
        open_sealed(sealed, context, environment="prod", keks=Keyring(new_document(["dev"])))
    with pytest.raises(KeyServiceUnavailable, match="prod-gone"):
        open_sealed(replace(sealed, kid="prod-gone"), context, environment="prod", keks=keks)


def test_a_secret_above_the_limit_is_not_sealed(keks: Keyring, context: Context) -> None:
    with pytest.raises(ValueError, match="at most"):
        seal(Secret("a" * (MAX_PLAINTEXT + 1)), context, environment="prod", keks=keks)


@pytest.mark.parametrize("missing", ["instance", "purpose"])
def test_a_context_names_its_instance_and_purpose(context: Context, missing: str) -> None:
    with pytest.raises(ValueError, match="instance"):
        replace(context, **{missing: ""})


def test_rewrap_changes_only_the_wrap_and_frees_the_row_of_the_old_kek(
    keks: Keyring, context: Context
) -> None:
    sealed = seal(Secret(PLAIN), context, environment="prod", keks=keks)
    both, old_kid = with_second_kek(keks)
    moved = rewrap(sealed, context, environment="prod", keks=both)
    assert moved.ciphertext == sealed.ciphertext
    assert moved.wrapped_dek != sealed.wrapped_dek
    assert (sealed.kid, moved.kid) == (old_kid, both.primary("prod"))

    document = both._document
    kept = {moved.kid: document.environments["prod"].keks[moved.kid]}
    only_new = Keyring(KeyringDocument({"prod": EnvironmentKeks(moved.kid, kept)}, document.service))
    assert open_sealed(moved, context, environment="prod", keks=only_new).expose() == PLAIN
    # The old columns stay readable with the old KEK, so a crash before the write loses nothing.
    assert open_sealed(sealed, context, environment="prod", keks=both).expose() == PLAIN


@pytest.mark.parametrize("name", [name for name in TAMPERINGS if name not in ("cut by one", "longer by one")])
def test_rewrap_moves_no_dek_that_is_not_the_rows(keks: Keyring, context: Context, name: str) -> None:
    one, two = (seal(Secret(PLAIN), context, environment="prod", keks=keks) for _ in range(2))
    bad = TAMPERINGS[name](one, two)
    if name in ("other row's ciphertext", "other row's DEK", "other row's body"):
        bad = replace(one, ciphertext=two.ciphertext)
    with pytest.raises(IntegrityError):
        rewrap(bad, context, environment="prod", keks=keks)


class Faulty:
    """A KEK provider as it may be at the far end of a network: it answers, and wrongly."""

    def __init__(self, inner: Keyring, *, dek: bytes | None = None, wrap_fails: bool = False) -> None:
        self.inner, self.dek, self.wrap_fails = inner, dek, wrap_fails

    def primary(self, environment: str) -> str:
        return self.inner.primary(environment)

    def wrap(self, environment: str, kid: str, dek: bytes, aad: bytes) -> bytes:
        if self.wrap_fails:
            del dek
            raise KeyServiceUnavailable("down")
        return self.inner.wrap(environment, kid, dek, aad)

    def unwrap(self, environment: str, kid: str, wrapped: bytes, aad: bytes) -> bytes:
        return self.dek if self.dek is not None else self.inner.unwrap(environment, kid, wrapped, aad)

    def describe(self) -> Mapping[str, KekDescription]:
        return self.inner.describe()

    def health(self) -> None:
        self.inner.health()


@pytest.mark.parametrize("answer", [b"", b"short", bytes(32), bytes(64)])
def test_a_provider_that_answers_with_another_dek_is_found_out(
    keks: Keyring, context: Context, answer: bytes
) -> None:
    sealed = seal(Secret(PLAIN), context, environment="prod", keks=keks)
    with pytest.raises(IntegrityError):
        open_sealed(sealed, context, environment="prod", keks=Faulty(keks, dek=answer))
    with pytest.raises(IntegrityError):
        rewrap(sealed, context, environment="prod", keks=Faulty(keks, dek=answer))


def seen_in_frames(error: BaseException) -> list[object]:
    """Every local variable that an error report would print, containers opened."""
    values: list[object] = []
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename.startswith(envelope.__file__.rsplit("/", 1)[0]):
            values.extend(frame.f_locals.values())
    return values


def test_no_frame_of_a_failure_holds_the_dek(keks: Keyring, context: Context) -> None:
    sealed = seal(Secret(PLAIN), context, environment="prod", keks=keks)
    aad = envelope._wrap_aad(sealed.kid, lp(context.encoded()), sealed.ciphertext[36:68])
    dek = keks.unwrap("prod", sealed.kid, sealed.wrapped_dek, aad)
    broken = replace(sealed, ciphertext=sealed.ciphertext[:-1] + bytes([sealed.ciphertext[-1] ^ 1]))
    with pytest.raises(IntegrityError) as caught:
        open_sealed(broken, context, environment="prod", keks=keks)
    assert seen_in_frames(caught.value), "the frames of the envelope were looked at"
    assert dek not in seen_in_frames(caught.value)
    with pytest.raises(KeyServiceUnavailable) as down:
        rewrap(sealed, context, environment="prod", keks=Faulty(keks, wrap_fails=True))
    assert seen_in_frames(down.value)
    assert dek not in seen_in_frames(down.value)


def test_a_sealed_secret_does_not_print_its_columns(keks: Keyring, context: Context) -> None:
    sealed = seal(Secret(PLAIN), context, environment="prod", keks=keks)
    assert repr(sealed) == f"Sealed(kid={sealed.kid!r})"


def test_no_public_function_takes_a_nonce() -> None:
    for function in (seal, open_sealed, rewrap, envelope.seal_under, Keyring.wrap, Keyring.unwrap):
        assert not {"nonce", "iv", "salt", "dek_nonce"} & set(inspect.signature(function).parameters)
