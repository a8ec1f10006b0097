"""Random histories of the engine against the invariants of a rotation, with the provider's ground truth.

Every rule is something that really happens: time passes, consumers work or fall silent, people press
buttons, the provider misbehaves, workers die, messages come twice. After every step the invariants hold;
at the end the faults stop, and every rotation must come to its end or to a person.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.db.models import QuerySet
from hypothesis import HealthCheck, Phase, seed
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run

from keyvault.actors import SYSTEM
from keyvault.domain import State
from keyvault.exceptions import KeyturnError
from keyvault.keystore import open_version
from keyvault.models import AuditEvent, Delivery, Key, KeyVersion
from keyvault.prepared import prepared
from rotation import operations
from rotation.facts import Kind, OperationState
from rotation.models import Operation, Rotation
from rotation.policy import from_json
from rotation.services import emergencies, policies
from rotation.simulators import RunningSimulator, start
from rotation.simulators.truth import NoSuchKey
from tests.bootstrap import chosen_database
from tests.conftest import Tell
from tests.scale import scaled
from tests.stories.conftest import BRISK
from tests.stories.world import World, rotation_rows

# In each shard. PostgreSQL sees fewer, for its own ways of locking have tests of its own. Some are shorter
# (hypothesis tries those too); those that are whole are counted: more than 1,000 on both together.
SHARDS = 2 if chosen_database() == "postgresql" else 10
HISTORIES = scaled("HISTORIES", *((10, 700) if chosen_database() == "postgresql" else (98, 1_200)))
STEPS = 80
TICKS_TO_END = 100
MOMENT = timedelta(milliseconds=1)
POLICY = replace(
    BRISK, monitor=timedelta(minutes=2), quiet=timedelta(minutes=1), cool_off=timedelta(minutes=1)
)

_stage: dict[str, Any] = {}
_counted: Counter[str] = Counter()


@pytest.fixture
def provider() -> Iterator[RunningSimulator]:
    running = start("removit")
    yield running
    running.stop()


@prepared
def operation_rows(key_id: uuid.UUID) -> QuerySet[Operation]:
    return Operation.objects.filter(rotation__key_id=key_id).order_by("created_at", "id")


@prepared
def last_event() -> QuerySet[AuditEvent, int]:
    return AuditEvent.objects.order_by("-sequence").values_list("sequence", flat=True)[:1]


@prepared
def moves_of(rotation: str) -> QuerySet[AuditEvent, Any]:
    moves = AuditEvent.objects.filter(name__in=["rotation:stage", "rotation:weight"], subject=rotation)
    return moves.order_by("sequence").values_list("name", "details")


def refused(act: Callable[..., object], *args: Any, **more: Any) -> str:
    """The code that an act is refused with; empty where it is done."""
    try:
        act(*args, **more)
    except KeyturnError as error:
        return error.code
    return ""


class Histories(RuleBasedStateMachine):
    """One key, one provider, some instances; see the module."""

    def __init__(self) -> None:
        super().__init__()
        self.w: World = _stage["world"]
        transaction.savepoint_rollback(_stage["beginning"])
        self.w.begin_again()
        self.mine = {self.w.version(1).provider_key_id}
        self.rejected: set[str] = set()
        self.forced = False  # an emergency or a force makes the slow rules of revoking void
        self.weights: dict[Any, int] = {}
        self.path: dict[tuple[Any, str], list[int]] = {}
        self.dead_before: set[int] = set()
        self.replayed: dict[Any, int] = {}  # revisions whose events were replayed
        self.looked_at: object = None
        self.messages: list[Any] = []
        self.steps = -1  # the first look comes before the first step

    # Time and consumers -------------------------------------------------------------------------------

    @rule(
        seconds=st.sampled_from([1, 5, 10, 10, 10, 30, 30, 60]),
        traffic=st.sampled_from([True, True, True, False]),
    )
    def time_passes(self, seconds: int, traffic: bool) -> None:
        self.messages = (self.messages + list(self.w.rung))[-20:]
        if traffic:
            self.w.now += timedelta(seconds=seconds)
            self.consumers_work()
            self.w.tick(0, traffic=False)
        else:
            self.w.tick(seconds, traffic=False)

    @rule(hours=st.sampled_from([1, 5]))
    def keyturn_is_down(self, hours: int) -> None:
        self.w.now += timedelta(hours=hours)

    def consumers_work(self) -> None:
        rotation = self.open_rotation()
        for instance, version in self.w.ask_all():
            self.given(instance.name, version, rotation)
            good = self.w.control.honours(open_version(version)) and not self.faulty(version)
            self.w.report(instance, version.number, {"ok": 5} if good else {"auth_invalid": 3})

    def rotations(self) -> list[Rotation]:
        """The newest first."""
        return rotation_rows(self.w.key_id)

    def open_rotation(self) -> Rotation | None:
        return next((rotation for rotation in self.rotations() if rotation.is_open), None)

    def living(self) -> set[str]:
        """Ground truth: ids of the keys that the provider honours right now."""
        views = self.w.control.keys()
        return {view.id for view in views if view.live}

    def faulty(self, version: KeyVersion) -> bool:
        return version.provider_key_id in self.rejected

    def given(self, instance: str, version: KeyVersion, rotation: Rotation | None) -> None:
        """Invariants 1 and 3, at the instant of a delivery."""
        alive = version.provider_key_id in self.living()
        assert alive or self.faulty(version), (
            f"v{version.number} is given out, but the provider does not honour it"
        )
        if rotation is None:
            return
        path = self.path.setdefault((rotation.id, instance), [])
        if not path or path[-1] != version.number:
            path.append(version.number)
        assert path == sorted(path), f"{instance} flipped back: {path}"

    # People -------------------------------------------------------------------------------------------

    @rule()
    def somebody_starts(self) -> None:
        self.w.now += MOMENT  # no two rotations begin at once
        had = self.open_rotation() is not None
        assert refused(self.w.start) == ("rotation_in_progress" if had else "")

    @rule(verb=st.sampled_from(["pause", "resume", "advance", "abort", "confirm_revoked"]))
    def somebody_presses(self, verb: str) -> None:
        rotation = next(iter(self.rotations()), None)
        if rotation is None:
            return
        refusal = refused(self.w.verb, verb)
        assert refusal in ("", "invalid_transition")
        if verb == "confirm_revoked" and not refusal:
            # A person who confirms a revoke has done it at the provider.
            version = rotation.incoming if rotation.stage == "rolled_back" else rotation.outgoing
            assert version is not None
            with suppress(NoSuchKey):  # a worker that died may have been there before
                self.w.control.revoke(version.provider_key_id)

    @precondition(lambda self: not self.forced)
    @rule(odds=st.integers(0, 9))
    def a_key_leaks(self, odds: int) -> None:
        if odds:
            return
        self.w.now += MOMENT
        hurry: dict[str, Any] = {"mode": "replace", "reason": "leak", "now": self.w.now}
        refusal = refused(emergencies.emergency, SYSTEM, self.w.key, ring=self.w.rung.append, **hurry)
        assert refusal in ("", "rotation_in_progress")
        self.forced = not refusal

    # The provider -------------------------------------------------------------------------------------

    @rule()
    def the_incoming_key_is_rejected(self) -> None:
        rotation = self.open_rotation()
        if rotation is None or rotation.incoming is None or not rotation.incoming.provider_key_id:
            return
        if rotation.outgoing_id is None or rotation.stage not in ("shift", "monitor"):
            return
        self.rejected.add(rotation.incoming.provider_key_id)
        self.w.control.set_fault(reject_key_id=rotation.incoming.provider_key_id)

    @rule(
        fault=st.sampled_from(
            [
                {"lose_create_answers": 1},
                {"planes": ["manage"], "retry_after": 3},
                {"planes": ["manage"], "error_rate": 1.0},
                {"planes": ["data"], "error_rate": 0.5},
                {"planes": ["data", "manage"], "error_rate": 1.0},
                {"max_keys": 1},
            ]
        )
    )
    def the_provider_has_a_bad_time(self, fault: dict[str, Any]) -> None:
        self.w.control.set_fault(**fault)

    @rule()
    def the_provider_recovers(self) -> None:
        self.w.control.clear_faults()
        for key_id in self.rejected:
            self.w.control.set_fault(reject_key_id=key_id)

    # Workers and messages -----------------------------------------------------------------------------

    def operations(self) -> list[Operation]:
        """The oldest first."""
        return operation_rows(self.w.key_id)

    @rule(called=st.booleans())
    def a_worker_dies(self, called: bool) -> None:
        """It has claimed an operation, perhaps called the provider, and is never heard of again."""
        pending = next((one for one in self.operations() if one.state == OperationState.PENDING), None)
        if pending is None:
            return
        operation = operations.claim(pending.id, self.w.now)
        if operation is not None and called:
            operations.call(operation, self.w.now)

    @rule(fence=st.integers(0, 3))
    def a_zombie_settles(self, fence: int) -> None:
        known = self.operations()
        if not known:
            return
        running = known[-1]
        if running.state == OperationState.RUNNING and running.fence == fence:
            return
        lie = operations.Settlement(OperationState.DONE, "verified")
        assert not operations.settle(running.id, fence, lie, self.w.now, ring=self.w.rung.append)

    @rule()
    def messages_come_twice_and_out_of_order(self) -> None:
        ids = [operation.id for operation in self.operations()][-6:]
        for operation_id in [*reversed(ids), *self.messages]:
            operations.perform(operation_id, self.w.now, ring=self.w.rung.append)

    @rule()
    def the_broker_loses_everything(self) -> None:
        self.w.rung.clear()

    @rule()
    def two_schedulers_tick(self) -> None:
        self.w.tick(0, traffic=False)
        self.w.tick(0, traffic=False)

    # Invariants ---------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.consumers_work()

    @invariant()
    def nothing_is_broken(self) -> None:
        """Looked at only where something moved: every change of a key or a rotation leaves an audit event,
        and what a worker that died has done shows at the provider."""
        self.steps += 1
        moved = (last_event.first(), frozenset(self.living()))
        if moved == self.looked_at:
            return
        self.looked_at = moved
        key = self.w.key
        # The newest first: a key that an earlier rotation kept may be replaced by a later one.
        rotations = self.rotations()
        legal_labels(key)
        assert sum(rotation.is_open for rotation in rotations) <= 1
        for rotation in rotations:
            self.the_weight_only_falls_to_nothing(rotation)
            self.an_outgoing_key_dies_only_when_everything_was_proved(rotation)
            self.replaying_the_audit_events_rebuilds_the_state(rotation)
        if rotations and rotations[0].stage == "rolled_back":
            the_old_key_is_back(key, rotations[0])

    def the_weight_only_falls_to_nothing(self, rotation: Rotation) -> None:
        before = self.weights.get(rotation.id, 0)
        assert rotation.weight >= before or (rotation.weight == 0 and rotation.stage == "rolled_back")
        self.weights[rotation.id] = rotation.weight

    def an_outgoing_key_dies_only_when_everything_was_proved(self, rotation: Rotation) -> None:
        outgoing = rotation.outgoing
        if (
            outgoing is None
            or outgoing.provider_key_id in self.living()
            or outgoing.number in self.dead_before
        ):
            return
        self.dead_before.add(outgoing.number)
        if self.forced:
            return
        policy = from_json(rotation.policy)
        assert rotation.stage in ("revoke", "succeeded"), rotation.stage
        assert rotation.monitored_seconds >= policy.monitor.total_seconds()
        done = Operation.objects.filter(rotation=rotation, state=OperationState.DONE)
        vouched = rotation.events.filter(name="advanced").exists()
        assert done.filter(kind=Kind.VERIFY, outcome__in=["verified", "outgoing_dead"]).exists() or vouched
        assert rotation.events.filter(name="weight", weight=100).exists()
        entered = rotation.events.get(name="stage", stage="revoke").at
        quiet = (entered - policy.quiet_needed, entered)
        assert not Delivery.objects.filter(version=outgoing, at__gt=quiet[0], at__lt=quiet[1]).exists()

    def replaying_the_audit_events_rebuilds_the_state(self, rotation: Rotation) -> None:
        if self.replayed.get(rotation.id) == rotation.revision:
            return
        self.replayed[rotation.id] = rotation.revision
        stage, weight = "requested", 0
        for name, details in moves_of(str(rotation.id)):
            if name == "rotation:weight":
                weight = details["weight"]
            else:
                assert details["was"] == stage
                stage = details["stage"]
                weight = 100 if stage == "monitor" else 0 if stage == "rolled_back" else weight
        assert (stage, weight) == (rotation.stage, rotation.weight)

    def teardown(self) -> None:
        """Invariant 8: when faults stop, everything ends or stands before a person - and leaves no orphan."""
        _counted["whole"] += self.steps == STEPS
        try:
            self.the_provider_recovers()
            for _ in range(TICKS_TO_END):
                if self.is_over():
                    break
                self.time_passes(30, True)
                self.nothing_is_broken()
            assert self.is_over(), f"never ends: {self.w.rotation.stage} {self.w.rotation.waiting_for}"
            self.no_orphans()
            _counted["histories"] += 1
            _counted["rotations"] += len(self.rotations())
        finally:
            self.w.rung.clear()

    def is_over(self) -> bool:
        last = next(iter(self.rotations()), None)
        if last is None or last.attention or last.paused:
            return True
        return not last.is_open and last.check_at is None

    def no_orphans(self) -> None:
        """Every key that lives at the provider is one of ours that may live."""
        rotations = self.rotations()
        if any(r.is_open or r.check_at is not None for r in rotations):
            return
        ours = set(
            KeyVersion.objects.filter(key=self.w.key_id, state=State.ACTIVE).values_list(
                "provider_key_id", flat=True
            )
        )
        labels = {f"keyturn-{r.id.hex[:20]}" for r in rotations}
        views = self.w.control.keys()
        known = [view for view in views if view.id in ours or view.label.rpartition("-")[0] in labels]
        living = {view.id for view in known if view.live}
        assert living <= ours, f"orphans at the provider: {living - ours}"


def legal_labels(key: Key) -> None:
    labels = [version.id for version in (key.current, key.pending, key.previous) if version is not None]
    assert len(labels) == len(set(labels))
    assert key.current is not None
    assert key.current.state == State.ACTIVE
    assert key.current.withheld_at is None


def the_old_key_is_back(key: Key, last: Rotation) -> None:
    assert key.current_id == last.outgoing_id
    assert last.incoming is not None
    assert last.incoming.withheld_at is not None


@pytest.mark.long
@pytest.mark.parametrize("shard", range(SHARDS))
def test_no_history_breaks_an_invariant(
    shard: int, db: None, provider: RunningSimulator, settings: Any, tell: Tell
) -> None:
    world = World(provider, settings, policy=POLICY, instances=3)
    # A leak starts a rotation by itself, under the policy of the key: not one that takes days.
    policies.assign_policy(SYSTEM, world.key, world.policy, now=world.now)
    _stage.update(world=world, beginning=transaction.savepoint())
    _counted.clear()
    limits = hypothesis_settings(
        max_examples=HISTORIES,
        stateful_step_count=STEPS + 1,  # the beginning is one
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        phases=[Phase.generate, Phase.shrink],
    )
    run(seed(shard)(Histories), settings=limits)
    tell(f"histories, whole with {STEPS} steps", {**_counted, "broken": 0})
    assert _counted["whole"] >= 0.6 * HISTORIES
