"""The list of backups, and what is held back after a restore, with triggers that tell delivery of it."""

import uuid

import django.db.models.deletion
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

TABLE = "keyvault_quarantine"
EVENTS = ("insert", "update", "delete")

SQLITE = [
    f"""
    CREATE TRIGGER {TABLE}_noted_{event} AFTER {event.upper()} ON {TABLE} FOR EACH ROW
    BEGIN
      INSERT INTO keyvault_changecounter (id, seq, floor) VALUES (1, 1, 0)
        ON CONFLICT (id) DO UPDATE SET seq = seq + 1;
      INSERT INTO keyvault_change (seq, kind, ref, parent)
        SELECT seq, 'all', NULL, NULL FROM keyvault_changecounter;
    END"""
    for event in EVENTS
]
POSTGRESQL = [
    f"""
    CREATE FUNCTION {TABLE}_noted() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      PERFORM keyturn_note_change('all', NULL, NULL);
      RETURN NULL;
    END $$""",
    *(
        f"""
        CREATE CONSTRAINT TRIGGER {TABLE}_noted_{events.split()[0].lower()} AFTER {events} ON {TABLE}
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {TABLE}_noted()"""
        for events in ("INSERT OR DELETE", "UPDATE")
    ),
]
DO = {"sqlite": SQLITE, "postgresql": POSTGRESQL}
UNDO = {
    "sqlite": [f"DROP TRIGGER IF EXISTS {TABLE}_noted_{event}" for event in EVENTS],
    "postgresql": [f"DROP FUNCTION {TABLE}_noted() CASCADE"],
}


def start_watching(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    for statement in DO[schema_editor.connection.vendor]:
        schema_editor.execute(statement)


def stop_watching(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    for statement in UNDO[schema_editor.connection.vendor]:
        schema_editor.execute(statement)


class Migration(migrations.Migration):
    dependencies = [("keyvault", "0010_version_compromised")]

    operations = [
        migrations.CreateModel(
            name="Backup",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                ("made_at", models.DateTimeField()),
                ("expires_at", models.DateTimeField(db_index=True)),
                ("kids", models.JSONField(default=list)),
                ("sequence", models.BigIntegerField()),
            ],
            options={"ordering": ["-made_at"]},
        ),
        migrations.CreateModel(
            name="Quarantine",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                ("reason", models.CharField(max_length=200)),
                ("since", models.DateTimeField()),
                ("sequence", models.BigIntegerField()),
                (
                    "key",
                    models.OneToOneField(
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="quarantine",
                        to="keyvault.key",
                    ),
                ),
            ],
            options={"abstract": False},
        ),
        migrations.RunPython(start_watching, stop_watching),
    ]
