"""How the demo shortens the policy."""

from __future__ import annotations

from datetime import timedelta

import pytest

from keyvault.project.demo.pace import USUAL, Pace, document
from rotation.policy import EMERGENCY, STANDARD, from_json

pytestmark = pytest.mark.once


def test_at_the_usual_pace_a_day_takes_seconds() -> None:
    assert Pace().policy().monitor == timedelta(days=1) / USUAL
    assert Pace(2).policy().monitor == timedelta(days=1) / USUAL / 2


def test_the_demo_keeps_every_step_of_the_standard_policy() -> None:
    assert [step.weight for step in Pace().policy().steps] == [step.weight for step in STANDARD.steps]
    assert Pace().policy().interval == STANDARD.interval


def test_no_time_falls_below_what_consumers_need() -> None:
    policy = Pace(1e9).policy()
    assert min(step.hold for step in policy.steps) >= timedelta(seconds=1)
    assert policy.monitor >= timedelta(seconds=1)
    assert policy.window >= 3 * policy.refresh
    assert policy.deadline >= timedelta(minutes=10)
    assert policy.quiet_needed > timedelta(seconds=Pace(1e9).token_seconds(600)) + policy.refresh


def test_a_slow_demo_has_the_times_of_life() -> None:
    policy = Pace(1 / USUAL).policy()
    assert (policy.steps, policy.monitor, policy.quiet) == (STANDARD.steps, STANDARD.monitor, STANDARD.quiet)


def test_the_document_for_the_api_reads_back_as_the_policy() -> None:
    pace = Pace(3)
    assert from_json(document(pace.policy())) == pace.policy()
    assert "interval" not in document(pace.policy())
    assert from_json(document(pace.emergency(), EMERGENCY), base=EMERGENCY) == pace.emergency()


def test_what_is_broken_on_the_way_is_broken_before_any_clock_ends_the_wait() -> None:
    pace = Pace(1e9)
    cautious, watchful = pace.cautious(["web-shop"]), pace.watchful()
    (hold,) = [step.hold for step in cautious.steps if step.weight == 25]
    assert min(hold, watchful.monitor).total_seconds() > pace.patience
    assert cautious.canaries == ("web-shop",)
    assert [step.weight for step in cautious.steps] == [step.weight for step in STANDARD.steps]
    assert watchful.steps == pace.policy().steps


def test_an_emergency_takes_seconds_and_keeps_what_makes_it_one() -> None:
    policy = Pace().emergency()
    assert policy.quiet_needed < timedelta(seconds=10)
    assert policy.check_every <= timedelta(seconds=1)
    assert (policy.steps, policy.monitor, policy.cool_off) == (
        EMERGENCY.steps,
        EMERGENCY.monitor,
        EMERGENCY.cool_off,
    )


def test_a_derived_token_lives_whole_seconds_and_never_longer_than_in_life() -> None:
    assert Pace(1).token_seconds(600) == 5
    assert Pace(1 / USUAL).token_seconds(600) == 600
    assert Pace(1 / USUAL * 60).token_seconds(600) == 10


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_speed_is_refused(speed: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Pace(speed)


def test_patience_is_longer_than_the_policy_takes() -> None:
    for speed in (0.01, 1.0, 100.0):
        policy = Pace(speed).policy()
        held = sum((step.hold for step in policy.steps), timedelta())
        least = held + policy.monitor + policy.cool_off
        assert Pace(speed).patience > 2 * least.total_seconds()
