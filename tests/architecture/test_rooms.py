"""The house is built as the architecture page says."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db.migrations.loader import MigrationLoader

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("keyvault", "rotation")

# Word -> what we say instead. Only names that we choose ourselves are looked at: modules, classes, functions.
BANNED = {
    "vendor": "provider",
    "upstream": "provider",
    "lease_key": "delivery",
    "tier": "environment",
    "rollout": "rotation",
    "renewal": "rotation",
    "phase": "stage",
    "strategy": "policy",
    "plugin": "driver",
    "adapter": "driver",
    "decrypt": "open",
    "encrypt": "seal",
    "masterkey": "kek",
    "master": "kek",
    "cutover": "promote",
    "drained": "quiet",
    "outbox": "operation",
    "acl": "grant",
}
# Names that other people's interfaces ask for.
FOREIGN = {"AccountAdapter", "SecondFactorAdapter", "SingleSignOnAdapter", "decrypt", "encrypt"}


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def test_imports_go_downwards_only() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_no_name_uses_a_word_that_means_something_else_here() -> None:
    found = []
    for path in sources(*PACKAGES):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                or node.name in FOREIGN
            ):
                continue
            words = set(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", node.name).lower().split("_"))
            found += [
                f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: say {BANNED[word]}"
                for word in words & BANNED.keys()
            ]
    assert found == []


def test_migrations_are_one_line_per_app() -> None:
    loader = MigrationLoader(None)
    for app in PACKAGES:
        assert len(loader.graph.leaf_nodes(app)) == 1, f"{app} has more than one newest migration"
        own = [loader.get_migration(*node) for node in loader.graph.nodes if node[0] == app]
        for migration in own:
            before = [name for label, name in migration.dependencies if label == app]
            assert len(before) <= 1, f"{migration} merges two lines"
        assert len(own) == len(list((ROOT / app / "migrations").glob("0*.py")))


def test_migrations_can_be_taken_back() -> None:
    loader = MigrationLoader(None)
    stuck = [
        f"{app}.{name}: {operation}"
        for app, name in loader.graph.nodes
        if app in PACKAGES
        for operation in loader.get_migration(app, name).operations
        if not operation.reversible
    ]
    assert stuck == []


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    # An unpacked archive has no history; its own files are those that are not made here.
    made = {
        ".venv",
        "var",
        "__pycache__",
        ".git",
        ".mypy_cache",
        ".ruff_cache",
        ".pytest_cache",
        ".hypothesis",
    }
    return [
        path for path in ROOT.rglob("*") if path.is_file() and not made & set(path.relative_to(ROOT).parts)
    ]


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    places = [re.escape(f"{ROOT}/"), re.escape(f"{Path.home()}/"), r"(?<![\w.])/(?:home|Users)/\w"]
    folder = re.compile("|".join(places))
    found = [
        str(path.relative_to(ROOT))
        for path in tracked_files()
        if path.suffix not in {".png", ".woff2"}
        and folder.search(path.read_text(encoding="utf-8", errors="ignore"))
    ]
    assert found == []


def test_only_the_given_packages_are_at_the_top() -> None:
    packages = {
        path.parts[0] for path in (file.relative_to(ROOT) for file in tracked_files()) if path.suffix == ".py"
    }
    assert packages <= {"manage.py", "keyvault", "rotation", "tests", "benchmarks", "docs", "templates"}


def test_the_exported_requirements_are_those_of_the_lock() -> None:
    files_for_pip = [ROOT / "requirements" / name for name in ("dev.txt", "bench.txt")]
    exported = "\n".join(path.read_text(encoding="utf-8") for path in files_for_pip)
    pinned = dict(re.findall(r"^([a-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", exported, re.MULTILINE))
    lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
    locked: dict[str, set[str]] = {}
    hashes: set[str] = set()
    for package in lock["package"]:
        locked.setdefault(package["name"], set()).add(package["version"])
        files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
        hashes |= {file["hash"] for file in files}
    assert pinned.keys() == locked.keys() - {"keyturn"}
    assert {name for name, version in pinned.items() if version not in locked[name]} == set()
    assert set(re.findall(r"--hash=(\S+)", exported)) <= hashes


def test_every_variable_of_the_settings_has_a_line_in_the_example() -> None:
    text = (ROOT / "keyvault" / "project" / "settings.py").read_text(encoding="utf-8")
    read = set(re.findall(r'env\.\w+\(\s*"([A-Z_]+)"', text)) - {"KEYTURN_DEFAULT_URL", "KEYTURN_ENV_FILE"}
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert {name for name in read if not re.search(rf"^#? ?{name}=", example, re.MULTILINE)} == set()
