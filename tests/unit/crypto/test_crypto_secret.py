from __future__ import annotations

import copy
import json
import logging
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from keyvault.crypto.secret import Secret

PLAIN = "sk-canary-4f1d"


@dataclass(frozen=True)
class Holder:
    secret: Secret


@pytest.mark.parametrize(
    "render",
    [
        repr,
        str,
        lambda secret: f"{secret}",
        lambda secret: f"{secret!r:>30}",
        lambda secret: f"{secret:>30}",
        lambda secret: format(secret, "s"),
        lambda secret: "%s %r" % (secret, secret),  # noqa: UP031 - the old style is what is tested
        lambda secret: repr([secret]),
        lambda secret: repr(Holder(secret)),
        lambda secret: json.dumps({"secret": secret}, default=str),
        lambda secret: logging.LogRecord("n", 10, "p", 1, "got %s", (secret,), None).getMessage(),
        lambda secret: str(ValueError(secret)),
    ],
)
def test_no_rendering_shows_the_plaintext(render: Callable[[Secret], str]) -> None:
    text = render(Secret(PLAIN))
    assert "Secret(***)" in text
    assert PLAIN not in text


def test_expose_is_the_way_out() -> None:
    assert Secret(PLAIN).expose() == PLAIN


@pytest.mark.parametrize(
    "leave",
    [
        *[lambda secret, p=p: pickle.dumps(secret, p) for p in range(pickle.HIGHEST_PROTOCOL + 1)],
        lambda secret: pickle.dumps(Holder(secret)),
        copy.copy,
        copy.deepcopy,
        json.dumps,
        hash,
        iter,
        len,
        bytes,
        vars,
    ],
)
def test_a_secret_leaves_by_no_other_door(leave: Callable[[Secret], object]) -> None:
    with pytest.raises(TypeError) as caught:
        leave(Secret(PLAIN))
    assert PLAIN not in str(caught.value)


def test_templates_refuse_to_call_expose() -> None:
    assert getattr(Secret.expose, "alters_data", False) is True


def test_secrets_are_equal_by_value_and_never_equal_to_text() -> None:
    assert Secret(PLAIN) == Secret(PLAIN)
    assert Secret(PLAIN) != Secret(PLAIN + "x")
    assert Secret("ключ") == Secret("ключ")
    assert (Secret(PLAIN) == PLAIN) is False


def test_a_secret_cannot_be_changed() -> None:
    secret = Secret(PLAIN)
    for name in ("_Secret__text", "other"):
        with pytest.raises(AttributeError):
            setattr(secret, name, "x")
    with pytest.raises(AttributeError):
        del secret._Secret__text  # type: ignore[attr-defined]
    assert secret.expose() == PLAIN


@pytest.mark.parametrize("wrong", [b"bytes", 5, None, ["a"], Secret("a")])
def test_only_text_becomes_a_secret(wrong: object) -> None:
    with pytest.raises(TypeError):
        Secret(wrong)  # type: ignore[arg-type]


def test_text_that_cannot_be_stored_is_refused_without_being_quoted() -> None:
    with pytest.raises(ValueError, match="UTF-8") as caught:
        Secret(PLAIN + "\ud800")
    assert PLAIN not in repr(caught.value)
    assert caught.value.__context__ is None


def test_the_crypto_room_does_not_need_django() -> None:
    modules = "secret envelope keyring mac tokens access_tokens globs intake canary"
    imports = "; ".join(f"import keyvault.crypto.{name}" for name in modules.split())
    check = f"import sys; {imports}; print([m for m in sys.modules if m.split('.')[0] in BANNED])"
    program = "BANNED = {'django', 'rest_framework', 'celery'}; " + check
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
