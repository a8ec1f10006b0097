"""A rotation, a plan and an emergency as JSON, and the description of each for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any

from rest_framework import serializers

from keyvault.api.serializers import DurationField, TimeField
from keyvault.domain import State
from keyvault.models import KeyVersion
from rotation.approvals import approvals_of
from rotation.facts import Counts, Kind, Observations, Offender, Side, Stage, Verb
from rotation.models import Rotation
from rotation.observe import observe
from rotation.plan import Plan
from rotation.planned import rotation_digest
from rotation.policy import APPROVALS, from_json
from rotation.proof import offenders
from rotation.services.saying import verbs_of

STAGES = [stage.value for stage in Stage]
VERBS = [verb.value for verb in Verb]
_COUNTS = [item.name for item in fields(Counts)]
_PROVED = (Stage.MONITOR, Stage.REVOKE)


class AttentionSerializer(serializers.Serializer[Any]):
    code = serializers.CharField()
    reason = serializers.CharField()
    verbs = serializers.ListField(child=serializers.ChoiceField(choices=VERBS))


class SideSerializer(serializers.Serializer[Any]):
    version = serializers.IntegerField()
    state = serializers.ChoiceField(choices=[state.value for state in State])
    fingerprint = serializers.CharField(allow_blank=True)


class RotationSummarySerializer(serializers.Serializer[Any]):
    """What lists show."""

    id = serializers.UUIDField()
    service = serializers.CharField()
    environment = serializers.CharField()
    stage = serializers.ChoiceField(choices=STAGES)
    step = serializers.IntegerField()
    weight = serializers.IntegerField(min_value=0, max_value=100)
    paused = serializers.BooleanField()
    attention = AttentionSerializer(allow_null=True)
    waiting_for = serializers.CharField(allow_null=True)
    outgoing = SideSerializer(allow_null=True)
    incoming = SideSerializer(allow_null=True)
    policy_slug = serializers.CharField()
    trigger = serializers.CharField()
    reason = serializers.CharField(allow_blank=True)
    requested_by = serializers.CharField()
    created_at = TimeField()
    stage_entered_at = TimeField()
    deadline_at = TimeField()
    next_check_at = TimeField(allow_null=True)
    finished_at = TimeField(allow_null=True)
    verbs = serializers.ListField(child=serializers.ChoiceField(choices=VERBS))


class SharesSerializer(serializers.Serializer[Any]):
    target = serializers.IntegerField()
    assigned = serializers.FloatField(allow_null=True)
    delivered = serializers.FloatField(allow_null=True)
    observed = serializers.FloatField(allow_null=True)


class ClockSerializer(serializers.Serializer[Any]):
    observed = DurationField()
    required = DurationField()  # type: ignore[assignment]  # DRF takes fields out of the class
    note = serializers.CharField(allow_blank=True)


class OffenderSerializer(serializers.Serializer[Any]):
    who = serializers.CharField()
    why = serializers.CharField()
    last_seen = TimeField(allow_null=True)


class ProofSerializer(serializers.Serializer[Any]):
    quiet = serializers.BooleanField()
    offenders = OffenderSerializer(many=True)


class VerdictSerializer(serializers.Serializer[Any]):
    result = serializers.CharField()
    code = serializers.CharField(allow_blank=True)
    reason = serializers.CharField(allow_blank=True)
    passes = serializers.IntegerField()
    failed_checks = serializers.IntegerField()


class CountsSerializer(serializers.Serializer[Any]):
    """Reported requests within the policy's window."""

    ok = serializers.IntegerField()
    auth_invalid = serializers.IntegerField()
    auth_missing = serializers.IntegerField()
    rate_limited = serializers.IntegerField()
    not_found_job = serializers.IntegerField()
    client_error = serializers.IntegerField()
    server_error = serializers.IntegerField()
    timeout = serializers.IntegerField()


class BothCountsSerializer(serializers.Serializer[Any]):
    incoming = CountsSerializer()
    outgoing = CountsSerializer()


class EventSerializer(serializers.Serializer[Any]):
    sequence = serializers.IntegerField()
    at = TimeField()
    name = serializers.CharField()
    stage = serializers.ChoiceField(choices=STAGES)
    weight = serializers.IntegerField()
    actor = serializers.CharField()
    reason = serializers.CharField(allow_blank=True)


class ApprovalSerializer(serializers.Serializer[Any]):
    transition = serializers.ChoiceField(choices=APPROVALS)
    who = serializers.CharField()
    reason = serializers.CharField(allow_blank=True)
    at = TimeField()
    expires_at = TimeField()
    lapsed = serializers.CharField(allow_blank=True, help_text="Why it does not count; empty where it does.")


class RotationSerializer(RotationSummarySerializer):
    """A rotation with everything that is known of it now."""

    policy = serializers.DictField()
    plan = serializers.CharField(help_text="The digest of its plan, which approvals are bound to.")
    approvals = ApprovalSerializer(many=True)
    shares = SharesSerializer()
    clock = ClockSerializer()
    proof = ProofSerializer()
    verdict = VerdictSerializer(allow_null=True)
    counts = BothCountsSerializer()
    rolled_back_reason = serializers.CharField(allow_null=True)
    events = EventSerializer(many=True)


def _side(version: KeyVersion | None) -> dict[str, Any] | None:
    if version is None:
        return None
    return {"version": version.number, "state": str(version.state), "fingerprint": version.short_fingerprint}


def _summary(rotation: Rotation) -> dict[str, Any]:
    attention = None
    if rotation.attention:
        attention = {
            "code": rotation.attention,
            "reason": rotation.attention_reason,
            "verbs": rotation.attention_verbs,
        }
    return {
        "id": rotation.id,
        "service": rotation.key.service.slug,
        "environment": rotation.key.environment.slug,
        "stage": str(rotation.stage),
        "step": rotation.step,
        "weight": rotation.weight,
        "paused": rotation.paused,
        "attention": attention,
        "waiting_for": rotation.waiting_for or None,
        "outgoing": _side(rotation.outgoing),
        "incoming": _side(rotation.incoming),
        "policy_slug": rotation.policy_slug,
        "trigger": rotation.trigger,
        "reason": rotation.reason,
        "requested_by": rotation.requested_by,
        "created_at": rotation.created_at,
        "stage_entered_at": rotation.stage_entered_at,
        "deadline_at": rotation.deadline_at,
        "next_check_at": rotation.check_at,
        "finished_at": rotation.finished_at,
        "verbs": list(verbs_of(rotation)),
    }


def show_summary(rotation: Rotation) -> dict[str, Any]:
    return dict(RotationSummarySerializer(_summary(rotation)).data)


def show_rotation(rotation: Rotation, now: datetime) -> dict[str, Any]:
    """The whole rotation. The row must come with its key, service, provider, environment and versions."""
    policy = from_json(rotation.policy)
    seen = observe(rotation, now)
    verdict = None
    if rotation.verdict:
        verdict = {
            "result": rotation.verdict,
            "code": rotation.verdict_code,
            "reason": rotation.verdict_reason,
            "passes": rotation.passes,
            "failed_checks": rotation.failed_checks,
        }
    shown = {
        **_summary(rotation),
        "policy": rotation.policy,
        "plan": rotation_digest(rotation),
        "approvals": approvals_of(rotation, now),
        "shares": seen.shares,
        "clock": {
            "observed": timedelta(seconds=int(rotation.monitored_seconds)),
            "required": policy.monitor,
            "note": rotation.clock_note,
        },
        "proof": _proof(rotation, now),
        "verdict": verdict,
        "counts": _both_counts(seen),
        "rolled_back_reason": rotation.rolled_back_reason or None,
        "events": list(rotation.events.all()),
    }
    return dict(RotationSerializer(shown).data)


def _proof(rotation: Rotation, now: datetime) -> dict[str, Any]:
    """Whether the outgoing version is unused by now, and who still uses it; never quiet before monitoring."""
    if rotation.stage not in _PROVED:
        forced = rotation.force_asked_at is not None
        return {"quiet": rotation.stage == Stage.SUCCEEDED and not forced, "offenders": []}
    found: tuple[Offender, ...] = offenders(rotation, from_json(rotation.policy), now)
    return {"quiet": not found, "offenders": found}


def _both_counts(seen: Observations) -> dict[str, Mapping[str, int]]:
    return {
        side: {name: getattr(evidence.counts, name) for name in _COUNTS}
        for side, evidence in (("incoming", seen.incoming), ("outgoing", seen.outgoing))
    }


def etag(rotation: Rotation) -> str:
    return f'"r{rotation.revision}"'


# Plans ---------------------------------------------------------------------------------------------


class PlannedCallSerializer(serializers.Serializer[Any]):
    operation = serializers.ChoiceField(choices=[kind.value for kind in Kind])
    side = serializers.ChoiceField(choices=[*(side.value for side in Side), "both"])
    by = serializers.ChoiceField(choices=["driver", "person"])
    note = serializers.CharField(allow_blank=True)


class QuotaSerializer(serializers.Serializer[Any]):
    limit = serializers.IntegerField(allow_null=True)
    used = serializers.IntegerField()
    headroom = serializers.IntegerField(allow_null=True)


class PlannedInstanceSerializer(serializers.Serializer[Any]):
    consumer = serializers.CharField()
    instance = serializers.CharField()
    team = serializers.CharField()


class PlannedStepSerializer(serializers.Serializer[Any]):
    weight = serializers.IntegerField()
    at = TimeField()
    instances = PlannedInstanceSerializer(many=True)


class PlannedStageSerializer(serializers.Serializer[Any]):
    stage = serializers.ChoiceField(choices=STAGES)
    at = TimeField()


class ApprovalsSerializer(serializers.Serializer[Any]):
    """How many other people have to approve each transition."""

    start = serializers.IntegerField()
    shift_past_50 = serializers.IntegerField()
    revoke = serializers.IntegerField()
    force = serializers.IntegerField()


class UnmetSerializer(serializers.Serializer[Any]):
    code = serializers.CharField()
    message = serializers.CharField()
    blocking = serializers.BooleanField()


class PlanSerializer(serializers.Serializer[Any]):
    """What a rotation would do. Times are the earliest ones."""

    dry_run = serializers.BooleanField()
    service = serializers.CharField()
    environment = serializers.CharField()
    policy = serializers.CharField()
    outgoing = serializers.IntegerField(allow_null=True)
    incoming = serializers.IntegerField()
    calls = PlannedCallSerializer(many=True)
    quota = QuotaSerializer()
    steps = PlannedStepSerializer(many=True)
    stages = PlannedStageSerializer(many=True)
    approvals = ApprovalsSerializer()
    gap = serializers.CharField(
        allow_blank=True, help_text="When consumers have no key, in words. Empty where they always have one."
    )
    digest = serializers.CharField(help_text="What approvals are bound to. It does not change with time.")
    unmet = UnmetSerializer(many=True)


def show_plan(plan: Plan) -> dict[str, Any]:
    shown = {
        **{item.name: getattr(plan, item.name) for item in fields(plan)},
        "dry_run": True,
        "stages": [{"stage": str(stage), "at": at} for stage, at in plan.stages],
    }
    return dict(PlanSerializer(shown).data)
