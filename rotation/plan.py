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
from rotation.dates import rehearsal_missing
from rotation.drivers.base import Capabilities
from rotation.facts import Stage
from rotation.judge import PASSES_NEEDED
from rotation.models import Rotation
from rotation.planned import PlannedCall as PlannedCall
from rotation.planned import cools_off, next_number, plan_digest, planned_calls
from rotation.policy import APPROVALS, Policy
from rotation.proof import ACTIVE_INSTANCE


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
    gap: str  # when consumers have no key, in words; empty where they always have one
    digest: str  # what approvals are bound to; it does not change with time
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
    incoming = next_number(key)
    quota = _quota(key)
    steps, stages = _times(key, policy, able, now)
    return Plan(
        service=key.service.slug,
        environment=key.environment.slug,
        policy=slug,
        outgoing=key.current.number if key.current else None,
        incoming=incoming,
        calls=planned_calls(key, key.current, policy),
        quota=quota,
        steps=steps,
        stages=stages,
        gap=_gap(key, policy, able, incoming),
        approvals={name: policy.approvals.get(name, 0) for name in APPROVALS},
        digest=plan_digest(key, key.current, incoming, policy),
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


def one_key_only(provider: Provider) -> bool:
    """Whether no second key can exist beside the one in use."""
    return provider.max_keys is not None and provider.max_keys <= 1


def no_room(key: Key, policy: Policy) -> str:
    """Why a key that may have no second one beside it cannot be replaced under this policy, else nothing."""
    if key.current is None or policy.cutover or not one_key_only(key.service.provider):
        return ""
    return (
        f"{key.service.provider.name} allows one key at a time, so the old one has to end before the new one "
        "exists. Use a policy that allows this gap (cutover), at a time when consumers can do without."
    )


def _gap(key: Key, policy: Policy, able: Capabilities, incoming: int) -> str:
    if key.current is None or not policy.cutover:
        return ""
    old, new = f"v{key.current.number}", f"v{incoming}"
    if able.issue:
        return (
            f"There will be a moment without a key: {old} is revoked before {new} exists, and consumers get "
            f"none until {new} is verified. Once {old} is revoked there is no way back."
        )
    return (
        f"There will be a moment without a key that works: {old} ends when it is replaced on the provider's "
        f"page, and consumers fail until {new} is pasted and verified. Then there is no way back."
    )


def _times(
    key: Key, policy: Policy, able: Capabilities, now: datetime
) -> tuple[tuple[PlannedStep, ...], tuple[tuple[str, datetime], ...]]:
    """The steps and stages with their earliest times.

    A step lasts its hold, and never less than the checks that must pass. Freezes, windows, approvals and
    what people have to do come on top of that.
    """
    gap = policy.cutover and able.issue  # nothing is left to watch or to disable when everybody has moved
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
        at += timedelta(0) if gap else max(step.hold, PASSES_NEEDED * policy.check_every)
    stages.append((Stage.MONITOR, at))
    at += timedelta(0) if gap else max(policy.monitor, policy.quiet_needed)
    stages.append((Stage.REVOKE, at))
    if not gap and cools_off(key, key.current, policy, able):
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
    shut = policy.closed(now)
    if shut is not None:
        found.append(Unmet("window", f"Not now: {shut.reason}.", blocking=False))
    lacking = rehearsal_missing(key, policy, now)
    if lacking is not None:
        found.append(Unmet("rehearsal", f"{lacking} A lead may start without it.", blocking=False))
    missing = policy.approvals.get("start", 0)
    if missing:
        found.append(Unmet("approval_start", f"{missing} approval(s) are needed to start.", blocking=False))
    narrow = no_room(key, policy)
    if narrow:
        found.append(Unmet("quota", narrow, blocking=True))
    elif quota.headroom == 0 and not policy.cutover:
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
