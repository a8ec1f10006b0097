"""What a rotation would do, before it is started. Reads only: it locks, calls and writes nothing."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder

from keyvault import readers
from keyvault.crypto.mac import lp
from keyvault.domain import Split, State, gets_pending
from keyvault.keystore import keys
from keyvault.models import Consumer, Key, KeyVersion, Provider
from rotation import specs
from rotation.drivers.base import Capabilities
from rotation.facts import Kind, Stage
from rotation.judge import PASSES_NEEDED
from rotation.models import Rotation
from rotation.observe import ACTIVE_INSTANCE
from rotation.policy import Policy


@dataclass(frozen=True)
class PlannedCall:
    """One thing to be asked of the provider, by its driver or by a person on the provider's page."""

    operation: str
    side: str
    by: str  # driver | person
    note: str = ""


@dataclass(frozen=True)
class PlannedInstance:
    consumer: str
    instance: str
    team: str


@dataclass(frozen=True)
class PlannedStep:
    """One weight, when it would be reached, and the instances that move to the incoming version there."""

    weight: int
    at: datetime
    instances: tuple[PlannedInstance, ...]


@dataclass(frozen=True)
class Quota:
    """Keys that the provider allows at once (None: not known) and those that it holds of ours."""

    limit: int | None
    used: int

    @property
    def headroom(self) -> int | None:
        return None if self.limit is None else max(0, self.limit - self.used)


@dataclass(frozen=True)
class Unmet:
    """A condition that stands in the way now. A blocking one refuses the start; others make it wait."""

    code: str
    message: str
    blocking: bool


@dataclass(frozen=True)
class Plan:
    service: str
    environment: str
    policy: str
    outgoing: int | None
    incoming: int
    calls: tuple[PlannedCall, ...]
    quota: Quota
    steps: tuple[PlannedStep, ...]
    stages: tuple[tuple[str, datetime], ...]  # the earliest time of each stage, if all goes well
    approvals: Mapping[str, int]
    unmet: tuple[Unmet, ...]


def split_salt(key: Key) -> bytes:
    """The salt by which the next rotation of this key would divide the instances.

    Only this installation can compute it, and it differs from rotation to rotation, so that it is not
    always the same instances that go first.
    """
    number = Rotation.objects.filter(key=key).count()
    return hmac.digest(keys().service.row_mac, lp("split-salt", str(key.id), str(number)), "sha256")


def plan(key: Key, policy: Policy, slug: str, *, now: datetime) -> Plan:
    """The plan for replacing the current version of this key under this policy."""
    provider = key.service.provider
    able = specs.capabilities(provider)
    probed = specs.can_probe(provider)
    last = key.versions.order_by("-number").values_list("number", flat=True).first() or 0
    quota = _quota(key)
    steps, stages = _times(key, policy, able, now)
    return Plan(
        service=key.service.slug,
        environment=key.environment.slug,
        policy=slug,
        outgoing=key.current.number if key.current else None,
        incoming=last + 1,
        calls=_calls(key, policy, able, probed=probed),
        quota=quota,
        steps=steps,
        stages=stages,
        approvals=dict(policy.approvals),
        unmet=_unmet(key, provider, policy, able, quota, probed=probed, now=now),
    )


def to_json(planned: Plan) -> dict[str, Any]:
    """The plan as a rotation keeps it: times as text, tuples as lists."""
    document: dict[str, Any] = json.loads(json.dumps(asdict(planned), cls=DjangoJSONEncoder))
    document["stages"] = [{"stage": stage, "at": at} for stage, at in document["stages"]]
    return document


def _quota(key: Key) -> Quota:
    live = KeyVersion.objects.filter(key=key, state__in=[State.ACTIVE, State.DISABLED]).count()
    return Quota(limit=key.service.provider.max_keys, used=live)


def _calls(key: Key, policy: Policy, able: Capabilities, *, probed: bool) -> tuple[PlannedCall, ...]:
    def who(can: bool) -> str:
        return "driver" if can else "person"

    calls = [
        PlannedCall(
            Kind.ISSUE, "incoming", who(able.issue), "" if able.issue else "create it, then supply it"
        )
    ]
    if probed:
        calls.append(PlannedCall(Kind.VERIFY, "incoming", "driver", "with a garbled key as negative control"))
        if key.current is not None:
            every = int(policy.probe_every.total_seconds())
            calls.append(
                PlannedCall(Kind.PROBE, "both", "driver", f"every {every} s while both are honoured")
            )
    else:
        calls.append(PlannedCall(Kind.VERIFY, "incoming", "person", "this provider has no probe"))
    if key.current is None:
        return tuple(calls)
    if _cools_off(key, policy, able):
        calls.append(PlannedCall(Kind.DISABLE, "outgoing", "driver", "can be undone during the cool-off"))
    calls.append(
        PlannedCall(Kind.REVOKE, "outgoing", who(able.revoke), "" if able.revoke else "then confirm it")
    )
    if probed:
        calls.append(PlannedCall(Kind.CONFIRM, "outgoing", "driver", "the provider must refuse it"))
    return tuple(calls)


def _cools_off(key: Key, policy: Policy, able: Capabilities) -> bool:
    """Whether the outgoing version is disabled for a while first, as the engine decides it."""
    named = key.service.provider.driver != "http" or bool(key.current and key.current.provider_key_id)
    return able.disable and named and policy.cool_off > timedelta(0)


def _times(
    key: Key, policy: Policy, able: Capabilities, now: datetime
) -> tuple[tuple[PlannedStep, ...], tuple[tuple[str, datetime], ...]]:
    """The steps and stages with their earliest times.

    A step lasts its hold, and never less than the checks that must pass. Freezes, windows, approvals and
    what people have to do come on top of that.
    """
    stages: list[tuple[str, datetime]] = [(Stage.DEPLOY, now)]
    if key.current is None:
        return (), (*stages, (Stage.SUCCEEDED, now))
    steps: list[PlannedStep] = []
    moved: set[PlannedInstance] = set()
    instances = _instances(key, now)
    salt, at = split_salt(key), now
    stages.append((Stage.SHIFT, at))
    for step in policy.steps:
        split = Split(step.weight, salt, frozenset(policy.canaries), frozenset(policy.pinned))
        going = {one for one in instances if gets_pending(split, one.consumer, one.instance)}
        new = sorted(going - moved, key=lambda one: (one.consumer, one.instance))
        steps.append(PlannedStep(step.weight, at, tuple(new)))
        moved |= going
        at += max(step.hold, PASSES_NEEDED * policy.check_every)
    stages.append((Stage.MONITOR, at))
    at += max(policy.monitor, policy.quiet_needed)
    stages.append((Stage.REVOKE, at))
    if _cools_off(key, policy, able):
        at += policy.cool_off
    stages.append((Stage.SUCCEEDED, at))
    return tuple(steps), tuple(stages)


def _instances(key: Key, now: datetime) -> list[PlannedInstance]:
    """Every instance that was given this key in the last days, with the team that owns its consumer."""
    found = set().union(*readers.last_given(key.id, now - ACTIVE_INSTANCE).values())
    owners = dict(
        Consumer.objects.filter(slug__in={consumer for consumer, _ in found}).values_list(
            "slug", "team__slug"
        )
    )
    return [PlannedInstance(consumer, instance, owners[consumer]) for consumer, instance in sorted(found)]


def _unmet(
    key: Key,
    provider: Provider,
    policy: Policy,
    able: Capabilities,
    quota: Quota,
    *,
    probed: bool,
    now: datetime,
) -> tuple[Unmet, ...]:
    found: list[Unmet] = []
    other = Rotation.objects.open().filter(key=key).first()
    if other is not None:
        found.append(
            Unmet("rotation_in_progress", f"Another rotation is open ({other.stage}).", blocking=True)
        )
    blocked = policy.blocked(now)
    if blocked:
        found.append(Unmet("window", f"Not now: {blocked}.", blocking=False))
    missing = policy.approvals.get("start", 0)
    if missing:
        found.append(Unmet("approval_start", f"{missing} approval(s) are needed to start.", blocking=False))
    if quota.headroom == 0:
        text = f"The provider allows {quota.limit} key(s) at once, and there are {quota.used}."
        found.append(Unmet("quota", text, blocking=False))
    if not able.issue:
        found.append(Unmet("supply_key", "A person has to create the new key and supply it.", blocking=False))
    if probed and provider.driver != "generated" and not provider.base_url:
        found.append(
            Unmet("no_base_url", "Without a base URL of the provider no key can be verified.", blocking=False)
        )
    if not probed:
        found.append(Unmet("no_probe", "Without a probe a person has to verify the new key.", blocking=False))
    return tuple(found)
