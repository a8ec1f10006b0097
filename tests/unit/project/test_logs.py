"""Nothing that is, or looks like, a secret gets into a log line."""

from __future__ import annotations

import io
import json
import logging
import logging.config
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from keyvault.crypto.secret import Secret
from keyvault.crypto.tokens import TokenKind, mint
from keyvault.project.logs import MASK, logging_settings, scrub

PLAIN = "s3cr3t-plaintext-0123456789"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What the real handler writes, for a logger of structlog and for one of the standard library."""
    stream = io.StringIO()
    handler_settings = logging_settings("DEBUG")
    handler_settings["handlers"]["stderr"]["stream"] = stream
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    logging.config.dictConfig(handler_settings)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)


def written(stream: io.StringIO) -> dict[str, Any]:
    parsed = json.loads(stream.getvalue().splitlines()[-1])
    assert isinstance(parsed, dict)
    return parsed


@pytest.mark.parametrize(
    "name",
    [
        "secret",
        "key",
        "password",
        "Authorization",
        "X-API-Key",
        "HTTP_AUTHORIZATION",
        "set-cookie",
        "admin_secret",
    ],
)
def test_fields_with_a_secret_name_are_masked(lines: io.StringIO, name: str) -> None:
    structlog.get_logger("keyturn.test").info("event", **{name: PLAIN}, nested={"deep": [{name: PLAIN}]})
    assert PLAIN not in lines.getvalue()
    assert written(lines)[name] == MASK


@pytest.mark.parametrize("kind", list(TokenKind))
def test_our_tokens_are_masked_wherever_they_stand(lines: io.StringIO, kind: TokenKind) -> None:
    token = mint(kind, None if kind is TokenKind.USER else "prod").expose()
    structlog.get_logger("keyturn.test").warning(
        f"got {token}!", note=f"a {token} b", items=[token, {token: 1}]
    )
    logging.getLogger("somebody.else").error("failed with %s", token)
    assert token[9:] not in lines.getvalue()
    assert written(lines)["event"] == f"failed with {MASK}"


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("Authorization: Bearer abcdefgh12345678", "abcdefgh12345678"),
        ("Token abcdefgh12345678", "abcdefgh12345678"),
        ("eyJhbGciOiJFZERTQSJ9.eyJqdGkiOiIxIn0.c2lnbmF0dXJl", "c2lnbmF0dXJl"),
        ("postgres://keyturn:hunter22@db/keyturn", "hunter22"),
        ("redis://:hunter22@cache/0", "hunter22"),
        ("GET /setup/Zm9vYmFyYmF6cXV4/", "Zm9vYmFyYmF6cXV4"),
        ("GET /join/Zm9vYmFyYmF6cXV4/", "Zm9vYmFyYmF6cXV4"),
    ],
)
def test_other_shapes_of_secrets_are_masked(text: str, hidden: str) -> None:
    assert hidden not in str(scrub(text))


def test_values_of_type_secret_and_bytes_never_show(lines: io.StringIO) -> None:
    structlog.get_logger("keyturn.test").info(
        "event", one=Secret(PLAIN), two=[Secret(PLAIN)], raw=PLAIN.encode()
    )
    assert PLAIN not in lines.getvalue()
    assert written(lines)["raw"] == f"<{len(PLAIN)} bytes>"


def _fail_with_a_local() -> None:
    plaintext_in_a_local = PLAIN
    raise RuntimeError(f"broken {len(plaintext_in_a_local)}")


def test_a_traceback_shows_no_local_variables(lines: io.StringIO) -> None:
    try:
        _fail_with_a_local()
    except RuntimeError:
        structlog.get_logger("keyturn.test").exception("boom")
        logging.getLogger("somebody.else").exception("boom")
    assert "RuntimeError" in lines.getvalue()
    assert "_fail_with_a_local" in lines.getvalue()
    assert PLAIN not in lines.getvalue()


def test_what_is_no_secret_is_left_alone() -> None:
    value = {"status": 200, "path": "/v1/keys/a/prod/", "ok": True, "token_hint": "ktc_prod", "none": None}
    assert scrub(value) == value


def test_a_structure_without_end_is_cut_off() -> None:
    endless: dict[str, Any] = {}
    endless["again"] = endless
    assert MASK in str(scrub(endless))
