"""The countries that every installation has: rows of an everywhere table, written to all shards by one statement each."""

from django.db import migrations

COUNTRIES = {"FR": "France", "IS": "Iceland", "KE": "Kenya"}


def add(apps, schema_editor):
    country = apps.get_model("accounts", "Country")
    country.objects.bulk_create(country(code=code, name=name) for code, name in COUNTRIES.items())


def remove(apps, schema_editor):
    apps.get_model("accounts", "Country").objects.filter(code__in=COUNTRIES).delete()


class Migration(migrations.Migration):
    dependencies = [("accounts", "0001_initial")]
    operations = [migrations.RunPython(add, remove)]
