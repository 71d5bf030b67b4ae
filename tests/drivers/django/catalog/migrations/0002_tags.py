"""Data made by a migration, and an index built outside any transaction."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


def add_tags(apps, schema_editor):
    tag = apps.get_model("catalog", "Tag")
    tag.objects.bulk_create(tag(word=word) for word in ("novel", "poetry", "science"))


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("catalog", "0001_initial")]
    operations = [
        migrations.RunPython(add_tags, migrations.RunPython.noop),
        AddIndexConcurrently("book", models.Index(fields=["price"], name="book_price")),
    ]
