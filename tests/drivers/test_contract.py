"""What every driver promises, asked of every entry of DRIVERS against something that knows the truth."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pytest

from keyvault.crypto.secret import Secret
from rotation.drivers import DRIVERS, UnknownDriver, load_driver
from rotation.drivers.base import (
    Driver,
    DriverError,
    Issued,
    IssueRequest,
    NeedsPerson,
    ProbeOutcome,
    ProviderSpec,
    garble,
)
from rotation.simulators import running

pytestmark = pytest.mark.once


@dataclass
class Bench:
    """A driver, a provider for it, and what the driver itself leaves to others.

    `by_hand(verb, key)` does what a person (manual) or our own database (generated) does; for a driver that
    does it by itself it does nothing.
    """

    driver: Driver
    spec: ProviderSpec
    new_key: Callable[[str], Issued]
    by_hand: Callable[[str, Issued], None]
    honours: Callable[[Secret], bool]


SpecOf = Callable[..., ProviderSpec]


@contextmanager
def http_bench(kind: str, spec_of: SpecOf) -> Iterator[Bench]:
    with running(kind) as sim:
        spec = spec_of(sim)
        driver = load_driver("http")
        yield Bench(
            driver,
            spec,
            new_key=lambda label: driver.issue(spec, IssueRequest(label, f"op-{label}", "prod")),
            by_hand=lambda verb, key: None,
            honours=sim.control.honours,
        )


@contextmanager
def manual_bench(kind: str, spec_of: SpecOf) -> Iterator[Bench]:
    with running(kind) as sim:

        def generate(label: str) -> Issued:
            created = sim.control.create_key(label)
            return Issued(created.value, created.id)

        yield Bench(
            load_driver("manual"),
            spec_of(sim, config={}, admin_secret=None),
            new_key=generate,
            by_hand=lambda verb, key: getattr(sim.control, verb)(key.provider_key_id),
            honours=sim.control.honours,
        )


@contextmanager
def generated_bench(name: str, spec_of: SpecOf) -> Iterator[Bench]:
    states: dict[str, bool] = {}

    def honours(secret: Secret) -> bool:
        return states.get(secret.expose(), False)

    driver = load_driver("generated")
    spec = ProviderSpec(slug="internal", base_url="", auth_header="X-API-Key", honours=honours)

    def mint(label: str) -> Issued:
        issued = driver.issue(spec, IssueRequest(label, f"op-{label}", "prod"))
        states[issued.secret.expose()] = True
        return issued

    def store(verb: str, key: Issued) -> None:
        states[key.secret.expose()] = verb == "enable"

    yield Bench(driver, spec, mint, store, honours)


BENCHES: dict[str, tuple[Callable[[str, SpecOf], AbstractContextManager[Bench]], tuple[str, ...]]] = {
    "http": (http_bench, ("removit", "removebgvideo", "backgroundcut")),
    "manual": (manual_bench, ("backgrounderase", "removit", "removebgvideo", "backgroundcut")),
    "generated": (generated_bench, ("memory",)),
}


@pytest.fixture(params=[(kind, name) for kind, (_, names) in BENCHES.items() for name in names], ids="-".join)
def bench(request: pytest.FixtureRequest, spec_of: SpecOf) -> Iterator[Bench]:
    kind, name = request.param
    with BENCHES[kind][0](name, spec_of) as ready:
        yield ready


def test_every_registered_kind_is_under_contract() -> None:
    assert set(BENCHES) == set(DRIVERS)


def test_a_driver_knows_its_kind() -> None:
    assert {kind: load_driver(kind).kind for kind in DRIVERS} == {kind: kind for kind in DRIVERS}


def test_an_unknown_kind_has_no_fallback() -> None:
    with pytest.raises(UnknownDriver, match="no driver of kind 'vault'"):
        load_driver("vault")


def test_a_new_key_is_honoured_and_passes_the_probe(bench: Bench) -> None:
    key = bench.new_key("keyturn-r1-1")
    assert bench.honours(key.secret)
    assert bench.driver.probe(bench.spec, key.secret).outcome is ProbeOutcome.ACCEPTED


def test_a_garbled_key_fails_the_same_probe(bench: Bench) -> None:
    key = bench.new_key("keyturn-r1-1")
    assert bench.driver.probe(bench.spec, garble(key.secret)).outcome is ProbeOutcome.REJECTED


def test_two_keys_are_two_secrets_and_both_live(bench: Bench) -> None:
    first, second = bench.new_key("keyturn-r1-1"), bench.new_key("keyturn-r1-2")
    assert first.secret != second.secret
    assert first.provider_key_id != second.provider_key_id
    assert bench.honours(first.secret)
    assert bench.honours(second.secret)


def attempt(bench: Bench, verb: str, key: Issued) -> None:
    """Do it with the driver; where it needs a person, or is our own state, do that part by hand."""
    try:
        getattr(bench.driver, verb)(bench.spec, key.provider_key_id)
    except NeedsPerson:
        capable = bench.driver.capabilities(bench.spec)
        assert not (capable.revoke if verb == "revoke" else capable.disable)
    bench.by_hand(verb, key)


def test_a_revoked_key_is_dead_and_the_others_live(bench: Bench) -> None:
    outgoing, incoming = bench.new_key("keyturn-r1-1"), bench.new_key("keyturn-r1-2")
    attempt(bench, "revoke", outgoing)
    assert not bench.honours(outgoing.secret)
    assert bench.driver.probe(bench.spec, outgoing.secret).outcome is ProbeOutcome.REJECTED
    assert bench.driver.probe(bench.spec, incoming.secret).outcome is ProbeOutcome.ACCEPTED


def test_a_disabled_key_comes_back(bench: Bench) -> None:
    key = bench.new_key("keyturn-r1-1")
    attempt(bench, "disable", key)
    assert bench.driver.probe(bench.spec, key.secret).outcome is ProbeOutcome.REJECTED
    attempt(bench, "enable", key)
    assert bench.driver.probe(bench.spec, key.secret).outcome is ProbeOutcome.ACCEPTED


def test_revoking_twice_or_an_unknown_key_is_a_success(bench: Bench) -> None:
    if not bench.driver.capabilities(bench.spec).revoke:
        with pytest.raises(NeedsPerson):
            bench.driver.revoke(bench.spec, "key_00")
        return
    key = bench.new_key("keyturn-r1-1")
    bench.driver.revoke(bench.spec, key.provider_key_id)
    bench.driver.revoke(bench.spec, key.provider_key_id)
    bench.driver.revoke(bench.spec, "key_00")


def test_what_a_driver_cannot_do_needs_a_person(bench: Bench) -> None:
    capable = bench.driver.capabilities(bench.spec)
    calls: dict[str, Callable[[], object]] = {
        "issue": lambda: bench.driver.issue(bench.spec, IssueRequest("keyturn-r1-1", "op-1", "prod")),
        "list": lambda: bench.driver.list(bench.spec),
        "disable": lambda: bench.driver.disable(bench.spec, "key_00"),
        "revoke": lambda: bench.driver.revoke(bench.spec, "key_00"),
    }
    needs_person = {name for name, call in calls.items() if raises_needs_person(call)}
    assert needs_person == {name for name in calls if not getattr(capable, name)}


def raises_needs_person(call: Callable[[], object]) -> bool:
    try:
        call()
    except NeedsPerson as error:
        return error.code == "needs_person" and bool(error.message)
    except DriverError:
        return False  # it tried, with an id that nobody knows
    return False


def test_a_key_whose_answer_was_lost_is_either_found_by_its_label_or_honoured_by_nobody(bench: Bench) -> None:
    capable = bench.driver.capabilities(bench.spec)
    if not (capable.issue and capable.list):
        assert bench.driver.kind == "manual"
        return
    lost = bench.driver.issue(bench.spec, IssueRequest("keyturn-r1-1", "op-lost", "prod"))
    found = [item.provider_key_id for item in bench.driver.list(bench.spec) if item.label == "keyturn-r1-1"]
    assert found == ([lost.provider_key_id] if bench.honours(lost.secret) else [])


def test_replaying_an_idempotency_key_returns_the_same_secret(bench: Bench) -> None:
    if not bench.driver.capabilities(bench.spec).replay:
        assert bench.driver.kind in ("manual", "generated")
        return
    request = IssueRequest("keyturn-r1-1", "op-1", "prod")
    first, again = bench.driver.issue(bench.spec, request), bench.driver.issue(bench.spec, request)
    assert first.secret == again.secret
    assert first.provider_key_id == again.provider_key_id
    assert len([item for item in bench.driver.list(bench.spec) if item.label == "keyturn-r1-1"]) == 1


def test_no_value_prints_a_secret(bench: Bench) -> None:
    key = bench.new_key("keyturn-r1-1")
    result = bench.driver.probe(bench.spec, garble(key.secret))
    assert key.secret.expose() not in f"{key!r} {key} {result!r} {bench.spec!r}"
    if bench.spec.admin_secret is not None:
        assert bench.spec.admin_secret.expose() not in repr(bench.spec)
