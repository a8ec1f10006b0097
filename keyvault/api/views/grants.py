"""Grants: which consumer may do what with which key. The team that owns the service decides."""

from __future__ import annotations

import uuid
from typing import Any

from django.db.models import Q, QuerySet
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from keyvault.actors import Actor
from keyvault.api.base import ManagementView, documented, named, visible
from keyvault.api.idempotency import idempotent
from keyvault.api.pagination import PageQuery, paginate
from keyvault.api.serializers import SlugField, StrictChoiceField, StrictSerializer, TimeField
from keyvault.domain import VERBS
from keyvault.models import Consumer, Environment, Grant, Service
from keyvault.services import consumers


class GrantCreateSerializer(StrictSerializer):
    consumer = SlugField()
    service = SlugField()
    environment = SlugField()
    verbs = serializers.ListField(child=StrictChoiceField(choices=VERBS), min_length=1, max_length=len(VERBS))


class GrantSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    consumer = serializers.CharField(source="consumer.slug")
    service = serializers.CharField(source="service.slug")
    environment = serializers.CharField(source="environment.slug")
    verbs = serializers.ListField(child=serializers.ChoiceField(choices=VERBS))
    created_at = TimeField()


class GrantQuery(PageQuery):
    consumer = SlugField(required=False)
    service = SlugField(required=False)
    environment = SlugField(required=False)


def _grants(actor: Actor) -> QuerySet[Grant]:
    """Those that either side's team may know of: the service's and the consumer's."""
    rows = Grant.objects.select_related("consumer", "service", "environment")
    if actor.sees_everything:
        return rows
    teams = actor.team_ids
    return rows.filter(Q(service__team_id__in=teams) | Q(consumer__team_id__in=teams))


class GrantsView(ManagementView):
    query = GrantQuery

    @documented("List grants", answers={200: GrantSerializer}, query=GrantQuery, page=True, tag="grants")
    def get(self, request: Request) -> Response:
        rows = _grants(self.actor)
        for name in ("consumer", "service", "environment"):
            if name in self.parameters:
                rows = rows.filter(**{f"{name}__slug": self.parameters[name]})
        return Response(
            paginate(
                rows,
                self.parameters,
                name="grants",
                order=("consumer__slug", "service__slug", "environment__slug"),
                show=lambda page: list(GrantSerializer(page, many=True).data),
            )
        )

    @documented(
        "Grant, or change what is granted",
        request=GrantCreateSerializer,
        answers={201: GrantSerializer},
        description="Replaces what this consumer was allowed on this key before.",
        tag="grants",
    )
    @idempotent
    def post(self, request: Request) -> Response:
        given = self.body(GrantCreateSerializer)
        service = named(Service.objects.for_actor(self.actor), "service", given["service"])
        self.actor.demand("manage", service.team_id)
        grant = consumers.set_grant(
            self.actor,
            # Whoever owns it: a team lets other teams' consumers use its key.
            named(Consumer.objects.all(), "consumer", given["consumer"]),
            service,
            named(Environment.objects.all(), "environment", given["environment"]),
            verbs=given["verbs"],
            now=self.now,
        )
        return Response(GrantSerializer(grant).data, status=201)


class GrantView(ManagementView):
    @documented("Get a grant", answers={200: GrantSerializer}, tag="grants")
    def get(self, request: Request, grant: uuid.UUID) -> Response:
        return Response(GrantSerializer(visible(_grants(self.actor), pk=grant)).data)

    @documented("Remove a grant", answers={204: None}, tag="grants")
    def delete(self, request: Request, grant: uuid.UUID) -> Response:
        consumers.remove_grant(self.actor, visible(_grants(self.actor), pk=grant), now=self.now)
        return Response(status=204)
