
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('keyvault', '0007_people'),
    ]

    operations = [
        migrations.AddIndex(
            model_name='auditevent',
            index=models.Index(fields=['team_id', '-sequence'], name='audit_team'),
        ),
        migrations.AddIndex(
            model_name='auditevent',
            index=models.Index(fields=['at'], name='audit_at'),
        ),
    ]
