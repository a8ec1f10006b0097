"""The plan of a bulk emergency and its run as JSON, and the description of each for the OpenAPI document."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rest_framework import serializers

from keyvault.actors import Actor
from keyvault.api.serializers import TimeField
from rotation.models import EmergencyItem, EmergencyRun
from rotation.services import results, runs
from rotation.services.emergencies import MODES, Way
from rotation.services.radius import SCOPES, PlannedKey, PlannedToken, Radius

_SCOPES = ["key", *SCOPES]
_STATES = ["proposed", "running", "stopped", "done"]


class EmergencyRefusalSerializer(serializers.Serializer[Any]):
    code = serializers.CharField()
    message = serializers.CharField()


class PlannedEmergencySerializer(serializers.Serializer[Any]):
    """One key. ``instances`` were given the leaked version in the last 24 hours."""

    service = serializers.CharField()
    environment = serializers.CharField()
    team = serializers.CharField()
    provider = serializers.CharField()
    version = serializers.IntegerField(allow_null=True)
    why = serializers.CharField()
    action = serializers.ChoiceField(choices=[way.value for way in Way])
    rotation = serializers.UUIDField(allow_null=True)
    stage = serializers.CharField(allow_null=True)
    instances = serializers.ListField(child=serializers.CharField())
    open_jobs = serializers.IntegerField()
    last = serializers.BooleanField()
    gap = serializers.BooleanField(help_text="Consumers have no key until the new one is there.")
    error = EmergencyRefusalSerializer(allow_null=True)


class PlannedTokenSerializer(serializers.Serializer[Any]):
    """A consumer token that leaked, and the keys that it opens."""

    consumer = serializers.CharField()
    environment = serializers.CharField()
    team = serializers.CharField()
    hint = serializers.CharField()
    exposed = serializers.ListField(child=serializers.CharField())
    error = EmergencyRefusalSerializer(allow_null=True)


class RadiusSerializer(serializers.Serializer[Any]):
    """What would be touched, most urgent first. ``count`` leaves out what would be refused."""

    dry_run = serializers.BooleanField()
    mode = serializers.ChoiceField(choices=MODES)
    scope = serializers.ChoiceField(choices=_SCOPES)
    subject = serializers.CharField(allow_blank=True)
    plan = serializers.CharField()
    count = serializers.IntegerField()
    items = PlannedEmergencySerializer(many=True)
    tokens = PlannedTokenSerializer(many=True)


class EmergencyItemSerializer(serializers.Serializer[Any]):
    """One key, or a consumer token (``service`` and ``version`` are null then)."""

    service = serializers.CharField(allow_null=True)
    environment = serializers.CharField()
    team = serializers.CharField()
    version = serializers.IntegerField(allow_null=True)
    consumer = serializers.CharField(allow_null=True)
    why = serializers.CharField(allow_blank=True)
    result = serializers.ChoiceField(choices=results.RESULTS)
    rotation = serializers.UUIDField(allow_null=True)
    stage = serializers.CharField(allow_null=True)
    started_at = TimeField(allow_null=True)
    error = EmergencyRefusalSerializer(allow_null=True)


class EmergencyProgressSerializer(serializers.Serializer[Any]):
    waiting = serializers.IntegerField()
    running = serializers.IntegerField()
    attention = serializers.IntegerField()
    done = serializers.IntegerField()
    failed = serializers.IntegerField()
    refused = serializers.IntegerField()
    skipped = serializers.IntegerField()


class EmergencyRunSummarySerializer(serializers.Serializer[Any]):
    """A run as lists show it. ``progress`` counts the items that you may know of."""

    id = serializers.UUIDField()
    state = serializers.ChoiceField(choices=_STATES)
    mode = serializers.ChoiceField(choices=MODES)
    scope = serializers.ChoiceField(choices=_SCOPES)
    subject = serializers.CharField(allow_blank=True)
    reason = serializers.CharField()
    requested_by = serializers.CharField()
    created_at = TimeField()
    finished_at = TimeField(allow_null=True)
    progress = EmergencyProgressSerializer()


class EmergencyRunSerializer(EmergencyRunSummarySerializer):
    """``proposal`` is the plan that a lead may confirm; null once that has happened."""

    items = EmergencyItemSerializer(many=True)
    proposal = RadiusSerializer(allow_null=True)


def _refusal(code: str, message: str) -> dict[str, str] | None:
    return {"code": code, "message": message} if code else None


def _planned(planned: PlannedKey) -> dict[str, Any]:
    key, version, rotation = planned.target.key, planned.target.version, planned.rotation
    refusal = planned.refusal
    return {
        "service": key.service.slug,
        "environment": key.environment.slug,
        "team": key.service.team.slug,
        "provider": key.service.provider.slug,
        "version": version.number if version is not None else None,
        "why": planned.target.why,
        "action": str(planned.way),
        "rotation": rotation.id if rotation is not None else None,
        "stage": str(rotation.stage) if rotation is not None else None,
        "instances": planned.instances,
        "open_jobs": planned.open_jobs,
        "last": planned.last,
        "gap": planned.gap,
        "error": _refusal(refusal.code, refusal.message) if refusal is not None else None,
    }


def _planned_token(planned: PlannedToken) -> dict[str, Any]:
    token, refusal = planned.token, planned.refusal
    return {
        "consumer": token.consumer.slug,
        "environment": token.environment.slug,
        "team": token.consumer.team.slug,
        "hint": token.hint,
        "exposed": planned.exposed,
        "error": _refusal(refusal.code, refusal.message) if refusal is not None else None,
    }


def show_radius(drawn: Radius) -> dict[str, Any]:
    shown = {
        "dry_run": True,
        "mode": drawn.mode,
        "scope": drawn.scope,
        "subject": drawn.subject,
        "plan": drawn.digest,
        "count": drawn.count,
        "items": [_planned(planned) for planned in drawn.keys],
        "tokens": [_planned_token(planned) for planned in drawn.tokens],
    }
    return dict(RadiusSerializer(shown).data)


def _item(item: EmergencyItem) -> dict[str, Any]:
    key, token, rotation = item.key, item.token, item.rotation
    owner = key.service.team if key is not None else token.consumer.team if token is not None else None
    place = key.environment if key is not None else token.environment if token is not None else None
    return {
        "service": key.service.slug if key is not None else None,
        "environment": place.slug if place is not None else "",
        "team": owner.slug if owner is not None else "",
        "version": item.version.number if item.version is not None else None,
        "consumer": token.consumer.slug if token is not None else None,
        "why": item.why,
        "result": results.result_of(item),
        "rotation": rotation.id if rotation is not None else None,
        "stage": str(rotation.stage) if rotation is not None else None,
        "started_at": item.started_at,
        "error": _refusal(item.code, item.message),
    }


def _summary(run: EmergencyRun, items: Sequence[EmergencyItem]) -> dict[str, Any]:
    names = ("id", "state", "mode", "scope", "subject", "reason", "requested_by", "created_at", "finished_at")
    return {**{name: getattr(run, name) for name in names}, "progress": results.progress(items)}


def show_run(actor: Actor, run: EmergencyRun, now: datetime) -> dict[str, Any]:
    """The run with those of its items that the actor may know of."""
    items = list(runs.items_for(actor, run))
    shown = {**_summary(run, items), "items": [_item(item) for item in items], "proposal": None}
    if run.state == EmergencyRun.PROPOSED:
        shown["proposal"] = show_radius(runs.proposal(actor, run, now=now))
    return dict(EmergencyRunSerializer(shown).data)


def show_runs(actor: Actor, page: Sequence[EmergencyRun]) -> list[dict[str, Any]]:
    items: dict[uuid.UUID, list[EmergencyItem]] = {run.id: [] for run in page}
    for item in runs.items_for(actor, *page):
        items[item.run_id].append(item)
    return [dict(EmergencyRunSummarySerializer(_summary(run, items[run.id])).data) for run in page]
