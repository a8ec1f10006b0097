"""The tables behind delivery, made for appending: no flag that folding has to update, a mark instead; no
foreign keys and indexes that each new row would pay for; summaries of what readers ask for most. Requests are
no longer counted in a table."""

import uuid

from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps
from django.db.models import F, Max, Sum
from django.db.models.deletion import PROTECT

MINUTE = {"sqlite": "substr(at, 1, 16) || ':00'", "postgresql": "date_trunc('minute', at)"}
FOLD_THE_REST = """
    INSERT INTO keyvault_usagebucket AS b
        (key_id, version_id, consumer_id, instance, minute, deliveries, last_delivery_at)
    SELECT key_id, version_id, consumer_id, instance, {minute}, COUNT(*), MAX(at)
    FROM keyvault_delivery WHERE NOT folded GROUP BY 1, 2, 3, 4, 5
    ON CONFLICT (key_id, minute, version_id, consumer_id, instance) DO UPDATE SET
        deliveries = b.deliveries + excluded.deliveries,
        last_delivery_at = CASE WHEN excluded.last_delivery_at > b.last_delivery_at
                                THEN excluded.last_delivery_at ELSE b.last_delivery_at END
"""
LAST_DELIVERIES = """
    INSERT INTO keyvault_lastdelivery (key_id, version_id, consumer_id, instance, last_at)
    SELECT key_id, version_id, consumer_id, instance, MAX(last_delivery_at)
    FROM keyvault_usagebucket GROUP BY 1, 2, 3, 4
"""


# For questions about a time: what was delivered on a day, what is old enough to be archived. It costs an
# insert next to nothing. SQLite has no such index; its installations are small.
BY_TIME = "CREATE INDEX delivery_at ON keyvault_delivery USING brin (at) WITH (autosummarize = on)"


def index_by_time(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(BY_TIME)


def drop_index_by_time(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("DROP INDEX delivery_at")


def summarise(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Fold what is not folded yet, so that the mark can stand after the last delivery."""
    vendor = schema_editor.connection.vendor
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(FOLD_THE_REST.format(minute=MINUTE[vendor]))
        cursor.execute(LAST_DELIVERIES)
    newest = apps.get_model("keyvault", "Delivery").objects.aggregate(last=Max("id"))["last"]
    apps.get_model("keyvault", "FoldMark").objects.create(delivery_id=newest or 0)
    jobs = apps.get_model("keyvault", "OpenJobs").objects
    lines = (
        apps.get_model("keyvault", "UsageLine")
        .objects.values("version_id", "consumer_id", "instance")
        .annotate(open=Sum(F("jobs_opened") - F("jobs_closed")), last_to_at=Max("to_at"))
        .exclude(open=0)
        .order_by()
    )
    jobs.bulk_create((jobs.model(**line) for line in lines.iterator()), batch_size=1000)


def flag_again(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    mark = apps.get_model("keyvault", "FoldMark").objects.first()
    if mark is not None:
        apps.get_model("keyvault", "Delivery").objects.filter(id__lte=mark.delivery_id).update(folded=True)


def unchecked(model: str, *, null: bool = False) -> models.ForeignKey:
    return models.ForeignKey(
        f"keyvault.{model}",
        on_delete=PROTECT,
        related_name="+",
        db_constraint=False,
        db_index=False,
        null=null,
        blank=null,
    )


class Migration(migrations.Migration):
    dependencies = [("keyvault", "0002_guards")]

    operations = [
        migrations.CreateModel(
            name="FoldMark",
            fields=[
                ("id", models.PositiveSmallIntegerField(default=1, primary_key=True, serialize=False)),
                ("delivery_id", models.BigIntegerField(default=0)),
            ],
        ),
        migrations.CreateModel(
            name="LastDelivery",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("key", unchecked("key")),
                ("version", unchecked("keyversion")),
                ("consumer", unchecked("consumer")),
                ("instance", models.CharField(max_length=128)),
                ("last_at", models.DateTimeField()),
            ],
            options={
                "indexes": [
                    models.Index(fields=["key", "last_at"], name="last_delivery_key"),
                    models.Index(fields=["consumer", "last_at"], name="last_delivery_consumer"),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("version", "consumer", "instance"), name="last_delivery_once"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Verification",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("at", models.DateTimeField()),
                ("version", unchecked("keyversion")),
                ("consumer", unchecked("consumer", null=True)),
                ("code", models.CharField(max_length=16)),
                ("count", models.PositiveIntegerField(default=1)),
            ],
            options={"indexes": [models.Index(fields=["version"], name="verification_version")]},
        ),
        migrations.CreateModel(
            name="VerificationBucket",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("version", unchecked("keyversion")),
                ("caller", models.CharField(max_length=63)),
                ("code", models.CharField(max_length=16)),
                ("minute", models.DateTimeField()),
                ("count", models.BigIntegerField(default=0)),
                ("last_at", models.DateTimeField()),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("version", "minute", "caller", "code"), name="verification_bucket_once"
                    )
                ]
            },
        ),
        migrations.CreateModel(
            name="OpenJobs",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "version",
                    models.ForeignKey(
                        "keyvault.keyversion", on_delete=PROTECT, related_name="+", db_index=False
                    ),
                ),
                (
                    "consumer",
                    models.ForeignKey(
                        "keyvault.consumer", on_delete=PROTECT, related_name="+", db_index=False
                    ),
                ),
                ("instance", models.CharField(max_length=128)),
                ("open", models.BigIntegerField(default=0)),
                ("last_to_at", models.DateTimeField()),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=("version", "consumer", "instance"), name="open_jobs_once")
                ]
            },
        ),
        migrations.RemoveConstraint("usagebucket", "usage_bucket_once"),
        migrations.RemoveIndex("usagebucket", "bucket_key_minute"),
        migrations.AlterField("usagebucket", "key", unchecked("key")),
        migrations.AlterField("usagebucket", "version", unchecked("keyversion")),
        migrations.AlterField("usagebucket", "consumer", unchecked("consumer")),
        migrations.AddConstraint(
            "usagebucket",
            models.UniqueConstraint(
                fields=("key", "minute", "version", "consumer", "instance"), name="usage_bucket_once"
            ),
        ),
        migrations.RemoveIndex("delivery", "delivery_key_at"),
        migrations.RemoveIndex("delivery", "delivery_version_at"),
        migrations.AlterField("delivery", "key", unchecked("key")),
        migrations.AlterField("delivery", "version", unchecked("keyversion")),
        migrations.AlterField("delivery", "consumer", unchecked("consumer")),
        migrations.AlterField("delivery", "token", unchecked("consumertoken")),
        migrations.AddIndex("delivery", models.Index(fields=["key", "id"], name="delivery_key")),
        # After what removes the foreign keys: PostgreSQL alters no table whose rows wait to be checked.
        migrations.RunPython(summarise, flag_again),
        migrations.RemoveIndex("delivery", "delivery_unfolded"),
        migrations.RemoveField("delivery", "folded"),
        migrations.RunPython(index_by_time, drop_index_by_time),
        migrations.DeleteModel("RateWindow"),
    ]
