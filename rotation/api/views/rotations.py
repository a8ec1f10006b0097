"""Rotations: start or plan one, look at them, and tell an open one what to do."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any, ClassVar

from django.db.models import QuerySet
from rest_framework.request import Request
from rest_framework.response import Response

from keyvault.actors import Actor
from keyvault.api.base import ManagementView, documented, named, visible, wanted_revision
from keyvault.api.idempotency import idempotent
from keyvault.api.pagination import PageQuery, paginate
from keyvault.api.serializers import (
    DurationField,
    ReasonSerializer,
    SecretField,
    SlugField,
    StrictBooleanField,
    StrictCharField,
    StrictChoiceField,
    StrictIntegerField,
    StrictSerializer,
    TextField,
    TimeField,
)
from keyvault.models import Key
from rotation.api.representation import (
    PlanSerializer,
    RotationSerializer,
    RotationSummarySerializer,
    etag,
    show_plan,
    show_rotation,
    show_summary,
)
from rotation.facts import TERMINAL, Stage
from rotation.models import Rotation, RotationPolicy
from rotation.plan import plan
from rotation.policy import APPROVALS
from rotation.services import approving, policies, starting, verbs

OPEN, FINISHED = "open", "finished"


class DigestField(StrictCharField):
    """The digest of a plan."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(min_length=64, max_length=64, **kwargs)


class RotationStartSerializer(StrictSerializer):
    policy = SlugField(required=False, help_text="Default: the one that the key follows.")
    reason = TextField(required=False, allow_blank=True, max_length=500)
    plan = DigestField(required=False, help_text="Start only if this is still the digest of the plan.")
    skip_rehearsal = StrictBooleanField(
        required=False,
        help_text="Start without the rehearsal: needs a lead, a reason and an approval.",
    )
    dry_run = StrictBooleanField(required=False, help_text="Answer the plan and touch nothing.")


class ApproveSerializer(ReasonSerializer):
    transition = StrictChoiceField(
        required=False,
        choices=APPROVALS,
        help_text="Default: what it waits for, else forcing the revoke.",
    )
    plan = DigestField(required=False, help_text="Approve only if this is still the digest of its plan.")


class ExtendSerializer(ReasonSerializer):
    by = DurationField(minimum=timedelta(seconds=1), help_text="How much more time it gets, up to P30D.")


class SupplySerializer(ReasonSerializer):
    secret = SecretField(help_text="The new key, as the provider showed it.")
    provider_key_id = TextField(
        required=False, allow_blank=True, max_length=200, help_text="What the provider calls it."
    )
    expires_at = TimeField(required=False, help_text="When the provider lets it expire.")


class ForceRevokeSerializer(ReasonSerializer):
    offenders = StrictIntegerField(
        min_value=0, max_value=1_000_000, help_text="How many still use the outgoing version, typed by you."
    )


class RotationQuery(PageQuery):
    state = StrictChoiceField(
        required=False, choices=[OPEN, FINISHED, *(stage.value for stage in Stage)], help_text="Or a stage."
    )
    environment = SlugField(required=False)
    service = SlugField(required=False)


def rotations_for(actor: Actor) -> QuerySet[Rotation]:
    """Rotations that this person may know of, with all that showing them needs."""
    return Rotation.objects.for_actor(actor).select_related(
        "key__service__provider", "key__service__team", "key__environment", "incoming", "outgoing"
    )


def answer(rotation: Rotation, view: ManagementView, *, status: int = 200) -> Response:
    """The rotation as it is now, with its ETag."""
    row = rotations_for(view.actor).get(pk=rotation.pk)
    headers = {"ETag": etag(row)}
    if status == 201:
        headers["Location"] = f"/v1/rotations/{row.id}/"
    return Response(show_rotation(row, view.now), status=status, headers=headers)


class KeyRotationsView(ManagementView):
    @documented(
        "Start a rotation, or plan it",
        request=RotationStartSerializer,
        answers={201: RotationSerializer, 200: PlanSerializer},
        description="With `dry_run` the plan comes back (200) and nothing is touched.",
        tag="rotations",
        refusals=(412,),
    )
    @idempotent
    def post(self, request: Request, service: str, environment: str) -> Response:
        rows = Key.objects.for_actor(self.actor).select_related(
            "service__provider", "service__team", "environment", "current"
        )
        key = visible(rows.named(service, environment))
        given = self.body(RotationStartSerializer)
        policy = None
        if "policy" in given:
            policy = named(RotationPolicy.objects.all(), "policy", given["policy"])
        if given.get("dry_run"):
            chosen = policy or policies.policy_for(key)
            return Response(show_plan(plan(key, chosen.value, chosen.slug, now=self.now)))
        rotation = starting.start(
            self.actor,
            key,
            policy=policy,
            reason=given.get("reason", ""),
            trigger="api",
            digest=given.get("plan", ""),
            skip_rehearsal=given.get("skip_rehearsal", False),
            now=self.now,
        )
        return answer(rotation, self, status=201)


class RotationsView(ManagementView):
    query = RotationQuery

    @documented(
        "List rotations",
        answers={200: RotationSummarySerializer},
        query=RotationQuery,
        page=True,
        tag="rotations",
    )
    def get(self, request: Request) -> Response:
        given = self.parameters
        rows = rotations_for(self.actor)
        match given.get("state"):
            case None:
                pass
            case "open":
                rows = rows.open()  # type: ignore[attr-defined]
            case "finished":
                rows = rows.filter(stage__in=TERMINAL)
            case stage:
                rows = rows.filter(stage=stage)
        if "environment" in given:
            rows = rows.filter(key__environment__slug=given["environment"])
        if "service" in given:
            rows = rows.filter(key__service__slug=given["service"])
        return Response(
            paginate(
                rows,
                given,
                name="rotations",
                order=("-created_at", "id"),
                show=lambda page: [show_summary(row) for row in page],
            )
        )


class _RotationView(ManagementView):
    def rotation(self, rotation: uuid.UUID) -> Rotation:
        return visible(rotations_for(self.actor), pk=rotation)


class RotationView(_RotationView):
    @documented("Get a rotation", answers={200: RotationSerializer}, tag="rotations")
    def get(self, request: Request, rotation: uuid.UUID) -> Response:
        return answer(self.rotation(rotation), self)


class VerbView(_RotationView):
    """One operator verb. ``act`` is the service that does it; ``reader`` reads what it takes."""

    act: ClassVar[Callable[..., Rotation]]
    reader: ClassVar[type[StrictSerializer]] = ReasonSerializer

    def arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"reason": given["reason"]}

    def run(self, request: Request, rotation: uuid.UUID) -> Response:
        row = self.rotation(rotation)
        self.actor.demand("operate", row.key.service.team_id)
        revision = wanted_revision(request)
        given = self.body(self.reader)
        moved = type(self).act(
            self.actor, row.id, **self.arguments(given), now=self.now, revision=revision, ring=None
        )
        return answer(moved, self)


def _verb_view(act: Callable[..., Rotation], summary: str) -> type[VerbView]:
    """The view of a verb that takes nothing but a reason."""

    class ReasonView(VerbView):
        @documented(
            summary,
            request=ReasonSerializer,
            answers={200: RotationSerializer},
            description=f"{summary}. 409 with the state and the allowed verbs where that is impossible.",
            precondition=True,
            tag="rotations",
        )
        @idempotent
        def post(self, request: Request, rotation: uuid.UUID) -> Response:
            return self.run(request, rotation)

    ReasonView.act = staticmethod(act)
    return ReasonView


PauseView = _verb_view(verbs.pause, "Stop progress; protection goes on")
ResumeView = _verb_view(verbs.resume, "Go on after a pause or an attention")
AdvanceView = _verb_view(verbs.advance, "Go to the next step on your word")
AbortView = _verb_view(verbs.abort, "Give up: cancel or roll back")
ConfirmRevokedView = _verb_view(verbs.confirm_revoked, "Confirm that you revoked the key at the provider")


class ApproveView(VerbView):
    act = staticmethod(approving.approve)
    reader = ApproveSerializer

    def arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        return {
            "reason": given["reason"],
            "transition": given.get("transition", ""),
            "plan": given.get("plan", ""),
        }

    @documented(
        "Approve what somebody else asked for",
        request=ApproveSerializer,
        answers={200: RotationSerializer},
        description="Counts for 24 hours, for this plan, while you may still do it. Never your own.",
        precondition=True,
        tag="rotations",
    )
    @idempotent
    def post(self, request: Request, rotation: uuid.UUID) -> Response:
        return self.run(request, rotation)


class ExtendView(VerbView):
    act = staticmethod(verbs.extend)
    reader = ExtendSerializer

    def arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"reason": given["reason"], "by": given["by"]}

    @documented(
        "Give it more time",
        request=ExtendSerializer,
        answers={200: RotationSerializer},
        description="The deadline moves; where it has passed, it is counted from now.",
        precondition=True,
        tag="rotations",
    )
    @idempotent
    def post(self, request: Request, rotation: uuid.UUID) -> Response:
        return self.run(request, rotation)


class SupplyView(VerbView):
    act = staticmethod(verbs.supply)
    reader = SupplySerializer

    def arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        return {
            "reason": given["reason"],
            "secret": given["secret"],
            "provider_key_id": given.get("provider_key_id", ""),
            "expires_at": given.get("expires_at"),
        }

    @documented(
        "Supply the new key that a person created",
        request=SupplySerializer,
        answers={200: RotationSerializer},
        precondition=True,
        tag="rotations",
    )
    @idempotent
    def post(self, request: Request, rotation: uuid.UUID) -> Response:
        return self.run(request, rotation)


class ForceRevokeView(VerbView):
    act = staticmethod(verbs.force_revoke)
    reader = ForceRevokeSerializer

    def arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"reason": given["reason"], "offender_count": given["offenders"]}

    @documented(
        "Revoke although the outgoing version is still in use",
        request=ForceRevokeSerializer,
        answers={200: RotationSerializer},
        description="Needs the number of offenders, and in a protected environment somebody else's approval.",
        precondition=True,
        tag="rotations",
    )
    @idempotent
    def post(self, request: Request, rotation: uuid.UUID) -> Response:
        return self.run(request, rotation)
