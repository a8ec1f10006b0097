"""Rules that hold even for code that goes around the services: versions are immutable and move along
their edges; audit events are never changed. The edges are frozen here; a test compares them with
``keyvault.domain``."""

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

EDGES = (
    ("requested", "active"),
    ("requested", "destroyed"),
    ("active", "disabled"),
    ("disabled", "active"),
    ("active", "revoked"),
    ("disabled", "revoked"),
    ("revoked", "destroyed"),
)
_PAIRS = ", ".join(f"'{old}>{new}'" for old, new in EDGES)

SQLITE = (
    f"""
    CREATE TRIGGER version_edges BEFORE UPDATE OF state ON keyvault_keyversion
    WHEN OLD.state <> NEW.state AND (OLD.state || '>' || NEW.state) NOT IN ({_PAIRS})
    BEGIN SELECT RAISE(ABORT, 'version_edges: a version cannot move like that'); END
    """,
    """
    CREATE TRIGGER version_immutable BEFORE UPDATE ON keyvault_keyversion
    WHEN OLD.key_id IS NOT NEW.key_id OR OLD.number IS NOT NEW.number OR OLD.created_at IS NOT NEW.created_at
      OR (OLD.fingerprint <> '' AND OLD.fingerprint IS NOT NEW.fingerprint)
      OR (OLD.ciphertext IS NOT NULL AND NEW.ciphertext IS NOT NULL AND OLD.ciphertext IS NOT NEW.ciphertext)
    BEGIN SELECT RAISE(ABORT, 'version_immutable: a version never changes its secret'); END
    """,
    """
    CREATE TRIGGER audit_append_only BEFORE UPDATE ON keyvault_auditevent
    BEGIN SELECT RAISE(ABORT, 'audit_append_only: events are never changed'); END
    """,
)

POSTGRESQL = (
    f"""
    CREATE FUNCTION keyturn_version_guard() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      IF OLD.state <> NEW.state AND (OLD.state || '>' || NEW.state) NOT IN ({_PAIRS}) THEN
        RAISE EXCEPTION 'version_edges: a version cannot move like that' USING ERRCODE = 'check_violation';
      END IF;
      IF OLD.key_id IS DISTINCT FROM NEW.key_id OR OLD.number IS DISTINCT FROM NEW.number
         OR OLD.created_at IS DISTINCT FROM NEW.created_at
         OR (OLD.fingerprint <> '' AND OLD.fingerprint IS DISTINCT FROM NEW.fingerprint)
         OR (OLD.ciphertext IS NOT NULL AND NEW.ciphertext IS NOT NULL
             AND OLD.ciphertext IS DISTINCT FROM NEW.ciphertext) THEN
        RAISE EXCEPTION 'version_immutable: a version never changes its secret'
          USING ERRCODE = 'check_violation';
      END IF;
      RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER version_guard BEFORE UPDATE ON keyvault_keyversion
    FOR EACH ROW EXECUTE FUNCTION keyturn_version_guard()
    """,
    """
    CREATE FUNCTION keyturn_audit_guard() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      RAISE EXCEPTION 'audit_append_only: events are never changed' USING ERRCODE = 'check_violation';
    END $$
    """,
    """
    CREATE TRIGGER audit_append_only BEFORE UPDATE ON keyvault_auditevent
    FOR EACH ROW EXECUTE FUNCTION keyturn_audit_guard()
    """,
)

UNDO = {
    "sqlite": (
        "DROP TRIGGER version_edges",
        "DROP TRIGGER version_immutable",
        "DROP TRIGGER audit_append_only",
    ),
    "postgresql": (
        "DROP TRIGGER version_guard ON keyvault_keyversion",
        "DROP FUNCTION keyturn_version_guard()",
        "DROP TRIGGER audit_append_only ON keyvault_auditevent",
        "DROP FUNCTION keyturn_audit_guard()",
    ),
}
DO = {"sqlite": SQLITE, "postgresql": POSTGRESQL}


def guard(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    for statement in DO[schema_editor.connection.vendor]:
        schema_editor.execute(statement)


def unguard(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    for statement in UNDO[schema_editor.connection.vendor]:
        schema_editor.execute(statement)


class Migration(migrations.Migration):
    dependencies = [("keyvault", "0001_initial")]
    operations = [migrations.RunPython(guard, unguard)]
