from __future__ import annotations

import time
import traceback
import uuid
from contextlib import suppress
from datetime import UTC, datetime

import pytest

from keyvault.crypto.access_tokens import mint_access_token
from keyvault.crypto.intake import MAX_SECRET_BYTES, SecretRefused, check_secret
from keyvault.crypto.keyring_document import new_document
from keyvault.crypto.tokens import TokenKind, mint

CANARY = "c4n4ryQ7"


@pytest.mark.parametrize(
    "text",
    [
        "sk_live_4eC39HqLyjWDarjtT1zdp7dc",
        "rbv-7f3a9c2e51b84d06",
        "AIzaSyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY",
        "3fa85f64-5717-4562-b3fc-2c963f66afa6",
        "dGhpcyBpcyBhIGtleQ==",
        "a/b+c=:;,!@#$%^&()|~",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "Tokenize8Keyed9Secretly3",
        "monkey_27ab",
        "abc",
        "a9" * (MAX_SECRET_BYTES // 2),
    ],
    ids=lambda text: text[:20],
)
def test_a_key_is_taken_as_it_is(text: str) -> None:
    assert check_secret(text).expose() == text


REFUSED: dict[str, list[object]] = {
    "not_text": [
        None, 5, b"bytes", ["a"], {"a": 1}, True, CANARY + "\ud800", CANARY + "é", "с" + CANARY,
        "\uff41" + CANARY, CANARY + "\ufffd",
    ],
    "empty": ["", " ", "\n", "\t \r\n", "\u00a0", "\u3000"],
    "too_large": [CANARY + "a" * MAX_SECRET_BYTES, "é" * (MAX_SECRET_BYTES // 2 + 1)],
    "surrounding_space": [
        CANARY + "\n", CANARY + "\r\n", " " + CANARY, CANARY + " ", "\t" + CANARY, CANARY + "\u00a0",
        "\u2003" + CANARY, "\x1f" + CANARY, CANARY + "\u2028",
    ],
    "control_characters": [
        CANARY + "\0", CANARY + "\x00x", CANARY + "\nX-Evil: 1", CANARY + "\r\nx", "a\t" + CANARY,
        CANARY + "\x7f", "\ufeff" + CANARY, CANARY + "\u200b", "\u202e" + CANARY, "a\u2028" + CANARY,
        CANARY + "\x1b[0m", CANARY + "\u00ad",
    ],
    "inner_space": [f"Bearer {CANARY}", f"X-API-Key: {CANARY}", f"a\u00a0{CANARY}", f"a\u3000{CANARY}"],
    "quotes": [
        f'"{CANARY}"', f"'{CANARY}'", f"`{CANARY}`", f'{CANARY}"', f"a'{CANARY}", f"\u201c{CANARY}\u201d",
        f"\u2018{CANARY}\u2019", f'{{"key":"{CANARY}"}}',
    ],
    "placeholder": [
        "YOUR_API_KEY", "<YOUR_API_KEY>", "your-api-key", "YourApiKey", "YOUR_REMOVIT_API_KEY",
        "your_token_here", "YOUR_SECRET", "my-api-key", "MY_KEY", "INSERT_KEY_HERE",
        "insert-your-key-here", "changeme",
        "CHANGE_ME", "REPLACE-ME", "replace_api_key", "placeholder", "example", "secret", "password", "none",
        "null", "undefined", "TODO", "xxxxxxxx", "sk_live_xxxxxxxxxxxx", "XXXXXX-XXXX", "********",
        "sk_live_****4242", "sk_live_...4242", "sk_live_\u20264242", "\u2022\u2022\u2022\u20224242",
        "000000000000",
        "<api-key>", "${API_KEY}", "$API_KEY", "{{api_key}}", "%API_KEY%", "[key]", "1234567890",
    ],
    "own_token": [
        mint(TokenKind.CONSUMER, "prod").expose(), mint(TokenKind.USER, None).expose(),
        mint(TokenKind.ISSUED, "dev").expose(), mint(TokenKind.CONSUMER, "prod").expose()[:-5],
        "key=" + mint(TokenKind.USER, None).expose(),
        mint_access_token(
            new_document(["dev"]).service, issuer="https://k", audience="kv:1", parent=str(uuid.uuid4()),
            environment="dev", paths=["*"], now=datetime(2026, 1, 1, tzinfo=UTC), expires_in=60,
        ).expose(),
    ],
}  # fmt: skip


# Named by position: some of the texts are random, and workers must collect the same names.
@pytest.mark.parametrize(
    ("code", "text"),
    [
        pytest.param(code, text, id=f"{code}-{position}")
        for code, texts in REFUSED.items()
        for position, text in enumerate(texts)
    ],
)
def test_anything_else_is_refused_with_the_reason_and_never_quoted(code: str, text: object) -> None:
    with pytest.raises(SecretRefused) as caught:
        check_secret(text)
    refused = caught.value
    assert refused.code == code
    assert refused.message == str(refused)
    assert len(refused.message) > 15
    assert CANARY not in f"{refused!r} {refused.message}"


def test_the_codes_have_messages_of_their_own() -> None:
    messages = set()
    for code, texts in REFUSED.items():
        with pytest.raises(SecretRefused) as caught:
            check_secret(texts[0])
        assert caught.value.code == code
        messages.add(caught.value.message)
    assert len(messages) == len(REFUSED) == 9


def test_the_frame_that_refuses_no_longer_holds_the_text() -> None:
    with pytest.raises(SecretRefused) as caught:
        check_secret(f"Bearer {CANARY}")
    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    assert frames[-1].f_code is check_secret.__code__
    assert CANARY not in repr(frames[-1].f_locals)


@pytest.mark.parametrize(
    "piece", ["my", "your", "your_a", "kta", "ktc_a", "ktc_", "<", "$", "x.", "api_", "eyJ"]
)
def test_the_worst_text_is_judged_in_no_time(piece: str) -> None:
    text = (piece * MAX_SECRET_BYTES)[: MAX_SECRET_BYTES - 2]
    started = time.process_time()
    with suppress(SecretRefused):
        check_secret(text + "!")
    assert time.process_time() - started < 1
