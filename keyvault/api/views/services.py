"""Services: integrations that a team owns at a provider."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from keyvault.api.base import ManagementView, documented, named, visible
from keyvault.api.idempotency import idempotent
from keyvault.api.pagination import PageQuery, paginate
from keyvault.api.serializers import SlugField, StrictSerializer, TextField, TimeField
from keyvault.models import Provider, Service, Team
from keyvault.services import catalogue


class ServiceCreateSerializer(StrictSerializer):
    slug = SlugField()
    team = SlugField()
    provider = SlugField()
    description = TextField(required=False, allow_blank=True, max_length=500)


class ServiceChangeSerializer(StrictSerializer):
    description = TextField(allow_blank=True, max_length=500)


class ServiceSerializer(serializers.Serializer[Any]):
    slug = serializers.CharField()
    team = serializers.CharField(source="team.slug")
    provider = serializers.CharField(source="provider.slug")
    description = serializers.CharField(allow_blank=True)
    created_at = TimeField()


class ServicesView(ManagementView):
    query = PageQuery

    @documented("List services", answers={200: ServiceSerializer}, query=PageQuery, page=True, tag="services")
    def get(self, request: Request) -> Response:
        return Response(
            paginate(
                Service.objects.for_actor(self.actor).select_related("team", "provider"),
                self.parameters,
                name="services",
                order=("slug",),
                show=lambda page: list(ServiceSerializer(page, many=True).data),
            )
        )

    @documented(
        "Create a service", request=ServiceCreateSerializer, answers={201: ServiceSerializer}, tag="services"
    )
    @idempotent
    def post(self, request: Request) -> Response:
        given = self.body(ServiceCreateSerializer)
        service = catalogue.create_service(
            self.actor,
            slug=given["slug"],
            team=named(Team.objects.for_actor(self.actor), "team", given["team"]),
            provider=named(Provider.objects.all(), "provider", given["provider"]),
            description=given.get("description", ""),
            now=self.now,
        )
        return Response(ServiceSerializer(service).data, status=201)


class ServiceView(ManagementView):
    def _service(self, slug: str) -> Service:
        rows = Service.objects.for_actor(self.actor).select_related("team", "provider")
        return visible(rows, slug=slug)

    @documented("Get a service", answers={200: ServiceSerializer}, tag="services")
    def get(self, request: Request, service: str) -> Response:
        return Response(ServiceSerializer(self._service(service)).data)

    @documented(
        "Change a service", request=ServiceChangeSerializer, answers={200: ServiceSerializer}, tag="services"
    )
    def patch(self, request: Request, service: str) -> Response:
        row = self._service(service)
        self.actor.demand("manage", row.team_id)
        given = self.changes(ServiceChangeSerializer)
        row = catalogue.change_service(self.actor, row, description=given["description"], now=self.now)
        return Response(ServiceSerializer(row).data)
