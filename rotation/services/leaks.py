"""Somebody reports a secret that was found in the open."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.db import transaction

from keyvault import audit
from keyvault.actors import SYSTEM, Actor
from keyvault.crypto.secret import Secret
from keyvault.models import KeyVersion
from keyvault.services import keys as key_services
from rotation.models import EmergencyItem, EmergencyRun
from rotation.services import runs
from rotation.services.emergencies import lock_open
from rotation.services.radius import Radius, Target, chosen, radius

_UNDER_WAY = (EmergencyRun.PROPOSED, EmergencyRun.RUNNING)


@dataclass(frozen=True)
class Reported:
    """What the reporter may know of (nothing, where the secret is a stranger's or nobody's), and the run."""

    seen: tuple[Target, ...]
    run: EmergencyRun | None


def report(actor: Actor, secret: Secret, *, reason: str, now: datetime) -> Reported:
    """Whoever holds a secret may report it; the secret itself is only compared, by its digests.

    1. Every version that holds it is marked as compromised, whatever team it belongs to. 2. An emergency is
    proposed to the leads of those teams, or started by Keyturn where the installation is set so; what is
    under way already is left as it is. 3. The report is recorded, also one of an unknown secret: with its
    reporter, without a trace of the secret. The run is Keyturn's own, so that a stranger does not find it.
    """
    targets, tokens, _ = chosen(SYSTEM, "leak", leak=secret)
    for target in targets:
        if target.version is not None:
            _mark(actor, target, target.version, reason, now)
    mode = "kill" if tokens else "replace"  # nobody but its consumer can take up another token
    drawn = radius(SYSTEM, targets, tokens, scope="leak", subject="", mode=mode, now=now)
    with transaction.atomic():
        audit.lock_chain()  # of two reports of the same secret the second finds the run of the first
        run = _under_way(targets) or _begin(drawn, reason, now)
        audit.record(
            "leak:reported",
            actor=actor,
            now=now,
            reason=reason,
            versions=[f"{target.key} v{target.version.number}" for target in targets if target.version],
            run=str(run.id) if run is not None else "",
        )
    seen, _, _ = chosen(actor, "leak", leak=secret)
    return Reported(tuple(seen), run)


@transaction.atomic
def _mark(actor: Actor, target: Target, leaked: KeyVersion, reason: str, now: datetime) -> None:
    _, key = lock_open(target.key, leaked)
    version = key.versions.get(pk=leaked.pk)
    version.key = key
    key_services.mark_compromised(actor, key, version, reason=reason, now=now)


def _under_way(targets: list[Target]) -> EmergencyRun | None:
    versions = [target.version.id for target in targets if target.version is not None]
    items = EmergencyItem.objects.filter(version_id__in=versions, run__state__in=_UNDER_WAY)
    found = items.select_related("run").order_by("-run__created_at").first()
    return found.run if found is not None else None


def _begin(drawn: Radius, reason: str, now: datetime) -> EmergencyRun | None:
    if drawn.count == 0:
        return None
    if settings.KEYTURN_LEAK_REPORTS_START:
        return runs.start(SYSTEM, drawn, count=drawn.count, plan=drawn.digest, reason=reason, now=now)
    return runs.propose(SYSTEM, drawn, reason=reason, now=now)
