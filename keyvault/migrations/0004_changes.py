"""The change log, and the triggers that write it.

On PostgreSQL the triggers are deferred to the commit: the counter row is the last lock that a transaction
takes, so it deadlocks with nothing, is held for an instant, and its numbers are in the order of commits.
On SQLite there is one writer at a time, and the triggers fire at once.
"""

from typing import NamedTuple

from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps


class Watch(NamedTuple):
    """A table that delivery reads: what its change is called, and the columns that count.

    ``when`` says in SQL that an update counts, where that is not "one of the columns differs".
    """

    kind: str
    ref: str
    parent: str
    columns: tuple[str, ...]
    when: str = ""

    def counts(self, differs: str) -> str:
        return self.when or " OR ".join(f"OLD.{name} {differs} NEW.{name}" for name in self.columns)


WATCHED = {
    "keyvault_consumertoken": Watch(
        "token",
        "id",
        "",
        (
            "consumer_id",
            "environment_id",
            "digest",
            "hint",
            "cidrs",
            "rate_per_minute",
            "expires_at",
            "revoked_at",
            "mac",
        ),
    ),
    "keyvault_grant": Watch(
        "grant", "id", "consumer_id", ("consumer_id", "service_id", "environment_id", "verbs", "mac")
    ),
    "keyvault_key": Watch(
        "key",
        "id",
        "",
        (
            "service_id",
            "environment_id",
            "current_id",
            "pending_id",
            "previous_id",
            "weight",
            "split_salt",
            "canaries",
            "pinned",
            "refresh_seconds",
            "never_shown",
            "mac",
        ),
    ),
    "keyvault_keyversion": Watch(
        "key",
        "key_id",
        "",
        (
            "key_id",
            "number",
            "state",
            "ciphertext",
            "wrapped_dek",
            "kek_kid",
            "fingerprint",
            "token_digest",
            "provider_key_id",
            "withheld_at",
            "compromised_at",
            "revoked_at",
            "destroyed_at",
            "expires_at",
            "mac",
        ),
    ),
    # Delivery asks only whether any are open; the count moves with every report.
    "keyvault_openjobs": Watch("jobs", "id", "", ("open",), when="(OLD.open > 0) <> (NEW.open > 0)"),
    "keyvault_consumer": Watch("all", "id", "", ("slug", "team_id")),
    "keyvault_environment": Watch("all", "id", "", ("slug",)),
    "keyvault_service": Watch("all", "id", "", ("slug", "provider_id")),
    "keyvault_provider": Watch(
        "all",
        "id",
        "",
        ("slug", "base_url", "auth_header", "auth_scheme", "key_affine", "max_job_age_seconds"),
    ),
}
# A row that appears or goes changes nothing for anybody here: nothing can refer to it yet, or any more.
ONLY_UPDATES = frozenset(table for table, watch in WATCHED.items() if watch.kind == "all")


def sqlite_trigger(table: str, watch: Watch, event: str) -> str:
    """The trigger of a table for one event: UPDATE, INSERT or DELETE."""
    row = "OLD" if event == "DELETE" else "NEW"
    when = f"WHEN {watch.counts('IS NOT')}" if event == "UPDATE" else ""
    of_parent = f"{row}.{watch.parent}" if watch.parent else "NULL"
    left = ""
    if event == "UPDATE" and watch.parent:
        # What moves to another parent is told of the one that it left as well.
        left = f"""
                  INSERT INTO keyvault_change (seq, kind, ref, parent)
                    SELECT seq, '{watch.kind}', OLD.{watch.ref}, OLD.{watch.parent} FROM keyvault_changecounter
                    WHERE OLD.{watch.parent} <> NEW.{watch.parent};"""
    return f"""
                CREATE TRIGGER {table}_noted_{event.lower()} AFTER {event} ON {table} FOR EACH ROW {when}
                BEGIN
                  INSERT INTO keyvault_changecounter (id, seq, floor) VALUES (1, 1, 0)
                    ON CONFLICT (id) DO UPDATE SET seq = seq + 1;
                  INSERT INTO keyvault_change (seq, kind, ref, parent)
                    SELECT seq, '{watch.kind}', {row}.{watch.ref}, {of_parent} FROM keyvault_changecounter;{left}
                END"""


def _sqlite() -> list[str]:
    return [
        sqlite_trigger(table, watch, event)
        for table, watch in WATCHED.items()
        for event in ("UPDATE", "INSERT", "DELETE")
        if event == "UPDATE" or table not in ONLY_UPDATES
    ]


NOTE_CHANGE = """
CREATE FUNCTION keyturn_note_change(kind text, ref uuid, parent uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  -- The number that this transaction has already; a setting local to it ends with it.
  n bigint := NULLIF(current_setting('keyturn.change', true), '')::bigint;
BEGIN
  IF n IS NULL THEN
    INSERT INTO keyvault_changecounter AS c (id, seq, floor) VALUES (1, 1, 0)
      ON CONFLICT (id) DO UPDATE SET seq = c.seq + 1 RETURNING c.seq INTO n;
    PERFORM set_config('keyturn.change', n::text, true);
  END IF;
  INSERT INTO keyvault_change (seq, kind, ref, parent) VALUES (n, kind, ref, parent);
END $$
"""


def postgresql_trigger(table: str, watch: Watch, event: str) -> str:
    """The trigger of a table for one event, UPDATE or INSERT OR DELETE; it calls the table's function."""
    when = f"WHEN ({watch.counts('IS DISTINCT FROM')})" if event == "UPDATE" else ""
    return f"""
                CREATE CONSTRAINT TRIGGER {table}_noted_{event.split()[0].lower()} AFTER {event} ON {table}
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW {when} EXECUTE FUNCTION {table}_noted()"""


def _postgresql() -> list[str]:
    statements = [NOTE_CHANGE]
    for table, watch in WATCHED.items():
        ref = f"COALESCE(NEW.{watch.ref}, OLD.{watch.ref})"
        parent = f"COALESCE(NEW.{watch.parent}, OLD.{watch.parent})" if watch.parent else "NULL"
        left = ""
        if watch.parent:
            # What moves to another parent is told of the one that it left as well.
            left = f"""
              IF TG_OP = 'UPDATE' AND OLD.{watch.parent} <> NEW.{watch.parent} THEN
                PERFORM keyturn_note_change('{watch.kind}', {ref}, OLD.{watch.parent});
              END IF;"""
        statements.append(f"""
            CREATE FUNCTION {table}_noted() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
              PERFORM keyturn_note_change('{watch.kind}', {ref}, {parent});{left}
              RETURN NULL;
            END $$""")
        events = ("UPDATE",) if table in ONLY_UPDATES else ("UPDATE", "INSERT OR DELETE")
        statements += [postgresql_trigger(table, watch, event) for event in events]
    return statements


def _undo_sqlite() -> list[str]:
    return [
        f"DROP TRIGGER IF EXISTS {table}_noted_{event}"
        for table in WATCHED
        for event in ("update", "insert", "delete")
    ]


def _undo_postgresql() -> list[str]:
    functions = [f"DROP FUNCTION {table}_noted() CASCADE" for table in WATCHED]
    return [*functions, "DROP FUNCTION keyturn_note_change(text, uuid, uuid)"]


DO = {"sqlite": _sqlite(), "postgresql": _postgresql()}
UNDO = {"sqlite": _undo_sqlite(), "postgresql": _undo_postgresql()}


def start_watching(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    for statement in DO[schema_editor.connection.vendor]:
        schema_editor.execute(statement)


def stop_watching(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    for statement in UNDO[schema_editor.connection.vendor]:
        schema_editor.execute(statement)


class Migration(migrations.Migration):
    dependencies = [("keyvault", "0003_delivery_tables")]

    operations = [
        migrations.CreateModel(
            name="ChangeCounter",
            fields=[
                ("id", models.PositiveSmallIntegerField(default=1, primary_key=True, serialize=False)),
                ("seq", models.BigIntegerField(default=0)),
                ("floor", models.BigIntegerField(default=0)),
            ],
        ),
        migrations.CreateModel(
            name="Change",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("seq", models.BigIntegerField(db_index=True)),
                ("kind", models.CharField(max_length=8)),
                ("ref", models.UUIDField(null=True)),
                ("parent", models.UUIDField(null=True)),
            ],
        ),
        migrations.RunPython(start_watching, stop_watching),
    ]
