"""Rewrapping many rows: which need it, and what became of each, without knowing where rows live."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from keyvault.crypto.envelope import Context, Sealed, rewrap
from keyvault.crypto.errors import IntegrityError, KeyServiceUnavailable
from keyvault.crypto.keyring import KekProvider

Row = TypeVar("Row")


class RewrapOutcome(StrEnum):
    """What happened to one row."""

    CURRENT = "current"  # already under the primary; nothing to write
    REWRAPPED = "rewrapped"  # write wrapped_dek and kid where kid is still the old one
    BROKEN = "broken"  # does not open: the row was changed
    UNAVAILABLE = "unavailable"  # its KEK is not held here


@dataclass(frozen=True, slots=True)
class RewrapItem(Generic[Row]):
    """One row to look at; ``row`` is the caller's own handle and comes back as it is."""

    row: Row
    sealed: Sealed
    context: Context


@dataclass(frozen=True, slots=True)
class RewrapResult(Generic[Row]):
    """``sealed`` is what the row should hold now: the old columns unless REWRAPPED."""

    row: Row
    outcome: RewrapOutcome
    sealed: Sealed


def needs_rewrap(kid: str, *, environment: str, keks: KekProvider) -> bool:
    """Tell whether a row under this kid is not yet under the environment's primary."""
    return kid != keks.primary(environment)


def rewrap_each(
    items: Iterable[RewrapItem[Row]], *, environment: str, keks: KekProvider
) -> Iterator[RewrapResult[Row]]:
    """Rewrap row by row; one that does not open is reported and does not stop the others.

    Raises ``KeyServiceUnavailable`` when the environment itself is not held.
    """
    primary = keks.primary(environment)
    for item in items:
        if item.sealed.kid == primary:
            yield RewrapResult(item.row, RewrapOutcome.CURRENT, item.sealed)
            continue
        try:
            moved = rewrap(item.sealed, item.context, environment=environment, keks=keks)
        except IntegrityError:
            yield RewrapResult(item.row, RewrapOutcome.BROKEN, item.sealed)
        except KeyServiceUnavailable:
            yield RewrapResult(item.row, RewrapOutcome.UNAVAILABLE, item.sealed)
        else:
            yield RewrapResult(item.row, RewrapOutcome.REWRAPPED, moved)
