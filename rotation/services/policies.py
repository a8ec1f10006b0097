"""Policies as people name them, and which key follows which."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import transaction

from keyvault import audit
from keyvault.actors import Actor
from keyvault.exceptions import KeyturnError, invalid
from keyvault.models import Key
from keyvault.services import catalogue
from keyvault.services.keys import lock_key
from rotation.dates import due_of
from rotation.models import KeySchedule, RotationPolicy
from rotation.policy import PRESETS, Policy, PolicyError, from_json, to_json

STANDARD = "standard"
DEFAULT_POLICY = {"dev": "fast"}  # every other environment: standard
NAMED = 5  # keys that are named where a policy cannot go


@transaction.atomic
def install_presets(*, now: datetime) -> None:
    """The policies that are there from the start. Safe to call at every start.

    One that an older release wrote gets the members that it lacks, and keeps those that it has.
    """
    for slug, policy in PRESETS.items():
        row, created = RotationPolicy.objects.get_or_create(
            slug=slug, defaults={"document": to_json(policy), "preset": True, "created_at": now}
        )
        if not created and to_json(policy).keys() - row.document.keys():
            row.document = {**to_json(policy), **row.document}
            row.save(update_fields=["document"])


def read_policy(document: Mapping[str, Any], *, base: Policy | None = None) -> Policy:
    """A policy from a request. Raises ``validation_error`` (``unknown_field`` for a strange member)."""
    try:
        policy = from_json(document, base=base) if base is not None else from_json(document)
    except PolicyError as error:
        raise invalid(error.field, str(error)) from error
    if policy.cutover and not policy.approvals.get("start"):
        text = "In a cutover consumers have no key for a moment: another person has to approve its start."
        raise invalid("approvals", text)
    return policy


@transaction.atomic
def create_policy(actor: Actor, *, slug: str, document: Mapping[str, Any], now: datetime) -> RotationPolicy:
    """A named policy; members left out are those of ``standard``."""
    actor.demand_admin()
    if RotationPolicy.objects.filter(slug=slug).exists():
        raise invalid("slug", "A policy with this slug exists already.")
    row = RotationPolicy(slug=slug, document=to_json(read_policy(document)), created_at=now)
    row.full_clean()
    row.save()
    audit.record("policy:created", actor=actor, now=now, policy=slug)
    return row


def mark_of(policy: RotationPolicy) -> str:
    """What a person saw of a policy: 16 hexadecimal digits over its members."""
    return hashlib.sha256(json.dumps(to_json(policy.value), sort_keys=True).encode()).hexdigest()[:16]


@transaction.atomic
def change_policy(
    actor: Actor, policy: RotationPolicy, *, document: Mapping[str, Any], seen: str = "", now: datetime
) -> RotationPolicy:
    """Change some members. Rotations that are running keep the policy they started with.

    ``seen``: ``mark_of`` the policy as the person saw it; ``precondition_failed`` where it is another one.
    """
    actor.demand_admin()
    row = RotationPolicy.objects.select_for_update().get(pk=policy.pk)
    if seen and seen != mark_of(row):
        raise KeyturnError("precondition_failed", "Somebody else has saved this policy meanwhile.")
    row.document = to_json(read_policy(document, base=row.value))
    row.save()
    audit.record("policy:changed", actor=actor, now=now, policy=row.slug, fields=sorted(document))
    return row


@transaction.atomic
def remove_policy(actor: Actor, policy: RotationPolicy, *, now: datetime) -> None:
    """Raises ``invalid_transition`` for a preset, and while a key follows it, saying which."""
    actor.demand_admin()
    row = RotationPolicy.objects.select_for_update().get(pk=policy.pk)
    if row.preset:
        raise KeyturnError("invalid_transition", "This policy is there from the start and stays.")
    users = KeySchedule.objects.filter(policy=row).select_related("key__service", "key__environment")
    names = [str(schedule.key) for schedule in users[: NAMED + 1]]
    if names:
        more = " and others" if len(names) > NAMED else ""
        raise KeyturnError(
            "invalid_transition", f"It is followed by {', '.join(names[:NAMED])}{more}. Move them first."
        )
    row.delete()
    audit.record("policy:removed", actor=actor, now=now, policy=row.slug)


def guards_protected(policy: RotationPolicy) -> bool:
    """Whether a key of a protected environment follows it, by choice or because it has not chosen."""
    keys = Key.objects.filter(environment__protected=True)
    if keys.filter(schedule__policy=policy).exists():
        return True
    undecided = keys.filter(schedule__isnull=True)
    if policy.slug == STANDARD:
        return undecided.exclude(environment__slug__in=DEFAULT_POLICY).exists()
    chosen = [environment for environment, slug in DEFAULT_POLICY.items() if slug == policy.slug]
    return undecided.filter(environment__slug__in=chosen).exists()


def policy_for(key: Key) -> RotationPolicy:
    """The key's own policy, or the default of its environment."""
    schedule = KeySchedule.objects.select_related("policy").filter(key=key).first()
    if schedule is not None:
        return schedule.policy
    return RotationPolicy.objects.get(slug=DEFAULT_POLICY.get(key.environment.slug, STANDARD))


@transaction.atomic
def assign_policy(actor: Actor, key: Key, policy: RotationPolicy | None, *, now: datetime) -> KeySchedule:
    """Let a key follow a policy from now on; its next rotation is an interval (less a jitter) away."""
    key = lock_key(key.id)  # before the schedule, as the engine does when a rotation is over
    actor.demand("manage", key.service.team_id)
    chosen = policy or policy_for(key)
    due = due_of(key, chosen.value, since=now)
    schedule, _ = KeySchedule.objects.update_or_create(
        key=key,
        defaults={
            "policy": chosen,
            "next_rotation_at": due.at if due else None,
            "trigger": due.trigger if due else "schedule",
            "reason": due.reason[:500] if due else "",
            "held_until": None,
            "held_code": "",
            "held_reason": "",
        },
    )
    audit.record(
        "policy:assigned",
        actor=actor,
        now=now,
        key=key,
        policy=chosen.slug,
        next_rotation_at=due.at.isoformat() if due else None,
    )
    return schedule


def install_all(*, now: datetime) -> None:
    """Everything that is there from the start, in both rooms."""
    catalogue.install_presets(now=now)
    install_presets(now=now)
