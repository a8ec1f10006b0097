"""Emergencies: a secret is known to others. One key, or everything that a selector names."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from keyvault.api.base import ManagementView, documented, named, visible
from keyvault.api.idempotency import idempotent
from keyvault.api.serializers import (
    ReasonSerializer,
    SecretField,
    SlugField,
    StrictBooleanField,
    StrictChoiceField,
)
from keyvault.crypto.intake import SecretRefused, check_secret
from keyvault.crypto.mac import fingerprint_digest
from keyvault.crypto.secret import Secret
from keyvault.exceptions import KeyturnError, invalid
from keyvault.keystore import keys
from keyvault.models import Environment, Key, Provider, Team
from rotation.api.representation import RotationSerializer
from rotation.api.views.rotations import answer
from rotation.services import starting

MODES = ["replace", "kill"]
SELECTORS = ("provider", "team", "environment", "leak")


class LeakField(SecretField):
    """A pasted leak. Keys that we issue ourselves look like tokens of ours, and leak as well."""

    def to_internal_value(self, data: Any) -> Secret:
        try:
            return check_secret(data)
        except SecretRefused as refused:
            if refused.code == "own_token":
                return Secret(data)
            raise serializers.ValidationError(refused.message) from None


class EmergencySerializer(ReasonSerializer):
    mode = StrictChoiceField(choices=MODES, help_text="`kill` stops delivery of the leaked version at once.")


class BulkEmergencySerializer(EmergencySerializer):
    provider = SlugField(required=False)
    team = SlugField(required=False)
    environment = SlugField(required=False)
    leak = LeakField(required=False, help_text="A secret as it was found in the open.")
    dry_run = StrictBooleanField(required=False, help_text="Tell what would be touched; touch nothing.")


class EmergencyRefusalSerializer(serializers.Serializer[Any]):
    code = serializers.CharField()
    message = serializers.CharField()


class EmergencyItemSerializer(serializers.Serializer[Any]):
    service = serializers.CharField()
    environment = serializers.CharField()
    version = serializers.IntegerField(allow_null=True)
    status = serializers.ChoiceField(choices=["planned", "started", "refused"])
    rotation = serializers.UUIDField(allow_null=True)
    error = EmergencyRefusalSerializer(allow_null=True)


class BulkEmergencyAnswerSerializer(serializers.Serializer[Any]):
    """What was started, key by key, production first."""

    mode = serializers.ChoiceField(choices=MODES)
    dry_run = serializers.BooleanField()
    items = EmergencyItemSerializer(many=True)


class KeyEmergencyView(ManagementView):
    @documented(
        "Replace or kill a leaked key",
        request=EmergencySerializer,
        answers={201: RotationSerializer},
        description="An open rotation that has not promoted yet is hurried along; no second one starts.",
        tag="emergencies",
    )
    @idempotent
    def post(self, request: Request, service: str, environment: str) -> Response:
        key = visible(Key.objects.for_actor(self.actor).select_related("service").named(service, environment))
        self.actor.demand("manage", key.service.team_id)
        given = self.body(EmergencySerializer)
        rotation = starting.emergency(
            self.actor, key, mode=given["mode"], reason=given["reason"], now=self.now
        )
        return answer(rotation, self, status=201)


class EmergencyView(ManagementView):
    @documented(
        "Replace or kill every key that a selector names",
        request=BulkEmergencySerializer,
        answers={200: BulkEmergencyAnswerSerializer},
        description="Exactly one of provider, team, environment, leak. Each key succeeds or fails by itself.",
        tag="emergencies",
    )
    @idempotent
    def post(self, request: Request) -> Response:
        given = self.body(BulkEmergencySerializer)
        chosen = self._keys(given)
        dry_run = bool(given.get("dry_run"))
        found = {(key.service.slug, key.environment.slug): key for key in chosen}
        items = [
            self._item(entry, found[entry["service"], entry["environment"]], given, dry_run=dry_run)
            for entry in starting.blast_radius(self.actor, chosen)
        ]
        shown = {"mode": given["mode"], "dry_run": dry_run, "items": items}
        return Response(BulkEmergencyAnswerSerializer(shown).data)

    def _keys(self, given: dict[str, Any]) -> list[Key]:
        selected = [name for name in SELECTORS if name in given]
        if len(selected) != 1:
            raise invalid("body", f"Name exactly one of: {', '.join(SELECTORS)}.")
        if "leak" in given:
            return starting.keys_of_leak(
                self.actor, fingerprint_digest(keys().service.fingerprint, given["leak"])
            )
        rows: QuerySet[Key] = Key.objects.for_actor(self.actor).select_related(
            "service__provider", "environment", "current"
        )
        if "provider" in given:
            rows = rows.filter(service__provider=named(Provider.objects.all(), "provider", given["provider"]))
        elif "team" in given:
            team = named(Team.objects.for_actor(self.actor), "team", given["team"])
            rows = rows.filter(service__team=team)
        else:
            rows = rows.filter(
                environment=named(Environment.objects.all(), "environment", given["environment"])
            )
        return list(rows)

    def _item(
        self, entry: dict[str, Any], key: Key, given: dict[str, Any], *, dry_run: bool
    ) -> dict[str, Any]:
        item = {**entry, "status": "planned", "error": None}
        if dry_run:
            refusal = self._expected_refusal(entry)
            return item if refusal is None else {**item, "status": "refused", "error": refusal}
        try:
            rotation = starting.emergency(
                self.actor, key, mode=given["mode"], reason=given["reason"], now=self.now
            )
        except KeyturnError as refused:
            # One key that cannot be rotated must not save the others from it.
            return {**item, "status": "refused", "error": {"code": refused.code, "message": refused.message}}
        return {**item, "status": "started", "rotation": rotation.id}

    def _expected_refusal(self, entry: dict[str, Any]) -> dict[str, str] | None:
        if not entry["allowed"]:
            return {"code": "permission_denied", "message": "This needs the role lead in the team."}
        if entry["version"] is None:
            return {"code": "no_active_version", "message": "This key has no active version."}
        return None
