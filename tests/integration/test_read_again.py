"""What a change took from the memory of a process is read again at once, not when the next caller asks."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from keyvault.delivery import workers
from keyvault.delivery.plane import Plane
from keyvault.delivery.records import TokenRecord
from keyvault.models import ConsumerToken
from tests.integration.furniture import PATIENCE, furnish

pytestmark = [pytest.mark.once, pytest.mark.django_db(transaction=True)]


@pytest.mark.parametrize("asked", [True, False])
def test_a_row_that_was_asked_for_comes_back_after_its_change(asked: bool, transactional_db: None) -> None:
    token, _ = furnish().reader()
    name = bytes(token.digest)

    async def story() -> None:
        plane = Plane()
        try:
            await plane.load("token", name)
            before = held(plane)
            before.asked = asked
            await workers.run(change)
            # Another caller's miss makes the process look, and so learn of the change.
            await plane.load("token", b"somebody else".ljust(32))
            assert before.stale
            if plane._looking is not None:
                await asyncio.wait_for(plane._looking, PATIENCE)
            assert (name in plane.cache.tokens) is asked
            assert not asked or held(plane).hint == "changed"
        finally:
            await plane.close()
            workers.shut_down()

    def change() -> None:
        ConsumerToken.objects.filter(pk=token.pk).update(hint="changed")

    def held(plane: Plane) -> TokenRecord:
        return cast(TokenRecord, plane.cache.tokens._rows[name])

    asyncio.run(story())
