"""Write docs/dependencies.md: what Keyturn needs at run time, why, and under which licences.

``python -m tests.dependencies`` and ``make requirements`` write it; a test compares.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "dependencies.md"

_LINE: Final = re.compile(r'^\s*(?:\w+ = \[)?"(?P<name>[A-Za-z0-9-]+)[^"]*"\]?,?\s*#\s*(?P<why>.+)$')
_HEAD: Final = """# What Keyturn depends on

Written by `make requirements`; versions and hashes are pinned in `uv.lock` and `requirements/dev.txt`, and
`make sbom` writes a CycloneDX list of them.

## Chosen by us

| Package | For | Licence |
|---|---|---|
"""
_REST: Final = """
## Brought along by those

| Package | Licence |
|---|---|
"""


def direct() -> dict[str, str]:
    """Name and reason of every dependency that pyproject.toml names, extras included."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text[text.index("\ndependencies = [") : text.index("[project.scripts]")]
    found = (_LINE.match(line) for line in section.splitlines())
    return {match["name"]: match["why"] for match in found if match}


def everything() -> dict[str, bool]:
    """Every package of a production installation with all extras, by uv.lock: whether it is always needed.

    Some are needed only on some platforms or by some versions of Python.
    """
    packages: dict[str, Any] = {
        package["name"]: package
        for package in tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    }
    found: dict[str, bool] = {}
    seen: set[tuple[str, str, bool]] = set()

    def walk(name: str, extra: str, always: bool) -> None:
        if (name, extra, always) in seen:
            return
        seen.add((name, extra, always))
        package = packages[name]
        named = package.get("optional-dependencies", {}).get(extra, ()) if extra else ()
        for dependency in (*package.get("dependencies", ()), *named):
            inner, needed = dependency["name"], always and "marker" not in dependency
            found[inner] = found.get(inner, False) or needed
            for wanted in dependency.get("extra", [""]):
                walk(inner, wanted, needed)

    for extra in packages["keyturn"].get("optional-dependencies", {}):
        walk("keyturn", extra, True)
    return dict(sorted(found.items()))


def licence(name: str) -> str | None:
    """What the package says of itself; None where it is not installed on this platform."""
    try:
        told = metadata(name)
    except PackageNotFoundError:
        return None
    expression, short = (" ".join(told.get_all(name) or ()) for name in ("License-Expression", "License"))
    classified = [
        line.rpartition("::")[2].strip() for line in told.get_all("Classifier") or () if "License ::" in line
    ]
    plain = short if short and len(short) <= 40 and "\n" not in short and short != "Dual License" else ""
    return expression or plain or ", ".join(classified)


def page() -> str:
    chosen = direct()
    return _HEAD + "\n".join(_chosen(chosen)) + "\n" + _REST + "\n".join(_brought(chosen)) + "\n"


def _chosen(chosen: dict[str, str]) -> Iterator[str]:
    for name, why in chosen.items():
        yield f"| {name} | {why} | {licence(name)} |"


def _brought(chosen: dict[str, str]) -> Iterator[str]:
    for name, always in everything().items():
        if name not in chosen:
            yield f"| {name} | {licence(name) if always else 'needed on some platforms only'} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
