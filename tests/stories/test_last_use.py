"""The provider's own last use of the outgoing key is part of the quiet proof, where it tells."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from rotation.drivers import load_driver
from rotation.drivers.base import OutcomeUnknown
from rotation.facts import Kind, Side
from rotation.models import Operation
from rotation.simulators import start
from rotation.specs import provider_spec
from tests.stories.conftest import BRISK
from tests.stories.world import START, World


@pytest.fixture
def telling(db: None, settings: Any) -> Iterator[World]:
    """A provider that lives in the time of the story, and whose list tells of last uses."""
    here: list[World] = []
    simulator = start("removit", clock=lambda: (here[0].now if here else START).timestamp())
    w = World(simulator, settings, policy=BRISK)
    here.append(w)
    listing = {**w.provider.driver_config["list"], "last_used": "/last_used_at"}
    w.provider.driver_config = {**w.provider.driver_config, "list": listing}
    w.provider.save()
    yield w
    simulator.stop()


def _use_behind_our_back(w: World) -> datetime:
    """Somebody has a copy of the old key and calls the provider with it."""
    truth = w.control.truth
    key = truth.find_by_id(w.version(1).provider_key_id)
    assert key is not None
    truth.record(key, presented=True, status=200)
    return w.now


def _inspections(w: World) -> list[Operation]:
    return list(Operation.objects.filter(rotation=w.rotation, kind=Kind.INSPECT))


def test_our_own_probes_are_no_use(telling: World) -> None:
    w = telling
    w.start()
    w.run_to("monitor")
    assert _inspections(w) == []
    entered = w.now
    w.run_to("revoke")
    assert w.now - entered <= BRISK.monitor + timedelta(minutes=3)
    assert w.rotation.provider_used_at is None
    assert len(_inspections(w)) >= 4
    assert {(one.side, one.outcome) for one in _inspections(w)} == {(Side.OUTGOING, "inspected")}
    reasons = w.rotation.events.filter(name="operation").values_list("reason", flat=True)
    assert not any(reason.startswith("inspect") for reason in reasons), "no line in the timeline each minute"


def test_a_use_that_only_the_provider_saw_holds_the_revoke(telling: World) -> None:
    w = telling
    w.start()
    w.run_to("monitor")
    last = w.now
    for _ in range(80):
        last = _use_behind_our_back(w)
        w.tick()
    assert w.rotation.stage == "monitor"
    assert w.rotation.waiting_code == "quiet"
    assert "the provider: saw v1 used" in w.rotation.waiting_for
    assert w.honoured(1)
    w.run_to("revoke")
    assert w.now - last >= BRISK.quiet - BRISK.probe_every, "as exact as our own calls let it be"
    w.run_to("succeeded")


def test_a_provider_that_stops_telling_holds_the_revoke(telling: World) -> None:
    w = telling
    w.start()
    w.run_to("monitor")
    w.control.set_fault(planes=["manage"], retry_after=5)
    w.run(lambda: w.rotation.waiting_code == "quiet", most=100)
    for _ in range(30):
        w.tick()
    assert w.rotation.stage == "monitor"
    assert "the provider: has not said lately when v1 was last used" in w.rotation.waiting_for
    probed = Operation.objects.filter(rotation=w.rotation, kind=Kind.PROBE, side=Side.OUTGOING).last()
    assert probed is not None
    assert w.now - probed.created_at <= timedelta(minutes=3), "probing does not wait for it"
    w.control.clear_faults()
    w.run_to("succeeded", most=600)


def test_a_list_that_tells_nonsense_is_no_list(telling: World) -> None:
    w = telling
    listing = {**w.provider.driver_config["list"], "last_used": "/name"}
    w.provider.driver_config = {**w.provider.driver_config, "list": listing}
    w.provider.save()

    spec = provider_spec(w.provider, with_admin_secret=True)
    with pytest.raises(OutcomeUnknown):
        load_driver("http").list(spec)
