"""The evidence file of a finished rotation."""

from __future__ import annotations

import uuid
from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from keyvault.api.base import ManagementView, documented, visible
from keyvault.api.serializers import ObjectField, TimeField
from keyvault.crypto.evidence import FORMAT, VERSION
from rotation.api.representation import STAGES, OffenderSerializer, SharesSerializer
from rotation.api.views.rotations import rotations_for
from rotation.facts import TERMINAL, Clause, Kind, OperationState, Side
from rotation.services.evidence import evidence_of

SIDES = [side.value for side in Side]


class EvidenceSideSerializer(serializers.Serializer[Any]):
    version = serializers.IntegerField()
    fingerprint = serializers.CharField(allow_blank=True)


class EvidenceVerdictSerializer(serializers.Serializer[Any]):
    result = serializers.CharField(allow_blank=True)
    code = serializers.CharField(allow_blank=True)
    reason = serializers.CharField(allow_blank=True)


class EvidenceRotationSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    service = serializers.CharField()
    environment = serializers.CharField()
    provider = serializers.CharField()
    policy_slug = serializers.CharField()
    trigger = serializers.CharField()
    reason = serializers.CharField(allow_blank=True)
    requested_by = serializers.CharField()
    outgoing = EvidenceSideSerializer(allow_null=True)
    incoming = EvidenceSideSerializer(allow_null=True)
    outcome = serializers.ChoiceField(choices=sorted(stage.value for stage in TERMINAL))
    rolled_back_reason = serializers.CharField(allow_null=True)
    no_fallback = serializers.BooleanField()
    forced = serializers.BooleanField()
    monitored_seconds = serializers.IntegerField()
    verdict = EvidenceVerdictSerializer()
    created_at = TimeField()
    revoke_asked_at = TimeField(allow_null=True)
    finished_at = TimeField()
    settled = serializers.BooleanField(help_text="False while the incoming version is still to be revoked.")


class EvidenceApprovalSerializer(serializers.Serializer[Any]):
    transition = serializers.CharField()
    by = serializers.CharField()
    reason = serializers.CharField(allow_blank=True)
    at = TimeField()
    expires_at = TimeField()


class TransitionSerializer(serializers.Serializer[Any]):
    sequence = serializers.IntegerField()
    at = TimeField()
    event = serializers.CharField()
    stage = serializers.ChoiceField(choices=STAGES)
    weight = serializers.IntegerField()
    actor = serializers.CharField()
    reason = serializers.CharField(allow_blank=True)


class EvidenceStepSerializer(serializers.Serializer[Any]):
    """One weight and the four shares at its end."""

    stage = serializers.ChoiceField(choices=STAGES)
    weight = serializers.IntegerField()
    to = TimeField()
    shares = SharesSerializer()

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        # A class body cannot hold the name.
        return {**super().get_fields(), "from": TimeField()}


class EvidenceOperationSerializer(serializers.Serializer[Any]):
    kind = serializers.ChoiceField(choices=[kind.value for kind in Kind if kind is not Kind.PROBE])
    side = serializers.ChoiceField(choices=SIDES)
    version = serializers.IntegerField()
    attempt = serializers.IntegerField()
    label = serializers.CharField()  # type: ignore[assignment]  # DRF takes fields out of the class
    state = serializers.ChoiceField(choices=[state.value for state in OperationState])
    outcome = serializers.CharField(allow_blank=True)
    message = serializers.CharField(allow_blank=True)
    tries = serializers.IntegerField()
    superseded = serializers.BooleanField()
    provider_request_id = serializers.CharField(allow_blank=True)
    asked_at = TimeField()
    started_at = TimeField(allow_null=True)
    finished_at = TimeField(allow_null=True)


class EvidenceProbeSerializer(serializers.Serializer[Any]):
    side = serializers.ChoiceField(choices=SIDES)
    version = serializers.IntegerField()
    outcome = serializers.CharField()
    at = TimeField()


class EvidenceRateSerializer(serializers.Serializer[Any]):
    requests = serializers.IntegerField()
    errors = serializers.IntegerField()  # type: ignore[assignment]  # DRF takes fields out of the class
    outcomes = serializers.DictField(child=serializers.IntegerField())


class EvidenceMinuteSerializer(serializers.Serializer[Any]):
    minute = TimeField()
    outgoing = EvidenceRateSerializer(required=False)
    incoming = EvidenceRateSerializer(required=False)


class EvidenceWindowsSerializer(serializers.Serializer[Any]):
    length = serializers.CharField()
    minutes = EvidenceMinuteSerializer(many=True)


class ClauseSerializer(serializers.Serializer[Any]):
    clause = serializers.ChoiceField(choices=[clause.value for clause in Clause])
    met = serializers.BooleanField()
    offenders = OffenderSerializer(many=True)


class EvidenceProofSerializer(serializers.Serializer[Any]):
    at = TimeField()
    quiet = serializers.BooleanField()
    forced = serializers.BooleanField()
    quiet_for = serializers.CharField()
    monitored_seconds = serializers.IntegerField()
    clauses = ClauseSerializer(many=True)


class ChainEndSerializer(serializers.Serializer[Any]):
    sequence = serializers.IntegerField()
    mac = serializers.CharField()


class ChainEventSerializer(ChainEndSerializer):
    at = TimeField()
    event = serializers.CharField()
    stage = serializers.CharField(allow_null=True)


class ChainSerializer(serializers.Serializer[Any]):
    first = ChainEndSerializer()
    last = ChainEndSerializer()
    events = ChainEventSerializer(many=True)


class EvidenceSerializer(serializers.Serializer[Any]):
    """Everything that happened in a finished rotation and why, signed by this installation."""

    format = serializers.ChoiceField(choices=[FORMAT])
    version = serializers.ChoiceField(choices=[VERSION])
    installation = serializers.UUIDField()
    rotation = EvidenceRotationSerializer()
    plan = ObjectField(allow_null=True)
    policy = ObjectField()
    approvals = EvidenceApprovalSerializer(many=True)
    transitions = TransitionSerializer(many=True)
    steps = EvidenceStepSerializer(many=True)
    operations = EvidenceOperationSerializer(many=True)
    probes = EvidenceProbeSerializer(many=True)
    windows = EvidenceWindowsSerializer()
    proof = EvidenceProofSerializer(allow_null=True)
    audit = ChainSerializer()
    signature = serializers.CharField()


class EvidenceView(ManagementView):
    @documented(
        "Export the evidence of a finished rotation",
        answers={200: EvidenceSerializer},
        description="Plan, approvals, timeline, calls, error rates by the minute, quiet proof and positions "
        "in the audit chain, signed (Ed25519, detached JWS). 409 while the rotation is open. "
        "`keyturn evidence verify` checks such a file.",
        refusals=(409,),
        tag="rotations",
    )
    def get(self, request: Request, rotation: uuid.UUID) -> Response:
        row = visible(rotations_for(self.actor), pk=rotation)
        # As it was signed: a serializer would write numbers in its own way.
        return Response(evidence_of(row))
