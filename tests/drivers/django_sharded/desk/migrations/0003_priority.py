"""A column with a default: what it is in the rows that are there, PostgreSQL knows without an UPDATE."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("desk", "0002_foreign_keys")]
    operations = [migrations.AddField("ticket", "priority", models.SmallIntegerField(default=3))]
