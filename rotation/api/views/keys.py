"""Keys of a service: added with a first version, and how each of them is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from keyvault.actors import Actor
from keyvault.api.base import ManagementView, documented, named, visible
from keyvault.api.idempotency import idempotent
from keyvault.api.pagination import PageQuery, paginate
from keyvault.api.serializers import (
    SecretField,
    SlugField,
    StrictBooleanField,
    StrictSerializer,
    TextField,
    TimeField,
)
from keyvault.models import Environment, Key, Service
from keyvault.services import keys as key_services
from rotation.models import KeySchedule, Rotation, RotationPolicy
from rotation.services import adding, expiry, policies


class KeyCreateSerializer(StrictSerializer):
    environment = SlugField()
    secret = SecretField(
        required=False, help_text="Left out, the provider's driver issues the first version."
    )
    provider_key_id = TextField(
        required=False, allow_blank=True, max_length=200, help_text="What the provider calls this secret."
    )
    expires_at = TimeField(required=False, help_text="When the provider lets this secret expire.")
    policy = SlugField(required=False, help_text="Default: the environment's.")
    never_shown = StrictBooleanField(
        required=False, help_text="Nobody may reveal it. Default: true in a protected environment."
    )


class KeyChangeSerializer(StrictSerializer):
    never_shown = StrictBooleanField(required=False, help_text="Nobody may reveal it.")
    expires_at = TimeField(
        required=False, allow_null=True, help_text="When the provider lets the current version expire."
    )
    policy = SlugField(required=False)


class KeySerializer(serializers.Serializer[Any]):
    service = serializers.CharField()
    environment = serializers.CharField()
    provider = serializers.CharField()
    team = serializers.CharField()
    current = serializers.IntegerField(allow_null=True, help_text="Version number.")
    pending = serializers.IntegerField(allow_null=True)
    previous = serializers.IntegerField(allow_null=True)
    weight = serializers.IntegerField(allow_null=True)
    policy = serializers.CharField(allow_null=True)
    next_rotation_at = TimeField(allow_null=True)
    due_trigger = serializers.CharField(allow_null=True, help_text="What set the date.")
    due_reason = serializers.CharField(allow_null=True)
    held_code = serializers.CharField(allow_null=True, help_text="Why it was not started although it is due.")
    held_reason = serializers.CharField(allow_null=True)
    held_until = TimeField(allow_null=True)
    last_rotation_at = TimeField(allow_null=True)
    rotation = serializers.UUIDField(allow_null=True, help_text="The open rotation.")
    expires_at = TimeField(allow_null=True, help_text="Of the current version, as far as it is known.")
    never_shown = serializers.BooleanField()
    created_at = TimeField()


def keys_for(actor: Actor) -> QuerySet[Key]:
    return Key.objects.for_actor(actor).select_related(
        "service__provider", "service__team", "environment", "current", "pending", "previous"
    )


def show_keys(rows: Sequence[Key]) -> list[Any]:
    """Keys with their policy and open rotation (two queries for all of them)."""
    ids = [row.id for row in rows]
    schedules = {
        schedule.key_id: schedule
        for schedule in KeySchedule.objects.filter(key_id__in=ids).select_related("policy")
    }
    rotations = dict(Rotation.objects.open().filter(key_id__in=ids).values_list("key_id", "id"))
    return list(
        KeySerializer(
            [_plain(row, schedules.get(row.id), rotations.get(row.id)) for row in rows], many=True
        ).data
    )


def _plain(key: Key, schedule: KeySchedule | None, rotation: object) -> dict[str, Any]:
    return {
        "service": key.service.slug,
        "environment": key.environment.slug,
        "provider": key.service.provider.slug,
        "team": key.service.team.slug,
        "current": key.current.number if key.current else None,
        "pending": key.pending.number if key.pending else None,
        "previous": key.previous.number if key.previous else None,
        "weight": key.weight,
        "policy": schedule.policy.slug if schedule else policies.policy_for(key).slug,
        "next_rotation_at": schedule.next_rotation_at if schedule else None,
        **_date(schedule),
        "last_rotation_at": schedule.last_rotation_at if schedule else None,
        "rotation": rotation,
        "expires_at": key.current.expires_at if key.current else None,
        "never_shown": key.never_shown,
        "created_at": key.created_at,
    }


def _date(schedule: KeySchedule | None) -> dict[str, Any]:
    """What set the date of a key, and what holds it although it is due."""
    dated = schedule if schedule is not None and schedule.next_rotation_at is not None else None
    held = dated if dated is not None and dated.held_code else None
    return {
        "due_trigger": dated.trigger if dated else None,
        "due_reason": dated.reason if dated else None,
        "held_code": held.held_code if held else None,
        "held_reason": held.held_reason if held else None,
        "held_until": held.held_until if held else None,
    }


class KeysView(ManagementView):
    query = PageQuery

    def _service(self, slug: str) -> Service:
        rows = Service.objects.for_actor(self.actor).select_related("provider", "team")
        return visible(rows, slug=slug)

    @documented(
        "List the keys of a service", answers={200: KeySerializer}, query=PageQuery, page=True, tag="keys"
    )
    def get(self, request: Request, service: str) -> Response:
        row = self._service(service)
        return Response(
            paginate(
                keys_for(self.actor).filter(service=row),
                self.parameters,
                name=f"keys:{row.id}",
                order=("environment__position", "environment__slug"),
                show=show_keys,
            )
        )

    @documented(
        "Add a key",
        request=KeyCreateSerializer,
        answers={201: KeySerializer},
        description="Imports the first version, or starts the rotation that issues it where the driver can.",
        tag="keys",
    )
    @idempotent
    def post(self, request: Request, service: str) -> Response:
        row = self._service(service)
        self.actor.demand("manage", row.team_id)
        given = self.body(KeyCreateSerializer)
        policy = None
        if "policy" in given:
            policy = named(RotationPolicy.objects.all(), "policy", given["policy"])
        added = adding.add_key(
            self.actor,
            row,
            named(Environment.objects.all(), "environment", given["environment"]),
            secret=given.get("secret"),
            provider_key_id=given.get("provider_key_id", ""),
            expires_at=given.get("expires_at"),
            policy=policy,
            never_shown=given.get("never_shown"),
            now=self.now,
        )
        return Response(show_keys([added.key])[0], status=201)


class KeyView(ManagementView):
    def _key(self, service: str, environment: str) -> Key:
        rows = keys_for(self.actor).filter(service__slug=service, environment__slug=environment)
        return visible(rows)

    @documented("Get a key (without its secret)", answers={200: KeySerializer}, tag="keys")
    def get(self, request: Request, service: str, environment: str) -> Response:
        return Response(show_keys([self._key(service, environment)])[0])

    @documented("Change a key", request=KeyChangeSerializer, answers={200: KeySerializer}, tag="keys")
    def patch(self, request: Request, service: str, environment: str) -> Response:
        key = self._key(service, environment)
        self.actor.demand("manage", key.service.team_id)
        given = self.changes(KeyChangeSerializer)
        with transaction.atomic():
            if "never_shown" in given:
                key_services.set_never_shown(self.actor, key, never_shown=given["never_shown"], now=self.now)
            if "expires_at" in given:
                expiry.set_expiry(self.actor, key, given["expires_at"], now=self.now)
            if "policy" in given:
                policy = named(RotationPolicy.objects.all(), "policy", given["policy"])
                policies.assign_policy(self.actor, key, policy, now=self.now)
        return Response(show_keys([self._key(service, environment)])[0])
