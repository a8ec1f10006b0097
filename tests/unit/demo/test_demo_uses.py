"""The consumers' work at the providers, against the real simulators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from keyvault.crypto.secret import Secret
from keyvault.presets import PROVIDER_PRESETS
from keyvault.project.demo.tokens import BackgroundCutUse
from keyvault.project.demo.uses import (
    BackgroundEraseUse,
    Held,
    RemoveBGVideoUse,
    RemovitUse,
    Seen,
    Use,
    outcome_of,
)
from keyvault.project.demo.wire import Answer
from rotation.simulators import RunningSimulator, running

pytestmark = pytest.mark.once

Fresh = Callable[[Use], Use]

USES: dict[str, Callable[[], Use]] = {
    "backgrounderase": BackgroundEraseUse,
    "removit": RemovitUse,
    "removebgvideo": RemoveBGVideoUse,
    "backgroundcut": lambda: BackgroundCutUse(600),
}


@pytest.fixture
def fresh() -> Iterator[Fresh]:
    """Hangs up in the end for every use that went through it."""
    uses: list[Use] = []

    def keep(use: Use) -> Use:
        uses.append(use)
        return use

    yield keep
    for use in uses:
        use.close()


def held(simulator: RunningSimulator, secret: Secret, version: int = 1) -> Held:
    preset = next(p for p in PROVIDER_PRESETS if p.slug == simulator.control.slug)
    return Held(version, secret, preset.auth_header, preset.auth_scheme, simulator.base_url)


def work(use: Use, key: Held, steps: int) -> list[Seen]:
    return [use.step(key) for _ in range(steps)]


@pytest.mark.parametrize("slug", USES)
def test_a_good_key_works_for_everything_a_consumer_does(slug: str, fresh: Fresh) -> None:
    with running(slug) as simulator:
        seen = work(fresh(USES[slug]()), held(simulator, simulator.control.create_key("a").value), 40)
    assert {one.outcome for one in seen} == {"ok"}
    assert {one.version for one in seen} == {1}


@pytest.mark.parametrize("slug", USES)
def test_a_revoked_key_is_refused_with_401(slug: str, fresh: Fresh) -> None:
    with running(slug) as simulator:
        made = simulator.control.create_key("a")
        simulator.control.revoke(made.id)
        seen = fresh(USES[slug]()).step(held(simulator, made.value))
    assert (seen.outcome, seen.status, seen.key_refused) == ("auth_invalid", 401, True)


@pytest.mark.parametrize("slug", ["removit", "removebgvideo", "backgroundcut"])
def test_every_job_that_is_opened_is_closed_again(slug: str, fresh: Fresh) -> None:
    with running(slug) as simulator:
        seen = work(fresh(USES[slug]()), held(simulator, simulator.control.create_key("a").value), 60)
    opened, closed = sum(s.opened for s in seen), sum(s.closed for s in seen)
    assert opened >= 10
    assert 0 <= opened - closed <= 1


@pytest.mark.parametrize("slug", ["removit", "removebgvideo"])
def test_a_job_is_not_found_under_another_key(slug: str, fresh: Fresh) -> None:
    use = fresh(USES[slug]())
    with running(slug) as simulator:
        assert use.step(held(simulator, simulator.control.create_key("a").value)).opened == 1
        seen = use.step(held(simulator, simulator.control.create_key("b").value, version=2))
    assert (seen.outcome, seen.version, seen.job_version, seen.closed) == ("not_found_job", 2, 1, 1)


@pytest.mark.parametrize("slug", ["removit", "removebgvideo"])
def test_a_consumer_whose_key_was_refused_gives_up_its_job_and_tells_its_version(
    slug: str, fresh: Fresh
) -> None:
    use = fresh(USES[slug]())
    with running(slug) as simulator:
        use.step(held(simulator, simulator.control.create_key("a").value, version=4))
        assert use.give_up() == [4]
        assert use.give_up() == []
        seen = work(use, held(simulator, simulator.control.create_key("b").value, version=5), 6)
    assert {one.outcome for one in seen} == {"ok"}


def test_backgroundcut_is_used_with_tokens_and_with_the_key(fresh: Fresh) -> None:
    with running("backgroundcut") as simulator:
        use = fresh(BackgroundCutUse(600))
        seen = work(use, held(simulator, simulator.control.create_key("a").value), 60)
    by_credential = Counter(one.credential for one in seen)
    assert by_credential["access_token"] > 2 * by_credential["key"] > 10


def test_a_token_is_minted_again_before_it_ends(fresh: Fresh) -> None:
    now = 1000.0
    with running("backgroundcut", clock=lambda: now) as simulator:
        key = held(simulator, simulator.control.create_key("a").value)
        use = fresh(BackgroundCutUse(4, clock=lambda: now))
        outcomes = Counter[str]()
        for _ in range(200):
            outcomes[use.step(key).outcome] += 1
            now += 0.35
    assert outcomes == {"ok": 200}


def test_a_token_that_runs_out_on_its_way_is_no_failure(fresh: Fresh) -> None:
    now, late = 1000.0, 0.0

    def seen_by_the_provider() -> float:
        nonlocal now, late
        now, late = now + late, 0.0
        return now

    with running("backgroundcut", clock=seen_by_the_provider) as simulator:
        key = held(simulator, simulator.control.create_key("a").value)
        use = fresh(BackgroundCutUse(5, clock=lambda: now))
        seen: list[Seen] = []
        for n in range(60):
            late = 6.0 if n % 5 == 4 else 0.0
            seen.append(use.step(key))
            now += 0.1
    assert Counter(one.outcome for one in seen) == {"ok": 60}
    assert 0 <= sum(one.opened - one.closed for one in seen) <= 1
    assert Counter(one.credential for one in seen)["access_token"] > 20


def test_the_token_of_the_version_before_is_used_until_it_ends(fresh: Fresh) -> None:
    now = 1000.0
    with running("backgroundcut", clock=lambda: now) as simulator:
        use = fresh(BackgroundCutUse(60, clock=lambda: now))
        first = held(simulator, simulator.control.create_key("a").value, version=1)
        for _ in range(4):
            use.step(first)
        use.give_up()
        second = held(simulator, simulator.control.create_key("b").value, version=2)
        after = work(use, second, 8)
        assert {(s.version, s.credential) for s in after if s.version == 1} == {(1, "access_token")}
        now += 60
        assert {s.version for s in work(use, second, 20)} == {2}
    assert {one.outcome for one in after} == {"ok"}


def test_no_answer_counts_as_a_timeout(fresh: Fresh) -> None:
    with running("removit") as simulator:
        key = held(simulator, simulator.control.create_key("a").value)
        simulator.control.set_fault(timeout=0.01)
        assert fresh(RemovitUse()).step(key).outcome == "timeout"


@pytest.mark.parametrize(
    ("status", "of_job", "outcome"),
    [
        (200, False, "ok"),
        (202, False, "ok"),
        (401, False, "auth_invalid"),
        (404, True, "not_found_job"),
        (404, False, "client_error"),
        (422, False, "client_error"),
        (429, False, "rate_limited"),
        (500, True, "server_error"),
        (503, False, "server_error"),
    ],
)
def test_a_status_becomes_the_counter_of_the_usage_report(status: int, of_job: bool, outcome: str) -> None:
    assert outcome_of(Answer(status), of_job=of_job) == outcome
