"""Environments: there from the start, read here."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from keyvault.api.base import ManagementView, documented, visible
from keyvault.api.pagination import PageQuery, paginate
from keyvault.models import Environment


class EnvironmentSerializer(serializers.Serializer[Any]):
    slug = serializers.CharField()
    name = serializers.CharField()
    protected = serializers.BooleanField()


class EnvironmentsView(ManagementView):
    query = PageQuery

    @documented(
        "List environments",
        answers={200: EnvironmentSerializer},
        query=PageQuery,
        page=True,
        tag="environments",
    )
    def get(self, request: Request) -> Response:
        return Response(
            paginate(
                Environment.objects.all(),
                self.parameters,
                name="environments",
                order=("position", "slug"),
                show=lambda page: list(EnvironmentSerializer(page, many=True).data),
            )
        )


class EnvironmentView(ManagementView):
    @documented("Get an environment", answers={200: EnvironmentSerializer}, tag="environments")
    def get(self, request: Request, environment: str) -> Response:
        return Response(EnvironmentSerializer(visible(Environment.objects.all(), slug=environment)).data)
