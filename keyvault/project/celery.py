"""The Celery app. Messages carry ids, never secrets; due times live in the database."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from celery import Celery
from celery.schedules import crontab
from celery.signals import setup_logging, worker_init, worker_ready, worker_shutdown
from django.conf import settings

from keyvault.project.broker import broker_settings
from keyvault.project.files import ensure_private_dir
from keyvault.project.guard import leave_no_core

if TYPE_CHECKING:
    from keyvault.project.holding import Reporter

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "keyvault.project.settings")

app = Celery("keyturn")
app.conf.update(
    broker_settings(
        settings.CELERY_BROKER_URL,
        settings.KEYTURN_DATA,
        visibility_timeout=settings.CELERY_VISIBILITY_TIMEOUT,
    )
)
app.conf.beat_schedule = {
    "tick": {
        "task": "rotation.tasks.tick",
        "schedule": float(settings.KEYTURN_TICK),
        # A tick that waited longer than the next one is not worth running.
        "options": {"expires": 4.0 * settings.KEYTURN_TICK},
    },
    "checkpoint": {"task": "rotation.tasks.checkpoint", "schedule": 15.0, "options": {"expires": 60.0}},
    # At night, by UTC: it asks providers about every key.
    "drift": {"task": "rotation.tasks.drift", "schedule": crontab(hour="3", minute="17")},
    "prove-audit": {"task": "rotation.tasks.prove_audit", "schedule": crontab(hour="4", minute="17")},
    "tidy": {"task": "keyvault.tasks.tidy", "schedule": crontab(hour="3", minute="47")},
    # Often, because readers go through what is not folded yet row by row.
    "roll-up": {"task": "keyvault.tasks.roll_up", "schedule": 10.0, "options": {"expires": 40.0}},
}
app.conf.beat_schedule_filename = str(settings.KEYTURN_DATA / "beat-schedule")
app.autodiscover_tasks(["keyvault", "rotation"])

if app.conf.broker_url.startswith("filesystem:"):
    ensure_private_dir(settings.KEYTURN_DATA / "queue")
    ensure_private_dir(settings.KEYTURN_DATA / "queue-ctl")


@worker_init.connect
def _leave_no_core(**_: object) -> None:
    """Also in a worker that ``celery worker`` started."""
    leave_no_core()


@setup_logging.connect
def _keep_our_logging(**_: object) -> None:
    """Celery configures logging only if nobody answers this signal; Django has done it already."""


_reporters: list[Reporter] = []


@worker_ready.connect
def _begin_to_report(**_: object) -> None:
    # Models are importable only after Django is set up.
    from keyvault.project.holding import Reporter

    _reporters.append(Reporter("worker"))
    _reporters[-1].start()


@worker_shutdown.connect
def _end_reports(**_: object) -> None:
    while _reporters:
        _reporters.pop().stop()
