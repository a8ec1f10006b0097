"""What README promises is shown by tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_promise_names_tests_that_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text[text.index("## What it promises") : text.index("## Where things are")]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 15
    for promise, shown, counted in rows:
        paths = re.findall(r"`([^`]+)`", shown)
        assert paths, promise
        assert [path for path in paths if not (ROOT / path).exists()] == [], promise
        assert counted.strip(), promise
