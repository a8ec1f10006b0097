"""What is good for a moment only: long enough to be found good, however slow the machine is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from keyvault import clock

Made = TypeVar("Made")


def good_at_first(make: Callable[[int], Made], good: Callable[[Made], bool]) -> Made:
    """Something that lasts so many seconds and was found good within them; more, where that took longer."""
    for seconds in (3, 12, 48):
        ends = clock.now() + timedelta(seconds=seconds)
        made = make(seconds)
        found = good(made)
        if clock.now() < ends:
            assert found
            return made
    raise AssertionError("nothing is found good within three quarters of a minute")
