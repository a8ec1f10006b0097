"""What comes from others: few packages, each with a reason, a hash and a licence that allows its use."""

from __future__ import annotations

import re
from pathlib import Path

from tests import dependencies
from tests.conftest import Tell

ROOT = Path(__file__).resolve().parents[3]
MOST_DIRECT = 30
ALLOWED = re.compile(r"MIT|BSD|Apache|MPL|Mozilla|LGPL-3\.0|PSF-2\.0")


def test_few_packages_are_chosen_and_each_has_a_reason(tell: Tell) -> None:
    text = (ROOT / "pyproject.toml").read_text()
    section = text[text.index("\ndependencies = [") : text.index("[project.scripts]")]
    named = re.findall(r'"([A-Za-z0-9-]+)[^"]*[<>=][^"]*"', section)
    assert set(dependencies.direct()) == set(named)
    assert len(named) <= MOST_DIRECT
    tell("runtime packages", {"direct": len(named), "in all": len(dependencies.everything())})


def test_every_licence_allows_its_use() -> None:
    found = {name: dependencies.licence(name) for name in dependencies.everything()}
    odd = {name: text for name, text in found.items() if text is not None and not ALLOWED.search(text)}
    assert odd == {}


def test_the_list_of_packages_is_up_to_date() -> None:
    assert dependencies.PAGE.read_text() == dependencies.page(), "run: make requirements"


def test_every_package_is_pinned_by_its_hash() -> None:
    for name in ("dev.txt", "bench.txt"):
        lines = (ROOT / "requirements" / name).read_text().replace("\\\n", "").splitlines()
        pinned = [line for line in lines if line and not line.startswith(("#", " ", "-"))]
        assert pinned
        assert [line.split()[0] for line in pinned if "==" not in line or "--hash=sha256:" not in line] == []
