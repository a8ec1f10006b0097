"""The catalogue of bad inputs against the running server: each row, with all that it lists."""

from __future__ import annotations

import pytest

from tests.api.conftest import Server
from tests.api.delivery.world import World, build
from tests.conftest import Tell
from tests.inputs.rows import CATALOGUE
from tests.inputs.table import Row, Table, new_person
from tests.inputs.written import mark

_worlds: dict[Server, World] = {}


@pytest.fixture
def table(installed: Server) -> Table:
    """One consumer for all rows, and a new administrator for each, who is not limited by those before."""
    if installed not in _worlds:
        _worlds[installed] = build(installed)
    return Table(_worlds[installed], new_person())


def test_every_row_of_the_catalogue_is_asked() -> None:
    assert [row.id for row in CATALOGUE] == [f"B{number:02}" for number in range(1, 66)]


@pytest.mark.parametrize("row", CATALOGUE, ids=lambda row: f"{row.id} {row.title}")
def test_a_bad_input_gets_its_answer_and_changes_nothing(row: Row, table: Table, tell: Tell) -> None:
    before: list[object] = []
    row.run(table, lambda: before.extend(mark()))
    if not row.writes:
        assert mark() == before
    assert table.consumer("GET", "/v1/auth/whoami/").status == 200
    tell("bad inputs", {row.id: table.counted})
