"""The nightly look: what a provider knows of our keys, and what people are told of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction

from keyvault.actors import SYSTEM
from keyvault.models import AuditEvent, KeyVersion
from keyvault.services import keys
from rotation.facts import Kind
from rotation.models import Breaker, Finding, Operation
from rotation.services import channels, drifting
from rotation.simulators import RunningSimulator
from tests.stories.conftest import BRISK
from tests.stories.world import World

Build = Callable[..., World]


def look(w: World) -> list[tuple[str, int | None, str]]:
    w.provider.refresh_from_db()
    rows = drifting.check(w.provider, w.now)
    return sorted((row.kind, row.version.number if row.version else None, row.label) for row in rows)


def audited(name: str) -> int:
    return AuditEvent.objects.filter(name=name).count()


def replaced(w: World) -> World:
    """As after a rotation: version 1 is revoked, version 2 lives."""
    made = w.control.create_key("second")
    with transaction.atomic():
        key = keys.lock_key(w.key_id)
        old, new = key.current, keys.request_version(SYSTEM, key, now=w.now)
        assert old is not None
        keys.fill_version(SYSTEM, key, new, made.value, provider_key_id=made.id, imported=False, now=w.now)
        keys.offer(SYSTEM, key, new, salt=b"s" * 32, canaries=(), pinned=(), refresh_seconds=10, now=w.now)
        keys.promote(SYSTEM, key, now=w.now)
        keys.retire_previous(SYSTEM, key, now=w.now)
        old.key = key
        keys.mark_revoked(SYSTEM, key, old, now=w.now)
    w.control.revoke(old.provider_key_id)
    return w


@pytest.fixture
def rotated(world: Build) -> World:
    return replaced(world())


@pytest.fixture
def by_hand(db: None, dashboard: RunningSimulator, settings: Any) -> World:
    """The same at a provider that cannot list."""
    return replaced(World(dashboard, settings, policy=BRISK, driver="manual"))


def without_list(w: World) -> None:
    w.provider.driver_config = {k: v for k, v in w.provider.driver_config.items() if k != "list"}
    w.provider.save()


def without_probe(w: World) -> None:
    w.provider.probe = None
    w.provider.save()


def test_agreement_finds_nothing(rotated: World) -> None:
    assert look(rotated) == []


def test_agreement_of_a_provider_that_cannot_list_finds_nothing(by_hand: World) -> None:
    assert look(by_hand) == []


def test_a_key_that_died_at_the_provider_is_found_and_gone_when_it_lives(rotated: World) -> None:
    w = rotated
    w.control.revoke(w.version(2).provider_key_id)
    assert look(w) == [("missing", 2, "")]
    assert look(w) == [("missing", 2, "")]
    assert audited("drift:found") == 1, "told when it appears, not every night"
    resurrect(w, 2)
    assert look(w) == []
    assert audited("drift:gone") == 1
    assert Finding.objects.get().gone_at == w.now


def test_who_owns_the_key_is_told_of_a_difference_once(rotated: World) -> None:
    w = rotated
    own = channels.create_channel(
        SYSTEM, slug="own", team=w.team, kind="mail", url=None, fields={"addresses": ["a@b.test"]}, now=w.now
    ).channel
    assert look(w) == []
    w.control.revoke(w.version(2).provider_key_id)
    look(w)
    look(w)
    facts = own.notices.get(kind="drift.found").facts
    assert (facts["code"], facts["outgoing"], facts["reason"]) == ("missing", 2, "the provider refuses it")


def test_a_probe_has_the_last_word_over_a_list_that_is_late(rotated: World) -> None:
    w = rotated
    version = w.version(2)
    assert KeyVersion.objects.filter(pk=version.pk).update(provider_key_id="key_that_is_not_listed") == 1
    found = look(w)
    assert [kind for kind, _, _ in found] == ["unowned"], "honoured, so it is not missing"


def test_without_a_probe_the_list_decides(rotated: World) -> None:
    w = rotated
    without_probe(w)
    w.control.revoke(w.version(2).provider_key_id)
    assert look(w) == [("missing", 2, "")]


def resurrect(w: World, number: int) -> None:
    """The provider honours a key again that it had revoked."""
    key = w.control.truth.find(w.secret(number).expose())
    assert key is not None
    key.state, key.refused_from = "live", None


@pytest.mark.parametrize("can", ["list", "list only", "probe only"])
def test_a_key_that_should_be_dead_and_is_not_is_found(rotated: World, can: str) -> None:
    w = rotated
    if can == "probe only":
        without_list(w)
    if can == "list only":
        without_probe(w)
    resurrect(w, 1)
    assert look(w) == [("undead", 1, "")]
    w.control.revoke(w.version(1).provider_key_id)
    assert look(w) == []


def test_a_provider_that_cannot_list_is_probed_for_both(by_hand: World) -> None:
    w = by_hand
    resurrect(w, 1)
    w.control.revoke(w.version(2).provider_key_id)
    assert look(w) == [("missing", 2, ""), ("undead", 1, "")]


def test_old_revokes_are_not_probed_for_ever(by_hand: World) -> None:
    w = by_hand
    resurrect(w, 1)
    w.now += timedelta(days=8)
    assert look(w) == []


def test_a_key_that_nobody_owns_is_shown_and_never_touched(rotated: World) -> None:
    w = rotated
    w.control.create_key("somebody's")
    w.control.create_key("keyturn-0123456789-1")
    views = w.control.keys
    before = [(view.id, view.state) for view in views()]
    assert look(w) == [("unowned", None, "keyturn-0123456789-1"), ("unowned", None, "somebody's")]
    details = dict(Finding.objects.values_list("label", "detail"))
    assert "never reached us" in details["keyturn-0123456789-1"]
    assert "not held here" in details["somebody's"]
    assert [(view.id, view.state) for view in views()] == before


def test_two_strangers_with_one_label_are_two_findings_each_night(rotated: World) -> None:
    w = rotated
    for _ in range(2):
        w.control.create_key("twin")
    assert len(look(w)) == 2
    assert len(look(w)) == 2
    assert Finding.objects.count() == 2


def test_a_key_that_is_being_issued_is_nobodys_yet_and_no_finding(world: Build) -> None:
    w = world()
    w.start()
    w.control.create_key(Operation.objects.get(rotation=w.rotation, kind=Kind.ISSUE).label)
    assert look(w) == []


def test_what_a_rotation_holds_in_its_hands_is_left_to_it(world: Build) -> None:
    w = world()
    w.start()
    w.control.revoke(w.version(1).provider_key_id)
    assert look(w) == []


def test_no_clear_answer_is_no_difference_and_keeps_what_was_found(rotated: World) -> None:
    w = rotated
    w.control.revoke(w.version(2).provider_key_id)
    assert look(w) == [("missing", 2, "")]
    w.control.set_fault(error_rate=1.0, planes=["data"])
    assert look(w) == [("missing", 2, "")]
    w.control.set_fault(error_rate=1.0, planes=["data", "manage"])
    assert look(w) == [("missing", 2, ""), ("unchecked", None, "")]
    w.control.clear_faults()
    assert look(w) == [("missing", 2, "")]


def test_a_provider_that_is_left_alone_is_not_asked(rotated: World) -> None:
    w = rotated
    Breaker.objects.update_or_create(
        provider=w.provider, defaults={"failures": 5, "open_until": w.now + timedelta(minutes=1)}
    )
    asked = w.control.counters()["total"]
    assert look(w) == [("unchecked", None, "")]
    assert w.control.counters()["total"] == asked


def test_destroyed_keys_are_dead_too(rotated: World) -> None:
    w = rotated
    resurrect(w, 1)
    keys.mark_destroyed(SYSTEM, w.key, w.version(1), now=w.now)
    assert look(w) == [("undead", 1, "")], "its secret is gone, but the list still shows it"


def test_keys_that_we_issue_ourselves_need_no_look(rotated: World) -> None:
    w = rotated
    assert [provider.slug for provider in drifting.providers()] == [w.provider.slug]
    w.provider.driver, w.provider.driver_config = "generated", {}
    w.provider.save()
    assert drifting.providers() == []


def test_the_command_prints_what_was_found(rotated: World) -> None:
    w = rotated
    w.control.create_key("somebody's")
    out = StringIO()
    call_command("drift", w.provider.slug, as_json=True, stdout=out)
    (row,) = json.loads(out.getvalue())
    assert (row["kind"], row["label"]) == ("unowned", "somebody's")
    out = StringIO()
    call_command("drift", stdout=out)
    assert "unowned: somebody's: it is not held here" in out.getvalue()
    with pytest.raises(CommandError, match="nowhere"):
        call_command("drift", "nowhere")
