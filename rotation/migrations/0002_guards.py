"""A rotation moves along its stages only, and its weight never falls but to 0 in a rollback. The edges are
frozen here; a test compares them with ``rotation.facts``."""

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

EDGES = (
    ("requested", "deploy"),
    ("requested", "cancelled"),
    ("deploy", "shift"),
    ("deploy", "rolled_back"),
    ("deploy", "cancelled"),
    ("shift", "monitor"),
    ("shift", "rolled_back"),
    ("monitor", "revoke"),
    ("monitor", "rolled_back"),
    ("monitor", "succeeded"),
    ("revoke", "succeeded"),
    ("revoke", "rolled_back"),
)
_PAIRS = ", ".join(f"'{old}>{new}'" for old, new in EDGES)

SQLITE = (
    f"""
    CREATE TRIGGER rotation_edges BEFORE UPDATE OF stage ON rotation_rotation
    WHEN OLD.stage <> NEW.stage AND (OLD.stage || '>' || NEW.stage) NOT IN ({_PAIRS})
    BEGIN SELECT RAISE(ABORT, 'rotation_edges: a rotation cannot move like that'); END
    """,
    """
    CREATE TRIGGER rotation_weight_rises BEFORE UPDATE OF weight ON rotation_rotation
    WHEN NEW.weight < OLD.weight AND NOT (NEW.weight = 0 AND NEW.stage = 'rolled_back')
    BEGIN SELECT RAISE(ABORT, 'rotation_weight_rises: the weight only falls in a rollback'); END
    """,
)

POSTGRESQL = (
    f"""
    CREATE FUNCTION keyturn_rotation_guard() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      IF OLD.stage <> NEW.stage AND (OLD.stage || '>' || NEW.stage) NOT IN ({_PAIRS}) THEN
        RAISE EXCEPTION 'rotation_edges: a rotation cannot move like that' USING ERRCODE = 'check_violation';
      END IF;
      IF NEW.weight < OLD.weight AND NOT (NEW.weight = 0 AND NEW.stage = 'rolled_back') THEN
        RAISE EXCEPTION 'rotation_weight_rises: the weight only falls in a rollback'
          USING ERRCODE = 'check_violation';
      END IF;
      RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER rotation_guard BEFORE UPDATE ON rotation_rotation
    FOR EACH ROW EXECUTE FUNCTION keyturn_rotation_guard()
    """,
)

DO = {"sqlite": SQLITE, "postgresql": POSTGRESQL}
UNDO = {
    "sqlite": (
        "DROP TRIGGER IF EXISTS rotation_edges",
        "DROP TRIGGER IF EXISTS rotation_weight_rises",
    ),
    "postgresql": (
        "DROP TRIGGER rotation_guard ON rotation_rotation",
        "DROP FUNCTION keyturn_rotation_guard()",
    ),
}


def guard(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    for statement in DO[schema_editor.connection.vendor]:
        schema_editor.execute(statement)


def unguard(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    for statement in UNDO[schema_editor.connection.vendor]:
        schema_editor.execute(statement)


class Migration(migrations.Migration):
    dependencies = [("rotation", "0001_initial")]
    operations = [migrations.RunPython(guard, unguard)]
