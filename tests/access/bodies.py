"""What is sent with a method that changes something: as much as the service needs to do it.

A route that is not here gets an empty body. Then a caller who may do it is told what is missing, and the
line shows who is refused before that; give it a body, so that it shows who may do it in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from keyvault import clock
from keyvault.models import Provider
from rotation.console.choices import seen_mark
from rotation.console.providerforms import ProviderForm
from rotation.models import EmergencyRun, Rotation, RotationPolicy
from rotation.planned import rotation_digest
from rotation.services import policies, providers, radius, runs
from tests.access.house import PEOPLE, House, actor
from tests.access.routes import CHOSEN

Body = Mapping[str, Any] | Callable[[House, str], Mapping[str, Any]]

SECRET = "sk_Tq81mPq04xTtb7Xq2Lm9Zk"
WHY = {"reason": "because"}


def _mark(template: str, **more: object) -> Callable[[House, str], Mapping[str, Any]]:
    """A verb of the console, on the state that its page has shown."""

    def body(house: House, caller: str) -> Mapping[str, Any]:
        row = Rotation.objects.select_related("key__service", "key__environment").get(
            pk=house.name(template, "rotation_id")
        )
        return {**WHY, "mark": seen_mark(row), "confirm": str(row.key), "count": 0, **more}

    return body


def _decision(house: House, caller: str) -> Mapping[str, Any]:
    """Both the form of the queue and that of a decision alone."""
    row = Rotation.objects.select_related("key__service", "key__environment").get(
        pk=house.name("/approvals/", "rotation_id")
    )
    return {**WHY, "decision": "approve", "plan": rotation_digest(row), "confirm": str(row.key)}


def _policy(house: House, caller: str) -> Mapping[str, Any]:
    row = RotationPolicy.objects.get(slug=house.name("/policies/{slug}/edit/", "slug"))
    changed = '{"quiet": "PT40M"}'
    return {"json": changed, "document": changed, "seen": policies.mark_of(row)}


def _provider(house: House, caller: str) -> Mapping[str, Any]:
    row = Provider.objects.get(slug=house.name("/providers/{slug}/edit/", "slug"))
    shown = {name: value for name, value in ProviderForm.values(row).items() if value not in (None, False)}
    return {**shown, "name": "Fresh", "seen": providers.mark_of(row)}


def _proposal(house: House, caller: str) -> Mapping[str, Any]:
    """With the plan as this caller has seen it; others send the lead's."""
    run = EmergencyRun.objects.get(pk=house.name("/v1/emergency/{run}/confirm/", "run"))
    drawn = runs.proposal(actor(caller if caller in PEOPLE else "lead"), run, now=clock.now())
    return {**WHY, "plan": drawn.digest, "count": drawn.count}


def _planned(house: House, caller: str) -> Mapping[str, Any]:
    """All that the lead saw in the plan, under this caller's own digest."""
    found, tokens, subject = radius.chosen(actor("lead"), "service", "photos")
    who = actor(caller if caller in PEOPLE else "lead")
    now = clock.now()
    drawn = radius.radius(who, found, tokens, scope="service", subject=subject, mode="replace", now=now)
    return {**WHY, "plan": drawn.digest, "count": drawn.count}


def _started(house: House, caller: str) -> Mapping[str, Any]:
    return {**_planned(house, caller), "service": "photos", "mode": "replace"}


_PROVIDER = {
    "slug": "fresh", "name": "Fresh", "driver": "manual", "base_url": "https://api.example.org",
    "auth_header": "X-API-Key", "errors_shape": "flat", "max_job_age": "1 h", "derived_token_life": "0 s",
}  # fmt: skip
_SERVICE = {"slug": "fresh", "team": "imaging", "provider": "internal"}
_GRANT = {"service": "photos", "environment": "dev", "verbs": ["read"]}
_VERBS = ("approve", "pause", "resume", "advance", "abort", "confirm-revoked", "force-revoke", "emergency")

BODIES: dict[str, Body] = {
    # Pages
    "POST /teams/new/": {"slug": "fresh", "name": "Fresh"},
    "POST /services/new/": _SERVICE,
    "POST /keys/new/": {
        "service": "empty", "source": "paste", "policy": "standard", "in_dev": "on", "secret_dev": SECRET,
    },
    "POST /keys/{service}/{environment}/connect/": {"slug": "fresh", "life": "30"},
    "POST /keys/{service}/{environment}/reveal/": WHY,
    "POST /keys/{service}/{environment}/never-shown/": {"never_shown": "1"},
    "POST /keys/{service}/{environment}/policy/": {"policy": "fast"},
    "POST /keys/{service}/{environment}/rotate/": WHY,
    "POST /keys/{service}/{environment}/emergency/": {
        "mode": "replace", "confirm": "photos/prod", **WHY,
    },
    "POST /consumers/new/": {"slug": "fresh", "team": "imaging"},
    "POST /consumers/{slug}/tokens/": {"environment": "dev", "life": "30", "cidrs": ""},
    "POST /consumers/{slug}/tokens/{token_id}/rotate/": {"grace": "3600"},
    "POST /consumers/{slug}/tokens/{token_id}/revoke/": {"confirm": "farm"},
    "POST /consumers/{slug}/grants/": _GRANT,
    "POST /channels/my-mail/": {"email": "me@example.org"},
    "POST /channels/new/": {
        "slug": "fresh", "kind": "mail", "team": "imaging", "level": "owner", "after": "0", "zone": "UTC",
    },
    "POST /channels/{slug}/": {"level": "lead", "after": "0", "zone": "UTC", "enabled": "on"},
    "POST /channels/{slug}/rotate-secret/": {"grace": "3600"},
    "POST /channels/{slug}/remove/": {"confirm": "hook"},
    f"POST /emergency/?{CHOSEN}": _planned,
    "POST /emergency/{run_id}/stop/": WHY,
    "POST /emergency/{run_id}/resume/": WHY,
    "POST /emergency/{run_id}/confirm/": _proposal,
    "POST /approvals/{rotation_id}/": _decision,
    "POST /approvals/{rotation_id}/break-glass/": _decision,
    "POST /reviews/{approval_id}/": {"verdict": "sound", "note": "as it should be"},
    "POST /audit/export/": {"form": "csv"},
    "POST /providers/new/": _PROVIDER,
    "POST /providers/{slug}/edit/": _provider,
    "POST /providers/{slug}/test/": {"key": ""},
    "POST /profile/": {"name": "Fresh", "email": "", "time_zone": "UTC"},
    "POST /profile/tokens/": {"life": "8"},
    "POST /people/{user_id}/role/": {"role": "auditor"},
    "POST /people/{user_id}/second-factor/": WHY,
    "POST /team/{slug}/members/": {"user": "stranger", "role": "viewer"},
    "POST /team/{slug}/members/{member_id}/role/": {"role": "operator"},
    "POST /policies/new/": {"slug": "fresh", "json": "{}"},
    "POST /policies/{slug}/edit/": _policy,
    "POST /policies/{slug}/save/": _policy,
    "POST /policies/{slug}/remove/": {"confirm": "unused"},
    "POST /leaks/new/": {"secret": SECRET, **WHY},
    "POST /rotations/{rotation_id}/supply/": {"secret": SECRET, **WHY},
    **{
        f"POST /rotations/{{rotation_id}}/{verb}/": _mark(f"/rotations/{{rotation_id}}/{verb}/")
        for verb in _VERBS
    },
    "POST /rotations/{rotation_id}/extend/": _mark("/rotations/{rotation_id}/extend/", by="P1D"),
    # The API
    "POST /v1/teams/": {"slug": "fresh"},
    "POST /v1/teams/{team}/members/": {"user": "stranger", "role": "viewer"},
    "POST /v1/services/": _SERVICE,
    "PATCH /v1/services/{service}/": {"description": "What it is for."},
    "POST /v1/services/{service}/keys/": {"environment": "dev", "secret": SECRET},
    "PATCH /v1/services/{service}/keys/{environment}/": {"never_shown": True},
    "POST /v1/consumers/": {"slug": "fresh", "team": "imaging"},
    "POST /v1/consumers/{consumer}/tokens/": {"environment": "dev"},
    "POST /v1/consumers/{consumer}/tokens/{token}/rotate/": {"grace": "PT1H"},
    "POST /v1/grants/": {"consumer": "farm", **_GRANT},
    "POST /v1/keys/{service}/{environment}/reveal/": WHY,
    "POST /v1/keys/{service}/{environment}/rotations/": WHY,
    "POST /v1/keys/{service}/{environment}/emergency/": {"mode": "replace", **WHY},
    "POST /v1/providers/": {
        "slug": "fresh", "driver": "manual", "base_url": "https://api.example.org",
    },
    "PATCH /v1/providers/{provider}/": {"name": "Fresh"},
    "POST /v1/policies/": {"slug": "fresh"},
    "PATCH /v1/policies/{policy}/": {"quiet": "PT20M"},
    "POST /v1/channels/": {"slug": "fresh", "kind": "mail", "team": "imaging"},
    "PATCH /v1/channels/{channel}/": {"level": "lead"},
    "POST /v1/emergency/": _started,
    "POST /v1/emergency/{run}/stop/": WHY,
    "POST /v1/emergency/{run}/resume/": WHY,
    "POST /v1/emergency/{run}/confirm/": _proposal,
    "POST /v1/leaks/": {"secret": SECRET, **WHY},
    **{f"POST /v1/rotations/{{rotation}}/{verb}/": WHY for verb in _VERBS},
    "POST /v1/rotations/{rotation}/extend/": {"by": "PT1H", **WHY},
    "POST /v1/rotations/{rotation}/supply/": {"secret": SECRET, **WHY},
    "POST /v1/rotations/{rotation}/force-revoke/": {"offenders": 0, **WHY},
}  # fmt: skip


def body(house: House, method: str, template: str, caller: str) -> Mapping[str, Any]:
    found = BODIES.get(f"{method} {template}", {})
    return found(house, caller) if callable(found) else found
