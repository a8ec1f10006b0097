"""Consumers and their tokens."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from keyvault.api.base import ManagementView, documented, named, visible
from keyvault.api.idempotency import idempotent
from keyvault.api.pagination import PageQuery, paginate
from keyvault.api.serializers import (
    DurationField,
    RateField,
    SlugField,
    StrictCharField,
    StrictIntegerField,
    StrictSerializer,
    TimeField,
)
from keyvault.crypto.secret import Secret
from keyvault.models import Consumer, ConsumerToken, Environment, Team
from keyvault.services import consumers

SECOND = timedelta(seconds=1)


class ConsumerCreateSerializer(StrictSerializer):
    slug = SlugField()
    team = SlugField()


class ConsumerSerializer(serializers.Serializer[Any]):
    slug = serializers.CharField()
    team = serializers.CharField(source="team.slug")
    created_at = TimeField()


class ConsumerTokenCreateSerializer(StrictSerializer):
    environment = SlugField()
    expires_in = DurationField(
        required=False,
        minimum=SECOND,
        help_text="Default: 90 days in a protected environment, else for ever.",
    )
    cidrs = serializers.ListField(child=StrictCharField(max_length=64), required=False, max_length=50)
    rate_limit = RateField(required=False, help_text="Default 600/min.")
    instance_limit = StrictIntegerField(
        required=False,
        allow_null=True,
        min_value=1,
        max_value=consumers.MOST_INSTANCES,
        help_text="How many instances may fetch with it, within an hour. Default: any number.",
    )


class ConsumerTokenRotateSerializer(StrictSerializer):
    grace = DurationField(help_text="How long the old token works on; never past its own expiry.")


class ConsumerTokenSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    environment = serializers.CharField(source="environment.slug")
    prefix = serializers.CharField(source="hint")
    cidrs = serializers.ListField(child=serializers.CharField())
    rate_limit = RateField(source="rate_per_minute")
    instance_limit = serializers.IntegerField(allow_null=True)
    created_at = TimeField()
    expires_at = TimeField(allow_null=True)
    revoked_at = TimeField(allow_null=True)
    last_used_at = TimeField(allow_null=True)
    replaces = serializers.UUIDField(source="replaces_id", allow_null=True)


class ConsumerTokenCreatedSerializer(ConsumerTokenSerializer):
    """The only answer that holds the token itself."""

    token = serializers.CharField()


def _created(row: ConsumerToken, secret: Secret) -> Response:
    shown = {**ConsumerTokenSerializer(row).data, "token": secret.expose()}
    return Response(shown, status=201)


class ConsumersView(ManagementView):
    query = PageQuery

    @documented(
        "List consumers", answers={200: ConsumerSerializer}, query=PageQuery, page=True, tag="consumers"
    )
    def get(self, request: Request) -> Response:
        return Response(
            paginate(
                Consumer.objects.for_actor(self.actor).select_related("team"),
                self.parameters,
                name="consumers",
                order=("slug",),
                show=lambda page: list(ConsumerSerializer(page, many=True).data),
            )
        )

    @documented(
        "Create a consumer",
        request=ConsumerCreateSerializer,
        answers={201: ConsumerSerializer},
        tag="consumers",
    )
    @idempotent
    def post(self, request: Request) -> Response:
        given = self.body(ConsumerCreateSerializer)
        team = named(Team.objects.for_actor(self.actor), "team", given["team"])
        consumer = consumers.create_consumer(self.actor, slug=given["slug"], team=team, now=self.now)
        return Response(ConsumerSerializer(consumer).data, status=201)


class _ConsumerView(ManagementView):
    def consumer(self, slug: str) -> Consumer:
        return visible(Consumer.objects.for_actor(self.actor).select_related("team"), slug=slug)

    def token(self, slug: str, token: uuid.UUID) -> ConsumerToken:
        rows = ConsumerToken.objects.filter(consumer=self.consumer(slug)).select_related(
            "environment", "consumer"
        )
        return visible(rows, pk=token)


class ConsumerView(_ConsumerView):
    @documented("Get a consumer", answers={200: ConsumerSerializer}, tag="consumers")
    def get(self, request: Request, consumer: str) -> Response:
        return Response(ConsumerSerializer(self.consumer(consumer)).data)


class ConsumerTokensView(_ConsumerView):
    query = PageQuery

    @documented(
        "List the tokens of a consumer",
        answers={200: ConsumerTokenSerializer},
        query=PageQuery,
        page=True,
        tag="consumers",
    )
    def get(self, request: Request, consumer: str) -> Response:
        row = self.consumer(consumer)
        return Response(
            paginate(
                ConsumerToken.objects.filter(consumer=row).select_related("environment"),
                self.parameters,
                name=f"tokens:{row.id}",
                order=("-created_at", "id"),
                show=lambda page: list(ConsumerTokenSerializer(page, many=True).data),
            )
        )

    @documented(
        "Create a token for a consumer",
        request=ConsumerTokenCreateSerializer,
        answers={201: ConsumerTokenCreatedSerializer},
        description="The token is shown in this answer only.",
        tag="consumers",
    )
    @idempotent
    def post(self, request: Request, consumer: str) -> Response:
        row = self.consumer(consumer)
        self.actor.demand("manage", row.team_id)
        given = self.body(ConsumerTokenCreateSerializer)
        life: timedelta | None = given.get("expires_in")
        token, secret = consumers.create_token(
            self.actor,
            row,
            named(Environment.objects.all(), "environment", given["environment"]),
            expires_at=self.now + life if life is not None else None,
            cidrs=given.get("cidrs", []),
            rate_per_minute=given.get("rate_limit", 600),
            instance_limit=given.get("instance_limit"),
            now=self.now,
        )
        return _created(token, secret)


class ConsumerTokenView(_ConsumerView):
    @documented("Revoke a token", answers={204: None}, tag="consumers")
    def delete(self, request: Request, consumer: str, token: uuid.UUID) -> Response:
        consumers.revoke_token(self.actor, self.token(consumer, token), now=self.now)
        return Response(status=204)


class ConsumerTokenRotateView(_ConsumerView):
    @documented(
        "Replace a token by a new one",
        request=ConsumerTokenRotateSerializer,
        answers={201: ConsumerTokenCreatedSerializer},
        description="Both tokens work during the grace. The new one is shown in this answer only.",
        tag="consumers",
    )
    @idempotent
    def post(self, request: Request, consumer: str, token: uuid.UUID) -> Response:
        row = self.token(consumer, token)
        self.actor.demand("manage", row.consumer.team_id)
        given = self.body(ConsumerTokenRotateSerializer)
        new, secret = consumers.rotate_token(self.actor, row, grace=given["grace"], now=self.now)
        return _created(new, secret)
