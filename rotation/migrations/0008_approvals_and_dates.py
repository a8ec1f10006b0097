import django.db.models.deletion
import uuid
from django.conf import settings
from django.db import migrations, models

from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps


def name_requesters(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Who asked is known by name so far."""
    rotations, users = apps.get_model("rotation", "Rotation"), apps.get_model("keyvault", "User")
    asked = users.objects.filter(username=models.OuterRef("requested_by")).values("pk")[:1]
    rotations.objects.update(requester=models.Subquery(asked))


class Migration(migrations.Migration):

    dependencies = [
        ('keyvault', '0004_changes'),
        ('rotation', '0007_drift'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            model_name='approval',
            name='plan',
            field=models.CharField(blank=True, max_length=64),
        ),
        migrations.AddField(
            model_name='keyschedule',
            name='held_code',
            field=models.CharField(blank=True, max_length=32),
        ),
        migrations.AddField(
            model_name='keyschedule',
            name='held_reason',
            field=models.CharField(blank=True, max_length=500),
        ),
        migrations.AddField(
            model_name='keyschedule',
            name='held_until',
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name='keyschedule',
            name='reason',
            field=models.CharField(blank=True, max_length=500),
        ),
        migrations.AddField(
            model_name='keyschedule',
            name='trigger',
            field=models.CharField(default='schedule', max_length=16),
        ),
        migrations.AddField(
            model_name='rotation',
            name='requester',
            field=models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL),
        ),
        migrations.CreateModel(
            name='Exposure',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('cause', models.CharField(max_length=16)),
                ('who', models.CharField(blank=True, max_length=150)),
                ('reason', models.CharField(blank=True, max_length=500)),
                ('at', models.DateTimeField()),
                ('sequence', models.BigIntegerField(blank=True, null=True, unique=True)),
                ('key', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='exposures', to='keyvault.key')),
                ('version', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='exposures', to='keyvault.keyversion')),
            ],
            options={
                'ordering': ['at'],
                'indexes': [models.Index(fields=['version', 'cause'], name='exposure_version')],
                'constraints': [models.UniqueConstraint(condition=models.Q(('cause', 'member_left')), fields=('version', 'who'), name='exposure_left_once')],
            },
        ),
        migrations.RunPython(name_requesters, migrations.RunPython.noop),
    ]
