"""When each instance last used a version, in one row; and indexes for what is asked of reports."""

import django.db.models.deletion
from django.db import migrations, models

OUTCOMES = (
    "ok",
    "auth_invalid",
    "auth_missing",
    "rate_limited",
    "not_found_job",
    "client_error",
    "server_error",
    "timeout",
)
FROM_REPORTS = f"""
    INSERT INTO keyvault_lastuse (version_id, consumer_id, instance, last_at)
    SELECT version_id, consumer_id, instance, MAX(to_at)
    FROM keyvault_usageline WHERE {" + ".join(OUTCOMES)} > 0 GROUP BY 1, 2, 3
"""


def unchecked(model: str) -> models.ForeignKey:
    return models.ForeignKey(
        db_constraint=False,
        db_index=False,
        on_delete=django.db.models.deletion.PROTECT,
        related_name="+",
        to=f"keyvault.{model}",
    )


class Migration(migrations.Migration):
    dependencies = [("keyvault", "0004_changes")]

    operations = [
        migrations.CreateModel(
            name="LastUse",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("instance", models.CharField(max_length=128)),
                ("last_at", models.DateTimeField()),
                ("consumer", unchecked("consumer")),
                ("version", unchecked("keyversion")),
            ],
            options={
                "indexes": [models.Index(fields=["version", "last_at"], name="last_use_version")],
                "constraints": [
                    models.UniqueConstraint(fields=("version", "consumer", "instance"), name="last_use_once")
                ],
            },
        ),
        migrations.RunSQL(FROM_REPORTS, migrations.RunSQL.noop),
        migrations.RemoveIndex(model_name="usageline", name="usage_instance"),
        migrations.AddIndex(
            model_name="usageline",
            index=models.Index(fields=["version", "received_at"], name="usage_version_received"),
        ),
        migrations.AddIndex(
            model_name="openjobs",
            index=models.Index(
                condition=models.Q(("open__gt", 0)), fields=["version", "last_to_at"], name="open_jobs_version"
            ),
        ),
    ]
