"""A provider that is slow, down or overrun: it is asked less, people see why, and no try is spent."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from keyvault.actors import SYSTEM
from keyvault.models import AuditEvent, KeyVersion
from keyvault.services import catalogue, keys
from rotation import breaker, calling, operations
from rotation.facts import Kind
from rotation.models import Breaker, Operation, Rotation
from rotation.services import drifting, emergencies, starting
from tests.stories.world import World

Build = Callable[..., World]


def fleet(w: World, size: int) -> list[Operation]:
    """More keys at the provider of this world, each asking for its next version now."""
    asked = []
    for number in range(size):
        service = catalogue.create_service(
            SYSTEM,
            slug=f"{w.service.slug}-{number}",
            team=w.team,
            provider=w.provider,
            description="",
            now=w.now,
        )
        key = keys.create_key(SYSTEM, service, w.environment, now=w.now)
        made = w.control.create_key(f"first-{number}")
        keys.import_first(SYSTEM, key, made.value, provider_key_id=made.id, now=w.now)
        rotation = starting.start(SYSTEM, key, policy=w.policy, now=w.now, ring=lambda _: None)
        asked.append(Operation.objects.get(rotation=rotation, kind=Kind.ISSUE))
    return asked


def calls(w: World) -> int:
    total = w.control.counters()["total"]
    assert isinstance(total, int)
    return total


# The breaker ----------------------------------------------------------------------------------------


def down(w: World) -> Operation:
    """Run until the provider, which answers nothing but 503, is left alone. Returns the held verify."""
    w.control.set_fault(error_rate=1.0, error_status=503)
    w.start()
    w.run(lambda: breaker.is_open(w.provider, w.now), step=1, traffic=False)
    verify = Operation.objects.get(rotation=w.rotation, kind=Kind.VERIFY)
    # Its own wait may be longer than the pause; here it comes back at once.
    Operation.objects.filter(pk=verify.pk).update(retry_at=w.now)
    w.run(lambda: w.rotation.waiting_code == "provider_down", step=1, most=20, traffic=False)
    verify.refresh_from_db()
    return verify


def test_a_provider_that_does_not_answer_is_left_alone_and_people_see_why(world: Build) -> None:
    w = world()
    verify = down(w)
    assert verify.state == "pending"
    assert verify.tries == breaker.FAILURES_TO_OPEN
    assert w.provider.slug in w.rotation.waiting_for
    assert "does not answer" in w.rotation.waiting_for
    assert w.rotation.attention == ""
    row = Breaker.objects.get(provider=w.provider)
    assert row.open_until is not None
    asked = calls(w)
    while w.now + timedelta(seconds=1) < row.open_until:
        w.tick(1, traffic=False)
    assert calls(w) == asked, "not one call while the breaker is open"
    verify.refresh_from_db()
    assert verify.tries == breaker.FAILURES_TO_OPEN, "what is held back keeps its tries"


def test_it_is_asked_again_by_one_trial_and_goes_on_when_that_is_answered(world: Build) -> None:
    w = world()
    verify = down(w)
    first = Breaker.objects.get(provider=w.provider)
    w.run(lambda: Operation.objects.get(pk=verify.pk).tries == 6, step=5, traffic=False)
    again = Breaker.objects.get(provider=w.provider)
    assert (again.pauses, again.failures) == (first.pauses + 1, first.failures + 1)
    w.control.clear_faults()
    w.run_to("shift", traffic=False)
    closed = Breaker.objects.get(provider=w.provider)
    assert (closed.failures, closed.pauses, closed.open_until) == (0, 0, None)


def test_a_trial_is_one_call_and_one_that_dies_makes_room_for_another(world: Build) -> None:
    w = world()
    first, second = fleet(w, 2)
    Breaker.objects.create(provider=w.provider, failures=5, pauses=1, open_until=w.now)
    assert operations.claim(first.id, w.now) is not None
    assert operations.claim(second.id, w.now) is None
    second.refresh_from_db()
    assert (second.state, second.outcome, second.tries) == ("pending", "provider_down", 0)
    w.now += breaker.TRIAL + timedelta(seconds=breaker.SPREAD)
    assert operations.claim(second.id, w.now) is not None


def test_late_news_of_an_outage_does_not_lengthen_the_pause(world: Build) -> None:
    w = world()
    for _ in range(breaker.FAILURES_TO_OPEN):
        breaker.note(w.provider, w.now, reached=False)
    before = Breaker.objects.values().get(provider=w.provider)
    for _ in range(5):
        breaker.note(w.provider, w.now + timedelta(seconds=1), reached=False)
    assert Breaker.objects.values().get(provider=w.provider) == before


def test_pauses_double_up_to_five_minutes_with_jitter() -> None:
    for pauses, most in ((1, 60), (2, 120), (3, 240), (6, 300), (60, 300)):
        drawn = {breaker.pause(pauses).total_seconds() for _ in range(200)}
        assert most / 2 <= min(drawn) < max(drawn) <= most
        assert len(drawn) > 100, "a herd must not come back at the same instant"


def test_one_answer_forgives_the_failures_before(world: Build) -> None:
    w = world()
    for _ in range(3):
        for _ in range(breaker.FAILURES_TO_OPEN - 1):
            breaker.note(w.provider, w.now, reached=False)
        breaker.note(w.provider, w.now, reached=True)
    assert not breaker.is_open(w.provider, w.now)


def test_a_leaked_key_is_revoked_although_the_breaker_is_open(world: Build) -> None:
    w = world()
    Breaker.objects.create(provider=w.provider, failures=9, pauses=3, open_until=w.now + timedelta(minutes=5))
    emergencies.emergency(
        SYSTEM, w.key, mode="kill", reason="leaked", typed=str(w.key), now=w.now, ring=w.rung.append
    )
    w.tick(1, traffic=False)
    assert not w.honoured(1)
    assert not breaker.is_open(w.provider, w.now), "its answer is good news for all"


def test_a_leaked_key_that_was_rolled_back_is_revoked_although_the_breaker_is_open(world: Build) -> None:
    w = world()
    w.start()
    w.run(lambda: w.rotation.stage == "shift")
    shut = {"failures": 9, "pauses": 3, "open_until": w.now + timedelta(minutes=5)}
    Breaker.objects.update_or_create(provider=w.provider, defaults=shut)
    emergencies.emergency(
        SYSTEM, w.key, mode="replace", version=2, reason="leaked", now=w.now, ring=w.rung.append
    )
    for _ in range(3):
        w.tick(1, traffic=False)
    assert not w.honoured(2)
    assert w.honoured(1)


def test_calls_for_a_leaked_new_key_have_the_lane_of_leaked_ones(world: Build, settings: Any) -> None:
    settings.KEYTURN_PROVIDER_CALLS = 1
    w = world()
    calm, leaked = fleet(w, 2)
    assert operations.claim(calm.id, w.now) is not None
    KeyVersion.objects.filter(introduced_in=leaked.rotation).update(compromised_at=w.now)
    assert operations.claim(leaked.id, w.now) is not None


# The cap --------------------------------------------------------------------------------------------


def test_no_more_calls_are_under_way_than_the_setting_says(world: Build, settings: Any) -> None:
    settings.KEYTURN_PROVIDER_CALLS = 3
    w = world()
    asked = fleet(w, 5)
    taken = [operations.claim(one.id, w.now) for one in asked]
    assert [one is not None for one in taken] == [True] * 3 + [False] * 2
    late = Operation.objects.get(pk=asked[4].pk)
    assert (late.state, late.outcome, late.tries) == ("pending", "provider_busy", 0)
    assert late.retry_at is not None
    assert w.now < late.retry_at <= w.now + timedelta(seconds=breaker.SPREAD)


def test_a_look_for_drift_takes_one_of_the_places(world: Build, settings: Any) -> None:
    settings.KEYTURN_PROVIDER_CALLS = 3
    w = world()
    asked = fleet(w, 4)
    breaker.begin_look(w.provider, w.now)
    taken = [operations.claim(one.id, w.now) for one in asked]
    assert [one is not None for one in taken] == [True] * 2 + [False] * 2
    later = w.now + breaker.LOOK
    assert operations.claim(asked[2].id, later) is not None, "a look that died holds no place for ever"

    settings.KEYTURN_PROVIDER_CALLS = 1
    Operation.objects.update(state="pending", lease_until=None, retry_at=w.now)
    breaker.begin_look(w.provider, w.now)
    assert operations.claim(asked[0].id, w.now) is not None, "the only place is left to rotations"
    drifting.check(w.provider, w.now)
    assert Breaker.objects.get(provider=w.provider).looking_until is None


def test_who_waits_for_the_cap_goes_as_soon_as_a_call_ends(world: Build, settings: Any) -> None:
    settings.KEYTURN_PROVIDER_CALLS = 1
    w = world()
    first, second = fleet(w, 2)
    slow = operations.claim(first.id, w.now)
    assert slow is not None
    assert not operations.perform(second.id, w.now, ring=w.rung.append)
    assert operations.settle(slow.id, slow.fence, operations.call(slow, w.now), w.now, ring=w.rung.append)
    w.rung.clear()
    third = fleet_of_one(w)
    assert operations.perform(third.id, w.now, ring=w.rung.append)
    assert second.id in w.rung, "the end of a call rings for the one that waits"
    w.work()
    assert Operation.objects.get(pk=second.pk).state == "done"


def fleet_of_one(w: World) -> Operation:
    rotation = starting.start(SYSTEM, w.key, policy=w.policy, now=w.now, ring=lambda _: None)
    return Operation.objects.get(rotation=rotation, kind=Kind.ISSUE)


def test_emergencies_do_not_stand_behind_others(world: Build, settings: Any) -> None:
    settings.KEYTURN_PROVIDER_CALLS = 2
    w = world()
    for one in fleet(w, 2):
        assert operations.claim(one.id, w.now) is not None
    rotation = emergencies.emergency(
        SYSTEM, w.key, mode="kill", reason="leaked", typed=str(w.key), now=w.now, ring=lambda _: None
    )
    revoke = Operation.objects.get(rotation=rotation, kind=Kind.REVOKE)
    assert operations.perform(revoke.id, w.now, ring=lambda _: None)
    assert not w.honoured(1)


def test_a_dead_worker_does_not_hold_its_place_for_ever(world: Build, settings: Any) -> None:
    settings.KEYTURN_PROVIDER_CALLS = 1
    w = world()
    first, second = fleet(w, 2)
    assert operations.claim(first.id, w.now) is not None
    w.now += operations.LEASE + timedelta(seconds=1)
    assert operations.claim(second.id, w.now) is not None


# Waiting as told, and no longer than the budget -------------------------------------------------------


def _issue(w: World) -> Operation:
    return Operation.objects.get(rotation=w.rotation, kind=Kind.ISSUE)


def test_a_retry_after_that_is_a_date_is_honoured(world: Build) -> None:
    w = world()
    w.control.set_fault(planes=["manage"], retry_after=http_date(w, seconds=120))
    w.start()
    w.tick(1, traffic=False)
    issue = _issue(w)
    assert issue.outcome == "rate_limited"
    assert issue.retry_at is not None
    assert timedelta(seconds=100) < issue.retry_at - w.now < timedelta(seconds=130)


def http_date(w: World, *, seconds: int) -> str:
    """An HTTP date by the provider's own clock, against which it is measured."""
    from email.utils import formatdate

    return formatdate(w.control.truth.clock() + seconds, usegmt=True)


def test_a_huge_retry_after_is_capped(world: Build) -> None:
    w = world()
    w.control.set_fault(planes=["manage"], retry_after=10**9)
    w.start()
    w.tick(1, traffic=False)
    issue = _issue(w)
    assert issue.retry_at is not None
    most = timedelta(seconds=calling.LONGEST_WAIT)
    assert most <= issue.retry_at - w.now <= most + timedelta(seconds=calling.LONGEST_DELAY)


def test_retries_are_spread_by_full_jitter_within_their_bounds() -> None:
    for tries in range(1, 12):
        drawn = [calling.backoff(tries).total_seconds() for _ in range(300)]
        most = min(calling.LONGEST_DELAY, 2.0**tries)
        assert 0.2 <= min(drawn) <= most / 3 + 0.2
        assert most / 2 <= max(drawn) <= most
    waits = [calling.backoff(1, 60.0).total_seconds() for _ in range(300)]
    assert min(waits) >= 60.0
    assert max(waits) - min(waits) > 0.5, "those that were told the same second do not all come back in it"


def test_a_spent_budget_is_a_persons_business_exactly_once(world: Build) -> None:
    w = world()
    w.control.set_fault(planes=["manage"], retry_after=1)
    w.start()
    w.run(lambda: w.rotation.attention == "unreachable", step=60, traffic=False)
    assert _issue(w).tries == calling.MOST_TRIES
    for _ in range(20):
        w.tick(60, traffic=False)
    assert _issue(w).tries == calling.MOST_TRIES, "nobody is asked any more"
    told = AuditEvent.objects.filter(name="rotation:attention", subject=str(w.rotation.id))
    assert [event.details["code"] for event in told] == ["unreachable"]
    w.control.clear_faults()
    w.verb("resume")
    w.run_to("shift")
    assert Rotation.objects.filter(key=w.key_id).count() == 1
