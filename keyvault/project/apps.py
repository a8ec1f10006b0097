"""The Django project as an app: it only makes the Celery app known."""

from __future__ import annotations

from django.apps import AppConfig


class ProjectConfig(AppConfig):
    name = "keyvault.project"
    label = "keyturn_project"
    verbose_name = "Keyturn"

    def ready(self) -> None:
        # So that shared_task() and delay_on_commit() in every process find this app and not a default one.
        from keyvault.project import celery  # noqa: F401
