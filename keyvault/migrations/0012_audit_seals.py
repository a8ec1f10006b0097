"""Deliveries are sealed into the audit chain, and what tells of the past can be neither changed nor taken
out: not an event, not a delivery that was made, not the head of the chain backwards. Deliveries may be deleted:
old ones are forgotten, which the chain tells too.
"""

from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

SQLITE = (
    """
    CREATE TRIGGER audit_kept BEFORE DELETE ON keyvault_auditevent
    BEGIN SELECT RAISE(ABORT, 'audit_append_only: events are never deleted'); END
    """,
    """
    CREATE TRIGGER audit_head_forward BEFORE UPDATE ON keyvault_audithead WHEN NEW.sequence <= OLD.sequence
    BEGIN SELECT RAISE(ABORT, 'audit_append_only: the chain never gets shorter'); END
    """,
    """
    CREATE TRIGGER audit_head_kept BEFORE DELETE ON keyvault_audithead
    BEGIN SELECT RAISE(ABORT, 'audit_append_only: the chain keeps its head'); END
    """,
    """
    CREATE TRIGGER delivery_unchanged BEFORE UPDATE ON keyvault_delivery
    BEGIN SELECT RAISE(ABORT, 'audit_append_only: deliveries are never changed'); END
    """,
)

POSTGRESQL = (
    """
    CREATE TRIGGER audit_kept BEFORE DELETE ON keyvault_auditevent
    FOR EACH ROW EXECUTE FUNCTION keyturn_audit_guard()
    """,
    """
    CREATE TRIGGER audit_whole BEFORE TRUNCATE ON keyvault_auditevent
    FOR EACH STATEMENT EXECUTE FUNCTION keyturn_audit_guard()
    """,
    """
    CREATE TRIGGER audit_head_forward BEFORE UPDATE ON keyvault_audithead
    FOR EACH ROW WHEN (NEW.sequence <= OLD.sequence) EXECUTE FUNCTION keyturn_audit_guard()
    """,
    """
    CREATE TRIGGER audit_head_kept BEFORE DELETE ON keyvault_audithead
    FOR EACH ROW EXECUTE FUNCTION keyturn_audit_guard()
    """,
    """
    CREATE TRIGGER audit_head_whole BEFORE TRUNCATE ON keyvault_audithead
    FOR EACH STATEMENT EXECUTE FUNCTION keyturn_audit_guard()
    """,
    """
    CREATE TRIGGER delivery_unchanged BEFORE UPDATE ON keyvault_delivery
    FOR EACH ROW EXECUTE FUNCTION keyturn_audit_guard()
    """,
)

DO = {"sqlite": SQLITE, "postgresql": POSTGRESQL}
UNDO = {
    "sqlite": tuple(f"DROP TRIGGER {statement.split()[2]}" for statement in SQLITE),
    "postgresql": tuple(
        f"DROP TRIGGER {words[2]} ON {words[words.index('ON') + 1]}"
        for words in (statement.split() for statement in POSTGRESQL)
    ),
}


def guard(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    for statement in DO[schema_editor.connection.vendor]:
        schema_editor.execute(statement)


def unguard(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    for statement in UNDO[schema_editor.connection.vendor]:
        schema_editor.execute(statement)


class Migration(migrations.Migration):
    dependencies = [("keyvault", "0011_recovery")]

    operations = [
        migrations.CreateModel(
            name="SealMark",
            fields=[
                ("id", models.PositiveSmallIntegerField(default=1, primary_key=True, serialize=False)),
                ("delivery_id", models.BigIntegerField(default=0)),
            ],
        ),
        migrations.AddIndex(
            "auditevent",
            models.Index(
                fields=["-sequence"],
                condition=models.Q(("name", "deliveries:sealed"), _negated=True),
                name="audit_without_seals",
            ),
        ),
        migrations.RunPython(guard, unguard),
    ]
