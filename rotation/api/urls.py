"""Routes of rotation below ``/v1/``."""

from __future__ import annotations

from django.urls import URLPattern, path

from keyvault.api import converters as _converters  # noqa: F401  (registers <name:…>)
from rotation.api.views import (
    channels,
    drift,
    emergencies,
    evidence,
    keys,
    policies,
    providers,
    rotations,
    scanning,
)

_KEY = "keys/<name:service>/<name:environment>"
_ROTATION = "rotations/<uuid:rotation>"

urlpatterns: list[URLPattern] = [
    path("providers/", providers.ProvidersView.as_view()),
    path("providers/<name:provider>/", providers.ProviderView.as_view()),
    path("policies/", policies.PoliciesView.as_view()),
    path("policies/<name:policy>/", policies.PolicyView.as_view()),
    path("channels/", channels.ChannelsView.as_view()),
    path("channels/<name:channel>/", channels.ChannelView.as_view()),
    path("channels/<name:channel>/notices/", channels.ChannelNoticesView.as_view()),
    path("channels/<name:channel>/test/", channels.ChannelTestView.as_view()),
    path("channels/<name:channel>/rotate-secret/", channels.ChannelSecretView.as_view()),
    path("services/<name:service>/keys/", keys.KeysView.as_view()),
    path("services/<name:service>/keys/<name:environment>/", keys.KeyView.as_view()),
    path(f"{_KEY}/rotations/", rotations.KeyRotationsView.as_view()),
    path(f"{_KEY}/emergency/", emergencies.KeyEmergencyView.as_view()),
    path("emergency/", emergencies.EmergencyView.as_view()),
    path("emergency/<uuid:run>/", emergencies.EmergencyRunView.as_view()),
    path("emergency/<uuid:run>/stop/", emergencies.StopEmergencyView.as_view()),
    path("emergency/<uuid:run>/resume/", emergencies.ResumeEmergencyView.as_view()),
    path("emergency/<uuid:run>/confirm/", emergencies.ConfirmEmergencyView.as_view()),
    path("leaks/", emergencies.LeaksView.as_view()),
    path("token-scanning/report/", scanning.ScanningView.as_view()),
    path("drift/", drift.DriftView.as_view()),
    path("rotations/", rotations.RotationsView.as_view()),
    path(f"{_ROTATION}/", rotations.RotationView.as_view()),
    path(f"{_ROTATION}/evidence/", evidence.EvidenceView.as_view()),
    path(f"{_ROTATION}/approve/", rotations.ApproveView.as_view()),
    path(f"{_ROTATION}/pause/", rotations.PauseView.as_view()),
    path(f"{_ROTATION}/resume/", rotations.ResumeView.as_view()),
    path(f"{_ROTATION}/advance/", rotations.AdvanceView.as_view()),
    path(f"{_ROTATION}/extend/", rotations.ExtendView.as_view()),
    path(f"{_ROTATION}/abort/", rotations.AbortView.as_view()),
    path(f"{_ROTATION}/supply/", rotations.SupplyView.as_view()),
    path(f"{_ROTATION}/confirm-revoked/", rotations.ConfirmRevokedView.as_view()),
    path(f"{_ROTATION}/force-revoke/", rotations.ForceRevokeView.as_view()),
]
