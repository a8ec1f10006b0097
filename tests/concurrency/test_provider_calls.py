"""Many workers at one provider: the cap holds, and of those that would try a silent provider one goes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from rotation import operations
from rotation.models import Breaker, Operation
from tests.integration.furniture import at_once, raised, returned
from tests.stories.test_faults_provider import fleet
from tests.stories.world import World

pytestmark = [pytest.mark.postgresql, pytest.mark.django_db(transaction=True)]

WORKERS = 12


def claim_all(w: World, asked: list[Operation]) -> list[Operation]:
    outcomes = at_once(*(lambda one=one: operations.claim(one.id, w.now) for one in asked))
    assert not raised(outcomes), raised(outcomes)
    return [taken for taken in returned(outcomes) if taken is not None]


def test_no_more_workers_call_a_provider_than_may(world: Callable[..., World], settings: Any) -> None:
    settings.KEYTURN_PROVIDER_CALLS = 3
    w = world()
    asked = fleet(w, WORKERS)
    assert len(claim_all(w, asked)) == 3
    assert Operation.objects.filter(state="running").count() == 3
    assert Operation.objects.filter(outcome="provider_busy", tries=0).count() == WORKERS - 3


def test_one_worker_alone_tries_a_silent_provider(world: Callable[..., World], settings: Any) -> None:
    settings.KEYTURN_PROVIDER_CALLS = WORKERS
    w = world()
    asked = fleet(w, WORKERS)
    Breaker.objects.create(provider=w.provider, failures=5, pauses=1, open_until=w.now - timedelta(seconds=1))
    (trial,) = claim_all(w, asked)
    assert Breaker.objects.get(provider=w.provider).trial == trial.id
    assert Operation.objects.filter(outcome="provider_down", tries=0).count() == WORKERS - 1
