"""Emergencies: a secret is known to others. One key, or everything that a selector names."""

from __future__ import annotations

import uuid
from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from keyvault.api.base import ManagementView, documented, visible
from keyvault.api.idempotency import idempotent
from keyvault.api.pagination import PageQuery, paginate
from keyvault.api.serializers import (
    ReasonSerializer,
    SecretField,
    SlugField,
    StrictBooleanField,
    StrictCharField,
    StrictChoiceField,
    StrictIntegerField,
    TextField,
)
from keyvault.crypto.intake import SecretRefused, check_secret
from keyvault.crypto.secret import Secret
from keyvault.exceptions import KeyturnError, invalid
from keyvault.models import Key
from rotation.api.emergencies import (
    EmergencyRunSerializer,
    EmergencyRunSummarySerializer,
    RadiusSerializer,
    show_radius,
    show_run,
    show_runs,
)
from rotation.api.representation import RotationSerializer
from rotation.api.views.rotations import answer
from rotation.models import EmergencyRun
from rotation.services import emergencies, leaks, radius, runs
from rotation.services.radius import Radius

MODES = list(emergencies.MODES)


class LeakField(SecretField):
    """A pasted leak. What we issue ourselves, keys and tokens, leaks as well."""

    def to_internal_value(self, data: Any) -> Secret:
        try:
            return check_secret(data)
        except SecretRefused as refused:
            if refused.code == "own_token":
                return Secret(data)
            raise serializers.ValidationError(refused.message) from None


class EmergencySerializer(ReasonSerializer):
    mode = StrictChoiceField(choices=MODES, help_text="`kill` stops delivery of the leaked version at once.")
    version = StrictIntegerField(
        required=False,
        min_value=1,
        help_text="The number of the version that leaked; default: the current one.",
    )
    confirm = StrictCharField(
        required=False,
        max_length=127,
        help_text="`service/environment`, typed by you: `kill` needs it where no other version answers.",
    )


class BulkEmergencySerializer(ReasonSerializer):
    mode = StrictChoiceField(choices=MODES, help_text="`kill` stops delivery of the leaked versions at once.")
    provider = SlugField(required=False)
    team = SlugField(required=False)
    environment = SlugField(required=False)
    service = SlugField(required=False)
    person = TextField(required=False, max_length=150, help_text="A username: what the person has seen.")
    reachable = StrictBooleanField(
        required=False, help_text="With `person`: also what the person could have revealed as lead."
    )
    leak = LeakField(required=False, help_text="A secret as it was found in the open.")
    dry_run = StrictBooleanField(required=False, help_text="Answer the plan; touch nothing.")
    plan = StrictCharField(required=False, max_length=64, help_text="`plan` of the dry run that you saw.")
    count = StrictIntegerField(
        required=False, min_value=0, max_value=1_000_000, help_text="`count` of the plan, typed by you."
    )


class ConfirmEmergencySerializer(ReasonSerializer):
    plan = StrictCharField(max_length=64, help_text="`plan` of the proposal that you saw.")
    count = StrictIntegerField(min_value=0, max_value=1_000_000, help_text="Its `count`, typed by you.")


def confirmed(given: dict[str, Any]) -> tuple[int, str]:
    """The typed number and the hash of the plan. Raises ``validation_error`` without both."""
    missing = {
        name: ["Run it with dry_run first, then send this."]
        for name in ("count", "plan")
        if name not in given
    }
    if missing:
        raise KeyturnError("validation_error", "The request is not valid.", fields=missing)
    return given["count"], given["plan"]


def moved(error: KeyturnError, drawn: Radius) -> KeyturnError:
    """A refusal because the plan is another one by now, with that plan."""
    if error.code != "precondition_failed":
        return error
    return KeyturnError(error.code, error.message, extra={"plan": show_radius(drawn)})


class KeyEmergencyView(ManagementView):
    @documented(
        "Replace or kill a leaked key",
        request=EmergencySerializer,
        answers={201: RotationSerializer},
        description="Answers the rotation that does it: a new one, or the open one, which is hurried along or"
        " rolled back. Where that one has to end first, another is started right after it. 412"
        " with `instances` and `open_jobs` where `kill` has to be confirmed.",
        refusals=(412,),
        tag="emergencies",
    )
    @idempotent
    def post(self, request: Request, service: str, environment: str) -> Response:
        key = visible(Key.objects.for_actor(self.actor).select_related("service").named(service, environment))
        self.actor.demand("manage", key.service.team_id)
        given = self.body(EmergencySerializer)
        rotation = emergencies.emergency(
            self.actor,
            key,
            mode=given["mode"],
            reason=given["reason"],
            version=given.get("version"),
            typed=given.get("confirm", ""),
            now=self.now,
        )
        return answer(rotation, self, status=201)


class EmergencyView(ManagementView):
    query = PageQuery

    @documented(
        "List emergencies",
        answers={200: EmergencyRunSummarySerializer},
        query=PageQuery,
        page=True,
        tag="emergencies",
    )
    def get(self, request: Request) -> Response:
        return Response(
            paginate(
                EmergencyRun.objects.for_actor(self.actor),
                self.parameters,
                name="emergencies",
                order=("-created_at", "id"),
                show=lambda page: show_runs(self.actor, page),
            )
        )

    @documented(
        "Replace or kill every key that a selector names",
        request=BulkEmergencySerializer,
        answers={200: RadiusSerializer, 201: EmergencyRunSerializer},
        description="Exactly one of provider, team, environment, service, person, leak. With `dry_run` the"
        " plan comes back (200). To start it (201) send its `plan` and `count`; 412 with the new plan where"
        " the world has changed since. The scheduler starts the keys, production first, some at a time; each"
        " one succeeds or fails by itself. Sending the same plan again answers the same run.",
        refusals=(412,),
        tag="emergencies",
    )
    @idempotent
    def post(self, request: Request) -> Response:
        given = self.body(BulkEmergencySerializer)
        drawn = self._plan(given)
        if given.get("dry_run"):
            return Response(show_radius(drawn))
        count, plan = confirmed(given)
        try:
            run = runs.start(self.actor, drawn, count=count, plan=plan, reason=given["reason"], now=self.now)
        except KeyturnError as error:
            raise moved(error, drawn) from error
        return Response(
            show_run(self.actor, run, self.now), status=201, headers={"Location": f"/v1/emergency/{run.id}/"}
        )

    def _plan(self, given: dict[str, Any]) -> Radius:
        selected = [name for name in radius.SCOPES if name in given]
        if len(selected) != 1:
            raise invalid("body", f"Name exactly one of: {', '.join(radius.SCOPES)}.")
        (scope,) = selected
        if given.get("reachable") and scope != "person":
            raise invalid("reachable", "This goes with person only.")
        found, tokens, subject = radius.chosen(
            self.actor,
            scope,
            "" if scope == "leak" else given[scope],
            leak=given.get("leak"),
            reachable=given.get("reachable", False),
        )
        return radius.radius(
            self.actor, found, tokens, scope=scope, subject=subject, mode=given["mode"], now=self.now
        )


class EmergencyRunView(ManagementView):
    @documented("Show an emergency", answers={200: EmergencyRunSerializer}, tag="emergencies")
    def get(self, request: Request, run: uuid.UUID) -> Response:
        return Response(show_run(self.actor, runs.find(self.actor, run), self.now))


class StopEmergencyView(ManagementView):
    @documented(
        "Stop an emergency",
        request=ReasonSerializer,
        answers={200: EmergencyRunSerializer},
        description="Nothing more is started. Rotations that were started go on.",
        tag="emergencies",
    )
    @idempotent
    def post(self, request: Request, run: uuid.UUID) -> Response:
        runs.find(self.actor, run)
        given = self.body(ReasonSerializer)
        stopped = runs.stop(self.actor, run, reason=given["reason"], now=self.now)
        return Response(show_run(self.actor, stopped, self.now))


class ResumeEmergencyView(ManagementView):
    @documented(
        "Resume an emergency",
        request=ReasonSerializer,
        answers={200: EmergencyRunSerializer},
        description="What waits goes on; what was refused, failed or needs a person is tried again.",
        tag="emergencies",
    )
    @idempotent
    def post(self, request: Request, run: uuid.UUID) -> Response:
        runs.find(self.actor, run)
        given = self.body(ReasonSerializer)
        resumed = runs.resume(self.actor, run, reason=given["reason"], now=self.now)
        return Response(show_run(self.actor, resumed, self.now))


class ConfirmEmergencyView(ManagementView):
    @documented(
        "Confirm a proposed emergency",
        request=ConfirmEmergencySerializer,
        answers={200: EmergencyRunSerializer},
        description="For what somebody reported as leaked. Send `plan` and `count` of its `proposal`.",
        refusals=(412,),
        tag="emergencies",
    )
    @idempotent
    def post(self, request: Request, run: uuid.UUID) -> Response:
        found = runs.find(self.actor, run)
        given = self.body(ConfirmEmergencySerializer)
        try:
            started = runs.confirm(self.actor, run, **given, now=self.now)
        except KeyturnError as error:
            raise moved(error, runs.proposal(self.actor, found, now=self.now)) from error
        return Response(show_run(self.actor, started, self.now))


class LeakReportSerializer(ReasonSerializer):
    secret = LeakField(help_text="What was found, exactly as it was found. It is not kept.")


class ReportedKeySerializer(serializers.Serializer[Any]):
    service = serializers.CharField()
    environment = serializers.CharField()
    version = serializers.IntegerField()


class LeakReportAnswerSerializer(serializers.Serializer[Any]):
    """The same for a secret that nobody knows and for one of another team."""

    received = serializers.BooleanField()
    keys = ReportedKeySerializer(many=True)
    emergency = serializers.UUIDField(allow_null=True)


class LeaksView(ManagementView):
    @documented(
        "Report a leaked secret",
        request=LeakReportSerializer,
        answers={202: LeakReportAnswerSerializer},
        description="A version that holds it is marked as compromised, and an emergency is proposed to the"
        " leads of its team (or started, where the installation is set so). The answer names only what you"
        " may see.",
        tag="emergencies",
    )
    @idempotent
    def post(self, request: Request) -> Response:
        given = self.body(LeakReportSerializer)
        reported = leaks.report(self.actor, given["secret"], reason=given["reason"], now=self.now)
        shown = {
            "received": True,
            "keys": [
                {
                    "service": target.key.service.slug,
                    "environment": target.key.environment.slug,
                    "version": target.version.number,
                }
                for target in reported.seen
                if target.version is not None
            ],
            "emergency": reported.run.id if reported.run is not None and reported.seen else None,
        }
        return Response(LeakReportAnswerSerializer(shown).data, status=202)
