"""Liveness, readiness and figures. Nothing here needs a session or tells a secret."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta

import structlog
from django.conf import settings
from django.db import DatabaseError, connection
from django.db.models import Count
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from keyvault import clock
from keyvault.crypto.errors import IntegrityError, KeyringError, KeyServiceUnavailable
from keyvault.keystore import environment_keys, keys
from keyvault.models import KekCanary, Key
from keyvault.services import beats, quarantine
from keyvault.services.keks import open_canary
from rotation.facts import OperationState, Stage
from rotation.models import Operation, Rotation
from rotation.services.notifying import tell_beat_dead
from rotation.services.proving import PROVED

log = structlog.get_logger("keyturn.health")


class CheckFailed(Exception):
    """A readiness check says no; the text is safe to show."""


@require_safe
def livez(request: HttpRequest) -> HttpResponse:
    """This process answers. The database is not asked, so that its outage does not restart us."""
    return JsonResponse({"status": "ok"})


@require_safe
def readyz(request: HttpRequest) -> HttpResponse:
    """Whether requests should be sent here; 503 with the failing checks named."""
    checks = {name: _run(name, check) for name, check in _CHECKS.items()}
    ready = all(check["status"] == "ok" for check in checks.values())
    body = {"status": "ok" if ready else "unavailable", "checks": checks}
    return JsonResponse(body, status=200 if ready else 503)


def _run(name: str, check: Callable[[], Mapping[str, object]]) -> dict[str, object]:
    try:
        return {"status": "ok", **check()}
    except CheckFailed as error:
        reason = str(error)
    except DatabaseError:
        reason = "The database does not answer."
    log.warning("not ready", check=name, reason=reason)
    return {"status": "failed", "reason": reason}


def _database() -> dict[str, object]:
    with connection.cursor() as cursor:
        cursor.execute("select 1")
    return {"vendor": connection.vendor}


def key_service() -> dict[str, object]:
    """Every KEK of this process opens the known text that was sealed under it.

    ``stale``: the kids that are only read with any more because their provider is down, and for how long.
    """
    try:
        keks = keys().keks
        keks.health()
        held = {kid: env for env, found in keks.describe().items() for kid in found.kids}
        rows = list(KekCanary.objects.filter(kid__in=held))
        for row in rows:
            open_canary(held[row.kid], row)
    except IntegrityError as error:
        raise CheckFailed(str(error)) from error
    except KeyServiceUnavailable as error:
        raise CheckFailed("A KEK cannot be had from its provider.") from error
    except KeyringError as error:
        raise CheckFailed("The keyring cannot be used.") from error
    stale = {one.kid: round(one.age or 0) for one in environment_keys().states() if one.stale}
    return {"keks": len(held), "canaries": len(rows), **({"stale": stale} if stale else {})}


def _beat() -> dict[str, object]:
    age = heartbeat_age()
    if age is None:
        raise CheckFailed("The scheduler has never run.")
    if age > settings.KEYTURN_HEARTBEAT_MAX_AGE:
        # The scheduler cannot tell of its own end, so whoever notices does.
        now = clock.now()
        tell_beat_dead(now - timedelta(seconds=age), now)
        raise CheckFailed(f"The scheduler was last seen {age:.0f} s ago.")
    return {"age_seconds": round(age, 1)}


def _quarantine() -> dict[str, object]:
    if quarantine.everything() is not None:
        raise CheckFailed("The database was restored from a backup. Run: keyturn restore_reconcile")
    return {"held": len(quarantine.held_keys())}


_CHECKS: Mapping[str, Callable[[], Mapping[str, object]]] = {
    "database": _database,
    "quarantine": _quarantine,
    "key_service": key_service,
    beats.BEAT: _beat,
}


def heartbeat_age(name: str = beats.BEAT) -> float | None:
    """Seconds since the last one of this name; None when there was none."""
    at = beats.last(name)
    return None if at is None else max(0.0, (clock.now() - at).total_seconds())


class StateCollector:
    """Figures read from the database at the time of the scrape: every process tells the same.

    Labels are environments, stages and states: their number does not grow with use.
    """

    def collect(self) -> Iterator[Metric]:
        yield _gauge(
            "keyturn_keys",
            "Keys held.",
            "environment",
            Key.objects.order_by().values_list("environment__slug").annotate(Count("id")),
        )
        yield _gauge(
            "keyturn_rotations",
            "Rotations.",
            "stage",
            Rotation.objects.order_by().values_list("stage").annotate(Count("id")),
            zeros=[stage.value for stage in Stage],
        )
        yield _gauge(
            "keyturn_operations",
            "Calls to providers.",
            "state",
            Operation.objects.order_by().values_list("state").annotate(Count("id")),
            zeros=[state.value for state in OperationState],
        )
        attention = Rotation.objects.exclude(attention="").filter(finished_at__isnull=True).count()
        yield GaugeMetricFamily(
            "keyturn_rotations_attention", "Rotations that wait for a person.", value=attention
        )
        for name, of, text in (
            (
                "keyturn_beat_age_seconds",
                beats.BEAT,
                "Seconds since the scheduler ran; -1 when it never did.",
            ),
            (
                "keyturn_audit_proved_age_seconds",
                PROVED,
                "Seconds since the nightly proof found the audit trail intact; -1 when it never did.",
            ),
        ):
            age = heartbeat_age(of)
            yield GaugeMetricFamily(name, text, value=-1.0 if age is None else age)
        yield GaugeMetricFamily(
            "keyturn_quarantined",
            "1 while a restored database holds back every key, until restore_reconcile.",
            value=float(quarantine.everything() is not None),
        )
        yield GaugeMetricFamily(
            "keyturn_keys_quarantined",
            "Keys that are held back for themselves until somebody releases them.",
            value=len(quarantine.held_keys()),
        )


class KekCollector:
    """What this process has of its KEKs at remote providers; the others tell for themselves."""

    def collect(self) -> Iterator[Metric]:
        age = GaugeMetricFamily(
            "keyturn_kek_age_seconds",
            "Seconds since the provider of a KEK opened its environment key; -1 while it is not open.",
            labels=["environment", "kid"],
        )
        stale = GaugeMetricFamily(
            "keyturn_kek_stale",
            "1 while the provider of a KEK is down: what is sealed is read, and nothing new is sealed.",
            labels=["environment", "kid"],
        )
        for one in environment_keys().states():
            labels = [one.environment, one.kid]
            age.add_metric(labels, -1.0 if one.age is None else one.age)
            stale.add_metric(labels, float(one.stale or one.age is None))
        yield from (age, stale)


def _gauge(
    name: str, text: str, label: str, rows: Iterable[tuple[str, int]], zeros: Iterable[str] = ()
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, count in {**dict.fromkeys(zeros, 0), **dict(rows)}.items():
        family.add_metric([value], count)
    return family


_registry = CollectorRegistry(auto_describe=False)
_registry.register(StateCollector())
_registry.register(KekCollector())


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Prometheus text format."""
    return HttpResponse(generate_latest(_registry), content_type=CONTENT_TYPE_LATEST)
