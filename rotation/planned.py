"""What a rotation asks of the provider, and the digest of its plan. Reads only."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from datetime import timedelta

from keyvault.models import Key, KeyVersion
from rotation import specs
from rotation.drivers.base import Capabilities
from rotation.facts import Kind
from rotation.models import Rotation
from rotation.policy import Policy, from_json, to_json


@dataclass(frozen=True)
class PlannedCall:
    """One thing to be asked of the provider, by its driver or by a person on the provider's page."""

    operation: str
    side: str
    by: str  # driver | person
    note: str = ""


def planned_calls(key: Key, outgoing: KeyVersion | None, policy: Policy) -> tuple[PlannedCall, ...]:
    """Every call that replacing ``outgoing`` takes, in order."""
    able, probed = specs.capabilities(key.service.provider), specs.can_probe(key.service.provider)
    gap = outgoing is not None and policy.cutover
    revoke = PlannedCall(Kind.REVOKE, "outgoing", _who(able.revoke), "" if able.revoke else "then confirm it")
    create = "replace it there, then supply it" if gap else "create it, then supply it"
    calls = [replace(revoke, note="consumers have no key from here on")] if gap and able.issue else []
    calls.append(PlannedCall(Kind.ISSUE, "incoming", _who(able.issue), "" if able.issue else create))
    if not probed:
        calls.append(PlannedCall(Kind.VERIFY, "incoming", "person", "this provider has no probe"))
    else:
        calls.append(PlannedCall(Kind.VERIFY, "incoming", "driver", "with a garbled key as negative control"))
        if outgoing is not None and not gap:
            every = int(policy.probe_every.total_seconds())
            calls.append(
                PlannedCall(Kind.PROBE, "both", "driver", f"every {every} s while both are honoured")
            )
    if outgoing is None:
        return tuple(calls)
    if not gap:
        if cools_off(key, outgoing, policy, able):
            calls.append(PlannedCall(Kind.DISABLE, "outgoing", "driver", "can be undone during the cool-off"))
        calls.append(revoke)
    if probed:
        calls.append(PlannedCall(Kind.CONFIRM, "outgoing", "driver", "the provider must refuse it"))
    return tuple(calls)


def _who(can: bool) -> str:
    return "driver" if can else "person"


def cools_off(key: Key, outgoing: KeyVersion | None, policy: Policy, able: Capabilities) -> bool:
    """Whether the outgoing version is disabled for a while first, as the engine decides it."""
    named = key.service.provider.driver != "http" or bool(outgoing and outgoing.provider_key_id)
    return able.disable and named and policy.cool_off > timedelta(0)


def plan_digest(key: Key, outgoing: KeyVersion | None, incoming: int, policy: Policy) -> str:
    """What approvals are bound to: 64 hexadecimal digits over versions, policy and calls, not over time."""
    told = {
        "key": str(key.id),
        "outgoing": [str(outgoing.id), outgoing.number] if outgoing is not None else None,
        "incoming": incoming,
        "policy": to_json(policy),
        "calls": [asdict(call) for call in planned_calls(key, outgoing, policy)],
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def rotation_digest(rotation: Rotation) -> str:
    """The digest of the plan that a rotation follows as things stand now."""
    number = rotation.incoming.number if rotation.incoming is not None else next_number(rotation.key)
    return plan_digest(rotation.key, rotation.outgoing, number, from_json(rotation.policy))


def next_number(key: Key) -> int:
    """The number that the key's next version gets."""
    last: int = key.versions.order_by("-number").values_list("number", flat=True).first() or 0
    return last + 1
