"""The Django project as an app, which only makes the Celery app known, and the site of the records."""

from __future__ import annotations

from django.apps import AppConfig
from django.contrib.admin.apps import SimpleAdminConfig


class ProjectConfig(AppConfig):
    name = "keyvault.project"
    label = "keyturn_project"
    verbose_name = "Keyturn"

    def ready(self) -> None:
        # So that shared_task() and delay_on_commit() in every process find this app and not a default one.
        from keyvault.project import celery, checks, second_factor  # noqa: F401

        second_factor.connect()
        checks.install()


class RecordsConfig(SimpleAdminConfig):
    """Nothing is registered by itself: what other packages keep is written on their own pages only."""

    default_site = "keyvault.project.records.Records"

    def ready(self) -> None:
        super().ready()
        # They register the tables of ours.
        from keyvault import admin as _custody  # noqa: F401
        from rotation import admin as _rotations  # noqa: F401
