"""``Secret`` never turns into plaintext by itself, and nobody puts plaintext where it can be read."""

from __future__ import annotations

import ast
import copy
import dataclasses
import json
import logging
import pickle
from pathlib import Path

import pytest
from django.core.serializers.json import DjangoJSONEncoder
from django.template import Context, Template
from kombu.utils.json import dumps as kombu_dumps
from rest_framework.utils.encoders import JSONEncoder

from keyvault.crypto.secret import Secret

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
PLAIN = "plaintext-canary-7391"


@dataclasses.dataclass(frozen=True)
class Holder:
    secret: Secret


@pytest.mark.parametrize(
    "shown",
    [
        lambda secret: repr(secret),
        lambda secret: str(secret),
        lambda secret: f"{secret}",
        lambda secret: f"{secret!r:>40}",
        lambda secret: "%s %r" % (secret, secret),  # noqa: UP031
        lambda secret: repr([secret, {"a": secret}]),
        lambda secret: repr(Holder(secret)),
        lambda secret: str(dataclasses.replace(Holder(secret))),
        lambda secret: str(ValueError(secret)),
        lambda secret: Template("{{ s }} {{ s.expose }} {{ s|safe }}").render(Context({"s": secret})),
        lambda secret: logging.LogRecord("n", 20, "p", 1, "%s", (secret,), None).getMessage(),
    ],
)
def test_no_way_of_showing_it_shows_it(shown: object) -> None:
    assert callable(shown)
    assert PLAIN not in shown(Secret(PLAIN))


@pytest.mark.parametrize(
    "carry",
    [
        json.dumps,
        lambda secret: json.dumps(secret, cls=DjangoJSONEncoder),
        lambda secret: json.dumps({"a": secret}, cls=JSONEncoder),
        kombu_dumps,
        pickle.dumps,
        copy.copy,
        copy.deepcopy,
        hash,
        dataclasses.asdict,
    ],
)
def test_no_way_of_carrying_it_off_works(carry: object) -> None:
    assert callable(carry)
    with pytest.raises(TypeError):
        carry(Holder(Secret(PLAIN)) if carry is dataclasses.asdict else Secret(PLAIN))


LOUD = {
    "debug",
    "info",
    "warning",
    "error",
    "exception",
    "critical",
    "print",
    "echo",
    "format",
    "record",
    "delay",
}


def test_plaintext_is_never_exposed_into_a_log_an_audit_event_or_a_task() -> None:
    found = []
    for folder in ("keyvault", "rotation"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call) or _name(node.func) not in LOUD:
                    continue
                inside = [*node.args, *(keyword.value for keyword in node.keywords)]
                if any(
                    _name(sub.func) == "expose"
                    for part in inside
                    for sub in ast.walk(part)
                    if isinstance(sub, ast.Call)
                ):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    # The one command whose purpose is to print a fresh token.
    assert [place for place in found if not place.startswith("keyvault/project/cli.py")] == []
    assert len(found) <= 1


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""
