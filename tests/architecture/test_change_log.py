"""What delivery keeps in memory is watched: no column that it reads can change without the log telling."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.apps import apps
from django.db import models

from keyvault.delivery import loading

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
WATCHED = importlib.import_module("keyvault.migrations.0014_instance_limit").WATCHED

# Columns that delivery reads and no trigger looks at: (table, column) -> why that is right.
UNWATCHED = {
    ("keyvault_consumertoken", "id"): "the identity of a row",
    ("keyvault_grant", "id"): "the identity of a row",
    ("keyvault_key", "id"): "the identity of a row",
    ("keyvault_keyversion", "id"): "the identity of a row",
    ("keyvault_openjobs", "id"): "the identity of a row",
    ("keyvault_openjobs", "version_id"): "what a row counts for; services only insert it",
    ("keyvault_openjobs", "consumer_id"): "what a row counts for; services only insert it",
    ("keyvault_openjobs", "instance"): "what a row counts for; services only insert it",
    ("keyvault_openjobs", "last_to_at"): "moves with every report; read again where it would matter",
}
UNWATCHED[("keyvault_quarantine", "key_id")] = "every change of this table is told (0011_recovery)"
# These are not kept in memory: they choose what is read at the start of a process.
NOT_KEPT = {"recently_used"}

# What would change rows without their triggers.
AROUND = re.compile(
    r"\bTRUNCATE\b|\bREPLACE\s+INTO\b|\bCOPY\s+\w+\s+FROM\b|session_replication_role|DISABLE\s+TRIGGER"
    r"|recursive_triggers",
    re.IGNORECASE,
)
WRITING = re.compile(r"\b(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+(keyvault_\w+)", re.IGNORECASE)
# Raw statements of ours on watched tables; each passes its row triggers like any other.
RAW_WRITERS = {("keyvault/services/usage.py", "keyvault_consumertoken")}
WRITES = {
    "bulk_create",
    "bulk_update",
    "create",
    "delete",
    "get_or_create",
    "save",
    "update",
    "update_or_create",
}


def trees(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "migrations" not in path.parts:
                yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def model_below(node: ast.AST) -> type[models.Model] | None:
    """The model at the start of a chain such as ``Key.objects.filter(...)``."""
    while True:
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr="objects"):
                return apps.get_model("keyvault", name) if name in MODELS else None
            case ast.Attribute(value=inner) | ast.Call(func=inner):
                node = inner
            case _:
                return None


MODELS = {model.__name__: model for model in apps.get_app_config("keyvault").get_models()}


def reads() -> dict[str, tuple[type[models.Model], tuple[str, ...]]]:
    """The tuples of columns in loading.py, with the model that each is read from."""
    found: dict[str, tuple[type[models.Model], tuple[str, ...]]] = {}
    for function in functions_of_loading():
        nodes = list(ast.walk(function))
        asked = {model for node in nodes if (model := model_below(node)) is not None}
        for node in nodes:
            match node:
                case ast.Call(
                    func=ast.Attribute(attr="values_list"), args=[ast.Starred(value=ast.Name(id=name))]
                ):
                    [model] = asked
                    assert found.setdefault(name, (model, getattr(loading, name)))[0] is model
    return found


def functions_of_loading() -> list[ast.FunctionDef]:
    tree = ast.parse(Path(loading.__file__).read_text(encoding="utf-8"))
    return [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name not in NOT_KEPT]


def columns(model: type[models.Model], path: str) -> Iterator[tuple[str, str]]:
    """(table, column) of everything that ``path`` depends on: each step of ``a__b`` and where it ends."""
    *steps, last = path.split("__")
    for step in steps:
        field = model._meta.get_field(step)
        assert isinstance(field, models.ForeignKey)
        yield model._meta.db_table, field.column
        related = field.related_model
        assert isinstance(related, type)
        model = related
    known = {field.attname: field.column for field in model._meta.concrete_fields}
    column = known[last]
    assert column is not None
    yield model._meta.db_table, column


def read_columns() -> set[tuple[str, str]]:
    return {found for model, names in reads().values() for name in names for found in columns(model, name)}


def test_every_column_that_delivery_keeps_is_watched() -> None:
    watched = {(table, column) for table, watch in WATCHED.items() for column in watch.columns}
    assert read_columns() - watched - UNWATCHED.keys() == set()


def test_no_exception_is_left_over() -> None:
    watched = {(table, column) for table, watch in WATCHED.items() for column in watch.columns}
    assert UNWATCHED.keys() - read_columns() == set()
    assert UNWATCHED.keys() & watched == set()


def test_what_is_watched_exists() -> None:
    tables = {model._meta.db_table: model for model in MODELS.values()}
    for table, watch in WATCHED.items():
        real = {field.column for field in tables[table]._meta.concrete_fields}
        named = {*watch.columns, watch.ref, *([watch.parent] if watch.parent else [])}
        assert named <= real, f"{table} has no {named - real}"


def test_every_reader_of_rows_names_its_columns() -> None:
    """So that nothing is read past the tuples which the first test compares."""
    assert set(reads()) == {"TOKEN", "GRANT", "KEY", "VERSION", "JOBS", "QUARANTINE"}
    for function in functions_of_loading():
        nodes = list(ast.walk(function))
        names = {node.id for node in nodes if isinstance(node, ast.Name)}
        asked = [node for node in nodes if isinstance(node, ast.Attribute) and node.attr == "objects"]
        assert not asked or names & reads().keys(), f"{function.name} reads rows without a tuple"


def test_only_loading_reads_rows_for_the_memory() -> None:
    """Records are made in one place, from the columns that the first test compares."""
    from keyvault.delivery import records

    kinds = {name for name, kind in vars(records).items() if isinstance(kind, type)} & {
        "TokenRecord",
        "GrantRecord",
        "VersionRecord",
        "KeyRecord",
        "IssuedRecord",
        "JobsRecord",
        "VerifierRecord",
    }
    assert len(kinds) == 7
    makers = {
        path
        for path, tree in trees("keyvault", "rotation")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds
    }
    assert makers == {"keyvault/delivery/loading.py"}


def texts(tree: ast.Module) -> Iterator[str]:
    """Every text in a module, without the names of tables that an f-string puts in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_no_statement_of_ours_goes_around_the_triggers() -> None:
    found = [
        f"{path}: {text.strip()[:60]}"
        for path, tree in trees("keyvault", "rotation")
        for text in texts(tree)
        if AROUND.search(text) and " " in text.strip()
    ]
    assert found == []


def test_raw_writers_of_watched_tables_are_known() -> None:
    found = {
        (path, table)
        for path, tree in trees("keyvault", "rotation")
        for text in texts(tree)
        for table in WRITING.findall(text)
        if table in WATCHED
    }
    assert found == RAW_WRITERS


def test_writers_of_watched_models_are_the_services() -> None:
    """Triggers note a change whoever makes it; here it is seen that this scan would find a writer at all."""
    found: dict[str, set[str]] = {}
    for path, tree in trees("keyvault", "rotation"):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                model = model_below(node.func.value)
                if node.func.attr in WRITES and model is not None and model._meta.db_table in WATCHED:
                    found.setdefault(model.__name__, set()).add(path)
    places = {path for paths in found.values() for path in paths}
    assert places, "the scan finds nothing"
    assert {
        path for path in places if not path.startswith(("keyvault/services/", "rotation/services/"))
    } == set()
