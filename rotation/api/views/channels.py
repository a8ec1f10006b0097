"""Channels: where notices go, what became of them, and a test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from keyvault.api.base import ManagementView, documented, named, visible
from keyvault.api.idempotency import idempotent
from keyvault.api.pagination import PageQuery, paginate
from keyvault.api.serializers import (
    DurationField,
    SlugField,
    StrictBooleanField,
    StrictCharField,
    StrictChoiceField,
    StrictSerializer,
    TextField,
    TimeField,
)
from keyvault.crypto.secret import Secret
from keyvault.models import Team
from rotation.api.views.policies import ClockTimeField, ZoneField
from rotation.notice_rows import CHANNEL_KINDS, LEVELS, NOTICE_STATES, Channel, Notice
from rotation.services import channels

TAG = "channels"


class DigestSerializer(StrictSerializer):
    """Once a day at this time of this zone, what can wait."""

    at = ClockTimeField()
    zone = ZoneField(max_length=64, required=False)


class ChannelFieldsSerializer(StrictSerializer):
    url = StrictCharField(
        required=False, max_length=2048, help_text="For chat and webhook. Sealed, and never shown again."
    )
    addresses = serializers.ListField(
        child=StrictCharField(max_length=254),
        required=False,
        max_length=channels.MOST_ADDRESSES,
        help_text="For mail. Empty: the people of the team, by their role.",
    )
    level = StrictChoiceField(required=False, choices=LEVELS)
    after = DurationField(
        required=False, help_text="How long an incident lasts before the levels lead and security hear of it."
    )
    digest = DigestSerializer(required=False, allow_null=True)
    enabled = StrictBooleanField(required=False)


class ChannelChangeSerializer(ChannelFieldsSerializer):
    pass


class ChannelCreateSerializer(ChannelFieldsSerializer):
    slug = SlugField()
    kind = StrictChoiceField(choices=CHANNEL_KINDS)
    team = SlugField(required=False, allow_null=True, help_text="Left out: the whole organisation.")


class DigestShownSerializer(serializers.Serializer[Any]):
    at = serializers.CharField()
    zone = serializers.CharField()


class ChannelSerializer(serializers.Serializer[Any]):
    slug = serializers.CharField()
    team = serializers.CharField(allow_null=True)
    kind = serializers.ChoiceField(choices=CHANNEL_KINDS)
    level = serializers.ChoiceField(choices=LEVELS)
    after = DurationField()
    addresses = serializers.ListField(child=serializers.CharField())
    place = serializers.CharField(allow_blank=True, help_text="The host of the address.")
    digest = DigestShownSerializer(allow_null=True)
    enabled = serializers.BooleanField()
    previous_secret_until = TimeField(allow_null=True)
    last_ok_at = TimeField(allow_null=True)
    failing_since = TimeField(allow_null=True)
    last_error = serializers.CharField(allow_blank=True)
    waiting = serializers.IntegerField(help_text="Notices that are not sent yet.")
    created_at = TimeField()


class ChannelSecretSerializer(ChannelSerializer):
    secret = serializers.CharField(
        allow_null=True, help_text="Signs the events of a webhook. Shown this once."
    )


class GraceSerializer(StrictSerializer):
    grace = DurationField(required=False, help_text="How long the present secret still signs; default PT24H.")


class WhySerializer(StrictSerializer):
    reason = TextField(required=False, max_length=500)


class NoticeSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    kind = serializers.CharField()
    recipient = serializers.CharField(allow_blank=True)
    state = serializers.ChoiceField(choices=NOTICE_STATES)
    tries = serializers.IntegerField()
    message = serializers.CharField(allow_blank=True)
    created_at = TimeField()
    next_at = TimeField()
    finished_at = TimeField(allow_null=True)


class TestSerializer(serializers.Serializer[Any]):
    notices = NoticeSerializer(many=True)


def show_channel(row: Channel) -> dict[str, Any]:
    """The channel and how it does; ``waiting`` costs a query."""
    return {
        "slug": row.slug,
        "team": row.team.slug if row.team is not None else None,
        "kind": row.kind,
        "level": row.level,
        "after": channels.after_of(row),
        "addresses": row.addresses,
        "place": row.place,
        "digest": {"at": row.digest_at, "zone": row.zone} if row.digest_at else None,
        "enabled": row.enabled,
        "previous_secret_until": row.previous_until,
        "last_ok_at": row.last_ok_at,
        "failing_since": row.failing_since,
        "last_error": row.last_error,
        "waiting": Notice.objects.filter(channel=row, state="pending").count(),
        "created_at": row.created_at,
    }


def _shown(row: Channel) -> dict[str, Any]:
    return dict(ChannelSerializer(show_channel(row)).data)


def _created(made: channels.Created) -> dict[str, Any]:
    secret = made.secret.expose() if made.secret is not None else None
    return dict(ChannelSecretSerializer({**show_channel(made.channel), "secret": secret}).data)


def _fields(given: Mapping[str, Any]) -> tuple[Secret | None, dict[str, Any]]:
    """The address, if there is one, and the other fields as the service names them."""
    fields = {name: value for name, value in given.items() if name in channels.FIELDS}
    if "digest" in given:
        digest = given["digest"] or {}
        fields["digest_at"] = digest.get("at", "")
        fields["zone"] = digest.get("zone", "UTC")
    return (Secret(given["url"]) if "url" in given else None), fields


def _channels(view: ManagementView) -> Any:
    return Channel.objects.for_actor(view.actor).select_related("team")


class ChannelsView(ManagementView):
    query = PageQuery

    @documented("List channels", answers={200: ChannelSerializer}, query=PageQuery, page=True, tag=TAG)
    def get(self, request: Request) -> Response:
        return Response(
            paginate(
                _channels(self),
                self.parameters,
                name="channels",
                order=("slug",),
                show=lambda page: [_shown(row) for row in page],
            )
        )

    def before(self, request: Request) -> None:
        given = self.body(ChannelCreateSerializer)
        team, (url, _) = self._team(given), _fields(given)
        channels.look_up(self.actor, team.id if team is not None else None, url)

    def _team(self, given: Mapping[str, Any]) -> Team | None:
        slug = given.get("team")
        return named(Team.objects.for_actor(self.actor), "team", slug) if slug else None

    @documented(
        "Create a channel",
        request=ChannelCreateSerializer,
        answers={201: ChannelSecretSerializer},
        tag=TAG,
    )
    @idempotent
    def post(self, request: Request) -> Response:
        given = self.body(ChannelCreateSerializer)
        url, fields = _fields(given)
        made = channels.create_channel(
            self.actor,
            slug=given["slug"],
            team=self._team(given),
            kind=given["kind"],
            url=url,
            fields=fields,
            now=self.now,
        )
        return Response(_created(made), status=201)


class ChannelView(ManagementView):
    @documented("Get a channel", answers={200: ChannelSerializer}, tag=TAG)
    def get(self, request: Request, channel: str) -> Response:
        return Response(_shown(visible(_channels(self), slug=channel)))

    @documented(
        "Change a channel",
        request=ChannelChangeSerializer,
        answers={200: ChannelSerializer},
        description="What waits on it is tried again at once; switched off, it is never sent.",
        tag=TAG,
    )
    def patch(self, request: Request, channel: str) -> Response:
        row = visible(_channels(self), slug=channel)
        channels.demand(self.actor, row.team_id)
        url, fields = _fields(self.changes(ChannelChangeSerializer))
        channels.look_up(self.actor, row.team_id, url)
        return Response(
            _shown(channels.change_channel(self.actor, row, url=url, fields=fields, now=self.now))
        )

    @documented("Remove a channel", answers={204: None}, tag=TAG)
    def delete(self, request: Request, channel: str) -> Response:
        channels.remove_channel(self.actor, visible(_channels(self), slug=channel), now=self.now)
        return Response(status=204)


class ChannelNoticesView(ManagementView):
    query = PageQuery

    @documented(
        "List the notices of a channel",
        answers={200: NoticeSerializer},
        query=PageQuery,
        page=True,
        tag=TAG,
    )
    def get(self, request: Request, channel: str) -> Response:
        row = visible(_channels(self), slug=channel)
        return Response(
            paginate(
                Notice.objects.filter(channel=row),
                self.parameters,
                name=f"notices:{row.id}",
                order=("-created_at", "-id"),
                show=lambda page: list(NoticeSerializer(page, many=True).data),
            )
        )


class ChannelTestView(ManagementView):
    @documented(
        "Send a test",
        request=WhySerializer,
        answers={202: TestSerializer},
        description="Puts a test in line; what became of it stands in the list of the channel's notices.",
        tag=TAG,
    )
    @idempotent
    def post(self, request: Request, channel: str) -> Response:
        row = visible(_channels(self), slug=channel)
        reason = self.body(WhySerializer).get("reason", "")
        sent = channels.send_test(self.actor, row, reason=reason, now=self.now)
        return Response(TestSerializer({"notices": sent}).data, status=202)


class ChannelSecretView(ManagementView):
    @documented(
        "Replace the signing secret",
        request=GraceSerializer,
        answers={201: ChannelSecretSerializer},
        description="Until the grace is over, events carry a signature of either secret.",
        tag=TAG,
    )
    @idempotent
    def post(self, request: Request, channel: str) -> Response:
        row = visible(_channels(self), slug=channel)
        grace = self.body(GraceSerializer).get("grace", channels.GRACE)
        return Response(
            _created(channels.rotate_secret(self.actor, row, grace=grace, now=self.now)), status=201
        )
