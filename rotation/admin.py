"""Django's admin for the rows of rotations: looking only."""

from __future__ import annotations

from keyvault.admin import columns
from rotation import models

columns(models.RotationPolicy, "slug", "preset", "created_at")
columns(
    models.KeySchedule,
    "key",
    "policy",
    "next_rotation_at",
    related=("key__service", "key__environment", "policy"),
)
columns(
    models.Rotation,
    "key",
    "stage",
    "weight",
    "paused",
    "attention",
    "created_at",
    related=("key__service", "key__environment"),
)
columns(models.Operation, "created_at", "kind", "side", "state", "outcome", "tries")
columns(models.RotationEvent, "at", "name", "stage", "weight", "actor", "reason")
columns(models.Breaker, "provider", "failures", "pauses", "open_until", related=("provider",))
columns(models.Channel, "slug", "team", "kind", "level", "enabled", "failing_since", related=("team",))
columns(models.Notice, "created_at", "channel", "kind", "state", "tries", "message", related=("channel",))
columns(models.Incident, "opened_at", "rotation", "code", "level", "closed_at", "closed_by")
columns(models.RotationRecord, "rotation", related=("rotation__key__service", "rotation__key__environment"))
columns(models.EmergencyRun, "created_at", "scope", "subject", "mode", "state", "requested_by")
columns(models.EmergencyItem, "run", "position", "why", "state", "started_at", related=("run",))
columns(models.Exposure, "at", "key", "cause", "who", related=("key__service", "key__environment"))
columns(models.Approval, "rotation", "transition", "user", "expires_at", related=("rotation", "user"))
columns(
    models.Finding,
    "found_at",
    "provider",
    "kind",
    "version",
    "label",
    "detail",
    "gone_at",
    related=("provider", "version__key__service", "version__key__environment"),
)
