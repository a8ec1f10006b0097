"""Versions of a key, and the reveal that a token cannot do. No secret is ever part of these answers."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from keyvault.api.base import ManagementView, documented, visible
from keyvault.api.idempotency import idempotent
from keyvault.api.pagination import PageQuery, paginate
from keyvault.api.serializers import ReasonSerializer, TimeField
from keyvault.domain import Label, State
from keyvault.exceptions import KeyturnError
from keyvault.models import Key, KeyVersion


class VersionSerializer(serializers.Serializer[Any]):
    version = serializers.IntegerField(source="number")
    state = serializers.ChoiceField(choices=[state.value for state in State])
    label = serializers.ChoiceField(  # type: ignore[assignment]  # DRF takes fields out of the class
        choices=[label.value for label in Label], allow_null=True
    )
    fingerprint = serializers.CharField(source="short_fingerprint", allow_blank=True)
    provider_key_id = serializers.CharField(allow_blank=True)
    created_at = TimeField()
    activated_at = TimeField(allow_null=True)
    disabled_at = TimeField(allow_null=True)
    revoked_at = TimeField(allow_null=True)
    destroyed_at = TimeField(allow_null=True)
    expires_at = TimeField(allow_null=True)
    withheld_at = TimeField(allow_null=True)
    compromised_at = TimeField(allow_null=True)


def label_of(key: Key, version: KeyVersion) -> str | None:
    """Which label of its key this version carries, if any."""
    labels = {key.current_id: "current", key.pending_id: "pending", key.previous_id: "previous"}
    return labels.get(version.id)


class _KeyView(ManagementView):
    def key(self, service: str, environment: str) -> Key:
        rows = Key.objects.for_actor(self.actor).select_related("service", "environment")
        return visible(rows.named(service, environment))


class VersionsView(_KeyView):
    query = PageQuery

    @documented(
        "List the versions of a key", answers={200: VersionSerializer}, query=PageQuery, page=True, tag="keys"
    )
    def get(self, request: Request, service: str, environment: str) -> Response:
        key = self.key(service, environment)

        def show(page: Any) -> list[Any]:
            for version in page:
                version.label = label_of(key, version)
            return list(VersionSerializer(page, many=True).data)

        rows = KeyVersion.objects.filter(key=key).defer("ciphertext", "wrapped_dek")
        return Response(
            paginate(rows, self.parameters, name=f"versions:{key.id}", order=("-number",), show=show)
        )


class RevealView(_KeyView):
    @documented(
        "Reveal a secret (in the console only)",
        request=ReasonSerializer,
        answers={},
        description="A person must have signed in again within 5 minutes, which a token cannot: always 403.",
        tag="keys",
    )
    @idempotent
    def post(self, request: Request, service: str, environment: str) -> Response:
        key = self.key(service, environment)
        self.actor.demand("manage", key.service.team_id)
        self.body(ReasonSerializer)
        raise KeyturnError(
            "reauthentication_required",
            "Revealing a secret needs a person who has signed in again just now. Do it in the console.",
        )
