"""How fast the audit trail is proved: ``python -m benchmarks.proving EVENTS``. One process, one core."""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import datetime, timedelta

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "keyvault.project.settings")
django.setup()

from benchmarks.seeding import Table  # noqa: E402
from keyvault import audit, clock  # noqa: E402
from keyvault.keystore import keys  # noqa: E402
from keyvault.models import AuditEvent, AuditHead  # noqa: E402
from keyvault.services import verifying  # noqa: E402


def append(events: int, now: datetime) -> None:
    """So many events behind those that are there, chained as ``audit.record`` does, at once."""
    head, _ = AuditHead.objects.get_or_create(singleton=True)
    key, previous, table = keys().service.audit, bytes(head.mac), Table(AuditEvent)
    for number in range(1, events + 1):
        event = AuditEvent(
            sequence=head.sequence + number,
            at=now + timedelta(microseconds=number),
            name="rotation:stage",
            actor_kind="system",
            actor="keyturn",
            service=f"bench-{number % 1_000}",
            environment="prod",
            subject="8c1d2a90-54f3-4a0c-9d53-2f6f1f1d0b11",
            reason="enough checks passed",
            details={"rotation": "8c1d2a90-54f3-4a0c-9d53-2f6f1f1d0b11", "stage": "monitor", "was": "shift"},
        )
        event.mac = previous = audit.chain_mac(previous, event, key)
        table.add(event)
    table.write()
    AuditHead.objects.update(sequence=head.sequence + events, mac=previous)


def main() -> int:
    now = clock.now()
    append(int(sys.argv[1]), now)
    started = time.perf_counter()
    proof = verifying.prove((), now)
    seconds = time.perf_counter() - started
    if proof.finding is not None:
        raise RuntimeError(proof.finding.what)
    print(json.dumps({"events": proof.events, "deliveries": proof.deliveries, "seconds": seconds}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
