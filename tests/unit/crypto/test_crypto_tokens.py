from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import zlib
from pathlib import Path

import pytest

from keyvault.crypto.secret import Secret
from keyvault.crypto.tokens import TokenKind, digest, hint, looks_like_ours, mint, parse

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def encode(number: int, length: int) -> str:
    text = ""
    while number:
        number, rest = divmod(number, 62)
        text = ALPHABET[rest] + text
    return text.rjust(length, "0")


def with_checksum(text: str) -> str:
    return text + encode(zlib.crc32(text.encode()), 6)


@pytest.mark.parametrize(
    ("kind", "environment", "prefix"),
    [
        (TokenKind.CONSUMER, "prod", "ktc_prod_"),
        (TokenKind.CONSUMER, "eu-west-1", "ktc_eu-west-1_"),
        (TokenKind.ISSUED, "dev", "ktk_dev_"),
        (TokenKind.USER, None, "ktu_"),
    ],
)
def test_a_minted_token_has_the_published_form_and_parses(
    kind: TokenKind, environment: str | None, prefix: str
) -> None:
    text = mint(kind, environment).expose()
    assert text.startswith(prefix)
    assert len(text) == len(prefix) + 49
    assert with_checksum(text[:-6]) == text
    parsed = parse(text)
    assert parsed is not None
    assert (parsed.kind, parsed.environment, parsed.text) == (kind, environment, text)
    assert text not in repr(parsed)


@pytest.mark.parametrize(
    ("kind", "environment"),
    [
        (TokenKind.USER, "prod"),
        (TokenKind.CONSUMER, None),
        (TokenKind.ISSUED, None),
        (TokenKind.CONSUMER, ""),
        (TokenKind.CONSUMER, "Prod"),
        (TokenKind.CONSUMER, "a_b"),
        (TokenKind.CONSUMER, "prod\n"),
        (TokenKind.ISSUED, "a" * 64),
    ],
)
def test_a_token_of_the_wrong_shape_is_not_minted(kind: TokenKind, environment: str | None) -> None:
    with pytest.raises(ValueError, match="environment"):
        mint(kind, environment)


@pytest.mark.parametrize("number", [0, 1, 61, 62, 2**255, 2**256 - 1])
def test_the_random_number_fills_exactly_43_characters(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(secrets, "randbits", lambda bits: number if bits == 256 else -1)
    text = mint(TokenKind.USER, None).expose()
    assert text[4:47] == encode(number, 43)
    assert parse(text) is not None


def test_a_body_above_256_bits_is_not_a_token() -> None:
    assert parse(with_checksum("ktu_" + encode(2**256 - 1, 43))) is not None
    assert parse(with_checksum("ktu_" + encode(2**256, 43))) is None
    assert parse(with_checksum("ktu_" + "z" * 43)) is None


def test_two_tokens_are_never_the_same() -> None:
    assert len({mint(TokenKind.USER, None).expose() for _ in range(200)}) == 200


GOOD = with_checksum("ktc_prod_" + encode(12345, 43))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "ktc_",
        "ktc_prod_",
        GOOD[:-1],
        GOOD + "0",
        GOOD + "\n",
        " " + GOOD,
        GOOD + " ",
        GOOD.upper(),
        GOOD.replace("ktc", "ktx"),
        GOOD.replace("ktc", "ktk"),
        GOOD.replace("ktc_prod", "ktu"),
        GOOD.replace("prod", "dev"),
        GOOD.replace("_prod_", "__"),
        GOOD.replace("prod", "PROD"),
        GOOD.replace("prod", "pr\u043ed"),
        GOOD[:-1] + "\uff15",
        GOOD.replace("0", "\u0660", 1),
        GOOD[:-1] + "\ud800",
        "\x00" * 58,
        "a" * 1_000_000,
        None,
        5,
        b"ktu_",
        GOOD.encode(),
        [GOOD],
        Secret(GOOD),
    ],
    ids=lambda text: ascii(text)[:70],
)
def test_anything_else_is_no_token_and_no_error(text: object) -> None:
    assert parse(GOOD) is not None
    assert parse(text) is None


def test_every_single_typing_error_is_seen() -> None:
    for position in range(len("ktc_prod_"), len(GOOD)):
        for letter in ALPHABET:
            typo = GOOD[:position] + letter + GOOD[position + 1 :]
            assert (parse(typo) is not None) == (typo == GOOD)


@pytest.mark.parametrize("text", [GOOD, "", "é", "\ud800", "x" * 10_000], ids=len)
def test_a_digest_is_hmac_sha256_and_never_raises(text: str) -> None:
    pepper = bytes(range(32))
    expected = hmac.new(pepper, text.encode("utf-8", "surrogatepass"), hashlib.sha256).digest()
    assert digest(pepper, text) == expected
    assert digest(bytes(32), text) != expected


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        (GOOD, True),
        ("Bearer " + GOOD, True),
        ("https://h/?key=" + GOOD + "&x=1", True),
        (GOOD[:-10], True),
        (GOOD[:-1] + "!", True),
        ("ktu_" + "a" * 49, True),
        ("ktk_dev_" + "a" * 49, True),
        ("ktc_prod_short", False),
        ("xktu_" + "a" * 49, False),
        ("sk_live_" + "a" * 49, False),
        ("KTU_" + "a" * 49, False),
        ("", False),
    ],
)
def test_damaged_copies_of_our_tokens_are_recognised(text: str, ours: bool) -> None:
    assert looks_like_ours(text) is ours


def test_a_hint_shows_the_prefix_and_four_characters() -> None:
    token = mint(TokenKind.CONSUMER, "prod")
    assert hint(token) == token.expose()[:13] + "…"
    assert hint(token).startswith("ktc_prod_")
    user = mint(TokenKind.USER, None)
    assert hint(user) == user.expose()[:8] + "…"


def test_there_is_no_hint_of_somebody_elses_key() -> None:
    with pytest.raises(ValueError, match="token of ours") as caught:
        hint(Secret("sk_live_canary"))
    assert "canary" not in str(caught.value)


def test_the_published_expression_finds_every_kind_and_nothing_cut_short() -> None:
    page = (Path(__file__).parents[3] / "docs/tokens.md").read_text("utf-8")
    found = re.search(r"```text\n(.+)\n```", page)
    assert found is not None
    expression = re.compile(found[1])
    for kind, environment in (
        (TokenKind.CONSUMER, "prod"),
        (TokenKind.ISSUED, "dev-2"),
        (TokenKind.USER, None),
    ):
        text = mint(kind, environment).expose()
        for line in (text, f'key = "{text}"', f"x={text};"):
            assert expression.findall(line) == [text]
        assert not expression.search(text[:-1])
        assert not expression.search(f"{text}A")
