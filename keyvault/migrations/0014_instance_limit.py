"""An instance limit for consumer tokens, who sits on it, and the trigger that tells of a change of it."""

from importlib import import_module

import django.db.models.deletion
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

CHANGES = import_module("keyvault.migrations.0004_changes")
TABLE = "keyvault_consumertoken"
BEFORE = CHANGES.WATCHED[TABLE]
AFTER = BEFORE._replace(columns=(*BEFORE.columns, "instance_limit"))
WATCHED = {**CHANGES.WATCHED, TABLE: AFTER}
DROP = {
    "sqlite": f"DROP TRIGGER IF EXISTS {TABLE}_noted_update",
    "postgresql": f"DROP TRIGGER {TABLE}_noted_update ON {TABLE}",
}
MAKERS = {"sqlite": CHANGES.sqlite_trigger, "postgresql": CHANGES.postgresql_trigger}


def watch(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    vendor = schema_editor.connection.vendor
    schema_editor.execute(DROP[vendor])
    schema_editor.execute(MAKERS[vendor](TABLE, AFTER, "UPDATE"))


def watch_as_before(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    vendor = schema_editor.connection.vendor
    schema_editor.execute(DROP[vendor])
    schema_editor.execute(MAKERS[vendor](TABLE, BEFORE, "UPDATE"))


class Migration(migrations.Migration):
    dependencies = [("keyvault", "0013_kek_holders")]

    operations = [
        migrations.AddField(
            model_name="consumertoken",
            name="instance_limit",
            field=models.PositiveIntegerField(blank=True, null=True),
        ),
        migrations.CreateModel(
            name="Seat",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("instance", models.CharField(max_length=128)),
                ("last_at", models.DateTimeField()),
                (
                    "token",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="seats",
                        to="keyvault.consumertoken",
                    ),
                ),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("token", "instance"), name="seat_once")],
            },
        ),
        migrations.RunPython(watch, watch_as_before),
    ]
