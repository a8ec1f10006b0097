"""SQLite makes a table anew when a column is added, and drops the triggers of the old one: the guards of
rotations are set again. PostgreSQL has kept them."""

from importlib import import_module

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

GUARDS = import_module("rotation.migrations.0002_guards")


def guard(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    if schema_editor.connection.vendor != "sqlite":
        return
    for statement in GUARDS.UNDO["sqlite"]:
        schema_editor.execute(statement)
    GUARDS.guard(apps, schema_editor)


class Migration(migrations.Migration):
    dependencies = [("rotation", "0009_monitored_clock")]
    # Backwards the tables are made anew as well; 0002 takes away what is there.
    operations = [migrations.RunPython(guard, migrations.RunPython.noop)]
