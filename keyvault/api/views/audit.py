"""The audit trail, as far as the caller may see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db.models import QuerySet
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from keyvault.actors import Actor
from keyvault.api.base import ManagementView, documented
from keyvault.api.pagination import PageQuery, paginate
from keyvault.api.serializers import StrictCharField, StrictChoiceField, TimeField
from keyvault.audit import EVENTS
from keyvault.models import AuditEvent, Team
from keyvault.models.base import SLUG


class AuditQuery(PageQuery):
    actor = StrictCharField(required=False, max_length=150, help_text="Who did it: a username or a consumer.")
    event = StrictChoiceField(required=False, choices=sorted(EVENTS), help_text="An event name.")
    key = serializers.RegexField(
        rf"\A{SLUG}/{SLUG}\Z", required=False, max_length=127, help_text="service/environment"
    )
    since = TimeField(required=False, help_text="Events at or after this time.")


class AuditActorSerializer(serializers.Serializer[Any]):
    kind = serializers.ChoiceField(choices=["user", "consumer", "system"])
    name = serializers.CharField()


class AuditEventSerializer(serializers.Serializer[Any]):
    sequence = serializers.IntegerField()
    at = TimeField()
    event = serializers.CharField()
    actor = AuditActorSerializer()
    team = serializers.CharField(allow_null=True)
    service = serializers.CharField(allow_null=True)
    environment = serializers.CharField(allow_null=True)
    subject = serializers.CharField(allow_blank=True)
    reason = serializers.CharField(allow_blank=True)
    details = serializers.DictField()
    request_id = serializers.CharField(allow_blank=True)


def events_for(actor: Actor) -> QuerySet[AuditEvent]:
    """Everything for administrators and auditors, the events of their teams for others."""
    rows = AuditEvent.objects.all()
    return rows if actor.sees_everything else rows.filter(team_id__in=actor.team_ids)


def _show(page: Sequence[AuditEvent]) -> list[Any]:
    teams = dict(Team.objects.filter(id__in={row.team_id for row in page}).values_list("id", "slug"))
    items = [
        {
            "sequence": row.sequence,
            "at": row.at,
            "event": row.name,
            "actor": {"kind": row.actor_kind, "name": row.actor},
            "team": teams.get(row.team_id) if row.team_id else None,
            "service": row.service or None,
            "environment": row.environment or None,
            "subject": row.subject,
            "reason": row.reason,
            "details": row.details,
            "request_id": row.request_id,
        }
        for row in page
    ]
    return list(AuditEventSerializer(items, many=True).data)


class AuditView(ManagementView):
    query = AuditQuery

    @documented(
        "List audit events", answers={200: AuditEventSerializer}, query=AuditQuery, page=True, tag="audit"
    )
    def get(self, request: Request) -> Response:
        given = self.parameters
        rows = events_for(self.actor)
        if "actor" in given:
            rows = rows.filter(actor=given["actor"])
        if "event" in given:
            rows = rows.filter(name=given["event"])
        if "key" in given:
            service, _, environment = given["key"].partition("/")
            rows = rows.filter(service=service, environment=environment)
        if "since" in given:
            rows = rows.filter(at__gte=given["since"])
        return Response(paginate(rows, given, name="audit", order=("-sequence",), show=_show))
