"""Policies: how keys are replaced."""

from __future__ import annotations

import zoneinfo
from datetime import timedelta
from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from keyvault.api.base import ManagementView, documented, visible
from keyvault.api.idempotency import idempotent
from keyvault.api.pagination import PageQuery, paginate
from keyvault.api.serializers import (
    DurationField,
    SlugField,
    StrictBooleanField,
    StrictCharField,
    StrictChoiceField,
    StrictFloatField,
    StrictIntegerField,
    StrictSerializer,
    TextField,
    TimeField,
)
from rotation.models import RotationPolicy
from rotation.policy import WEEKDAYS, to_json
from rotation.services import policies

SECOND = timedelta(seconds=1)
_CLOCK_TIME = r"\A(?:[01][0-9]|2[0-3]):[0-5][0-9]\Z"


class ClockTimeField(serializers.RegexField):
    """A time of day, ``HH:MM``."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(_CLOCK_TIME, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            raise serializers.ValidationError("Use a time of day such as 08:30.")
        return data


class ZoneField(StrictCharField):
    """A time zone of the IANA database."""

    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data)
        if text not in zoneinfo.available_timezones():
            raise serializers.ValidationError("Use a time zone such as Europe/Berlin.")
        return text


class StepSerializer(StrictSerializer):
    weight = StrictIntegerField(min_value=1, max_value=100)
    hold = DurationField()


class ApprovalsNeededSerializer(StrictSerializer):
    """How many other people have to approve each transition. One that is left out needs none."""

    start = StrictIntegerField(min_value=0, max_value=5, required=False)
    shift_past_50 = StrictIntegerField(min_value=0, max_value=5, required=False)
    revoke = StrictIntegerField(min_value=0, max_value=5, required=False)
    force = StrictIntegerField(min_value=0, max_value=5, required=False)


class ExposureSerializer(StrictSerializer):
    """How soon a version is replaced once more people know it than should. Null: not for this."""

    revealed = DurationField(required=False, allow_null=True, help_text="A person has looked at it.")
    member_left = DurationField(
        required=False, allow_null=True, help_text="Who has looked at it is not in the team any more."
    )
    reported = DurationField(required=False, allow_null=True, help_text="It was reported as compromised.")


class WindowSerializer(StrictSerializer):
    """A weekly span in which rotations may go on. A `to` that is not later than `from` is on the next day."""

    days = serializers.ListField(child=StrictChoiceField(choices=WEEKDAYS), min_length=1, max_length=7)
    to = ClockTimeField()
    zone = ZoneField(max_length=64)

    def get_fields(self) -> dict[str, Any]:
        return {**super().get_fields(), "from": ClockTimeField()}


class FreezeSerializer(StrictSerializer):
    """A span without any progress."""

    to = TimeField()
    reason = TextField(required=False, allow_blank=True, max_length=200)

    def get_fields(self) -> dict[str, Any]:
        return {**super().get_fields(), "from": TimeField()}


class PolicyFieldsSerializer(StrictSerializer):
    """Every member is optional: what is left out keeps its value, in a new policy that of ``standard``."""

    interval = DurationField(required=False, allow_null=True, minimum=SECOND)
    steps = serializers.ListField(child=StepSerializer(), required=False, min_length=1, max_length=20)
    monitor = DurationField(required=False)
    quiet = DurationField(required=False)
    cool_off = DurationField(required=False)
    deadline = DurationField(required=False, minimum=SECOND)
    window = DurationField(required=False, minimum=SECOND)
    probe_every = DurationField(required=False, minimum=SECOND)
    refresh = DurationField(required=False, minimum=SECOND)
    min_samples = StrictIntegerField(required=False, min_value=1, max_value=1_000_000)
    max_error_rate = StrictFloatField(required=False, min_value=0, max_value=1)
    allow_idle = StrictBooleanField(required=False)
    approvals = ApprovalsNeededSerializer(required=False)
    cutover = StrictBooleanField(
        required=False,
        help_text="For providers of one key: the old key ends before the new one exists. Takes one step of"
        " 100 and at least one approval to start.",
    )
    windows = serializers.ListField(child=WindowSerializer(), required=False, max_length=50)
    freezes = serializers.ListField(child=FreezeSerializer(), required=False, max_length=50)
    canaries = serializers.ListField(child=SlugField(), required=False, max_length=200)
    pinned = serializers.ListField(child=SlugField(), required=False, max_length=200)
    force_after = DurationField(required=False, allow_null=True)
    max_age = DurationField(
        required=False, allow_null=True, minimum=SECOND, help_text="No version is honoured for longer."
    )
    rehearsal = DurationField(
        required=False,
        allow_null=True,
        minimum=SECOND,
        help_text="A protected environment starts only if a lower one was rotated this lately.",
    )
    exposure = ExposureSerializer(required=False)


class PolicyCreateSerializer(PolicyFieldsSerializer):
    slug = SlugField()


class PolicyChangeSerializer(PolicyFieldsSerializer):
    pass


class PolicySerializer(PolicyFieldsSerializer):
    """A policy with all its members."""

    slug = serializers.CharField()
    preset = serializers.BooleanField(help_text="There from the start.")
    created_at = TimeField()


def show_policy(row: RotationPolicy) -> dict[str, Any]:
    """Name, facts and the members as the policy writes itself."""
    created_at = TimeField().to_representation(row.created_at)
    return {"slug": row.slug, "preset": row.preset, "created_at": created_at, **to_json(row.value)}


class PoliciesView(ManagementView):
    query = PageQuery

    @documented("List policies", answers={200: PolicySerializer}, query=PageQuery, page=True, tag="policies")
    def get(self, request: Request) -> Response:
        return Response(
            paginate(
                RotationPolicy.objects.all(),
                self.parameters,
                name="policies",
                order=("slug",),
                show=lambda page: [show_policy(row) for row in page],
            )
        )

    @documented(
        "Create a policy", request=PolicyCreateSerializer, answers={201: PolicySerializer}, tag="policies"
    )
    @idempotent
    def post(self, request: Request) -> Response:
        self.actor.demand_admin()
        given = self.body(PolicyCreateSerializer)
        # The policy reads the JSON form itself; the serializer has made sure of the shape.
        document = {name: value for name, value in dict(request.data).items() if name != "slug"}
        row = policies.create_policy(self.actor, slug=given["slug"], document=document, now=self.now)
        return Response(show_policy(row), status=201)


class PolicyView(ManagementView):
    @documented("Get a policy", answers={200: PolicySerializer}, tag="policies")
    def get(self, request: Request, policy: str) -> Response:
        return Response(show_policy(visible(RotationPolicy.objects.all(), slug=policy)))

    @documented(
        "Change a policy",
        request=PolicyChangeSerializer,
        answers={200: PolicySerializer},
        description="Rotations that are running keep the policy they started with.",
        tag="policies",
    )
    def patch(self, request: Request, policy: str) -> Response:
        row = visible(RotationPolicy.objects.all(), slug=policy)
        self.actor.demand_admin()
        self.changes(PolicyChangeSerializer)
        row = policies.change_policy(self.actor, row, document=dict(request.data), now=self.now)
        return Response(show_policy(row))
