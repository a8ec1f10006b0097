"""Drift: where a provider's keys differ from those held here. Reading only."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from keyvault.api.base import ManagementView, documented
from keyvault.api.pagination import PageQuery, paginate
from keyvault.api.serializers import SlugField, TimeField
from rotation.drift import Difference
from rotation.models import Finding


class DriftQuery(PageQuery):
    provider = SlugField(required=False)


class FindingSerializer(serializers.Serializer[Any]):
    """`missing`: should live, and does not. `undead`: should be dead, and is not. `unowned`: nobody here owns
    it. `unchecked`: the provider could not be looked at."""

    id = serializers.UUIDField()
    provider = serializers.CharField()
    kind = serializers.ChoiceField(choices=[kind.value for kind in Difference])
    service = serializers.CharField(allow_null=True)
    environment = serializers.CharField(allow_null=True)
    version = serializers.IntegerField(allow_null=True)
    provider_key_id = serializers.CharField(allow_blank=True)
    label = serializers.CharField(allow_blank=True)  # type: ignore[assignment]  # DRF takes fields out
    detail = serializers.CharField()
    found_at = TimeField()
    seen_at = TimeField()


def show_finding(row: Finding) -> dict[str, Any]:
    shown = {
        "id": row.id,
        "provider": row.provider.slug,
        "kind": row.kind,
        "service": row.key.service.slug if row.key else None,
        "environment": row.key.environment.slug if row.key else None,
        "version": row.version.number if row.version else None,
        "provider_key_id": row.provider_key_id,
        "label": row.label,
        "detail": row.detail,
        "found_at": row.found_at,
        "seen_at": row.seen_at,
    }
    return dict(FindingSerializer(shown).data)


class DriftView(ManagementView):
    query = DriftQuery

    @documented(
        "List drift",
        answers={200: FindingSerializer},
        query=DriftQuery,
        page=True,
        description="What the last look at the providers found, newest first. Keys that nobody owns are "
        "shown to administrators and auditors. Nothing of it is ever repaired by itself.",
        tag="providers",
    )
    def get(self, request: Request) -> Response:
        rows = Finding.objects.for_actor(self.actor).open()
        if "provider" in self.parameters:
            rows = rows.filter(provider__slug=self.parameters["provider"])
        return Response(
            paginate(
                rows.select_related("provider", "key__service", "key__environment", "version"),
                self.parameters,
                name="drift",
                order=("-found_at", "id"),
                show=lambda page: [show_finding(row) for row in page],
            )
        )
