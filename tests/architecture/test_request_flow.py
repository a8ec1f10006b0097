"""docs/request-flow.md names files and functions; every name must be one that exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "request-flow.md"
DELIVERY = ROOT / "keyvault" / "delivery"
_NAMED = re.compile(r"`((?:[a-z0-9_]+/)*[a-z0-9_]+\.py)(?::([A-Za-z_.]+))?`")


def named() -> list[tuple[str, str]]:
    """File and function of every name in the document; "" for a file alone."""
    return _NAMED.findall(DOCUMENT.read_text("utf-8"))


def file_of(name: str) -> Path:
    return ROOT / name if "/" in name else DELIVERY / name


def definitions(node: ast.AST, prefix: str = "") -> Iterator[str]:
    """``function``, ``Class`` and ``Class.method`` of a module."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + inner.name
        elif isinstance(inner, ast.ClassDef):
            yield inner.name
            yield from definitions(inner, f"{inner.name}.")


@pytest.mark.parametrize(("file", "name"), sorted(set(named())))
def test_what_is_named_exists(file: str, name: str) -> None:
    path = file_of(file)
    assert path.is_file(), f"there is no {file}"
    if name:
        assert name in set(definitions(ast.parse(path.read_text("utf-8")))), f"{file} has no {name}"


def test_every_name_is_understood() -> None:
    """What looks like a name and is written in another way would not be checked."""
    text = DOCUMENT.read_text("utf-8")
    assert len(re.findall(r"\.py\b", text)) == len(named())


def test_every_module_of_delivery_is_on_the_way() -> None:
    modules = {path.name for path in DELIVERY.glob("*.py")} - {"__init__.py"}
    assert modules <= {file for file, _ in named()}


def test_functions_are_told_by_name_and_not_only_their_files() -> None:
    told = {file for file, name in named() if name}
    assert {file for file, _ in named() if "/" not in file} - told <= {"schema_parts.py"}
