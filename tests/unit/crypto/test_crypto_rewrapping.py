from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from keyvault.crypto.envelope import Context, KeyServiceUnavailable, open_sealed, seal
from keyvault.crypto.keyring import Keyring
from keyvault.crypto.rewrapping import RewrapItem, RewrapOutcome, needs_rewrap, rewrap_each
from keyvault.crypto.secret import Secret


def contexts(count: int) -> list[Context]:
    return [Context("i", "key-version", "s", "e", "k", f"version-{number}") for number in range(count)]


def test_rows_move_to_the_primary_and_a_broken_one_stops_nobody(tmp_path: Path) -> None:
    keks = Keyring.create_file(tmp_path / "keyring", ["prod"])
    old = keks.primary("prod")
    rows = [
        (context, seal(Secret(context.version), context, environment="prod", keks=keks))
        for context in contexts(5)
    ]
    keks.promote("prod", keks.add("prod"))
    new = keks.primary("prod")
    current = seal(Secret("version-4"), rows[4][0], environment="prod", keks=keks)
    items = [
        RewrapItem(0, rows[0][1], rows[0][0]),
        RewrapItem(1, replace(rows[1][1], ciphertext=rows[0][1].ciphertext), rows[1][0]),
        RewrapItem(2, replace(rows[2][1], kid="prod-gone"), rows[2][0]),
        RewrapItem(3, rows[3][1], rows[3][0]),
        RewrapItem(4, current, rows[4][0]),
    ]
    assert [needs_rewrap(item.sealed.kid, environment="prod", keks=keks) for item in items] == [True] * 4 + [
        False
    ]
    results = list(rewrap_each(items, environment="prod", keks=keks))
    assert [(result.row, result.outcome) for result in results] == [
        (0, RewrapOutcome.REWRAPPED),
        (1, RewrapOutcome.BROKEN),
        (2, RewrapOutcome.UNAVAILABLE),
        (3, RewrapOutcome.REWRAPPED),
        (4, RewrapOutcome.CURRENT),
    ]
    for item, result in zip(items, results, strict=True):
        assert result.sealed.ciphertext == item.sealed.ciphertext
        if result.outcome is not RewrapOutcome.REWRAPPED:
            assert result.sealed == item.sealed

    keks.retire("prod", old)
    for row in (0, 3, 4):
        assert results[row].sealed.kid == new
        opened = open_sealed(results[row].sealed, rows[row][0], environment="prod", keks=keks)
        assert opened.expose() == f"version-{row}"


def test_an_environment_that_is_not_held_cannot_be_rewrapped(keks: Keyring) -> None:
    with pytest.raises(KeyServiceUnavailable):
        list(rewrap_each([], environment="staging", keks=keks))
    with pytest.raises(KeyServiceUnavailable):
        needs_rewrap("staging-1", environment="staging", keks=keks)
