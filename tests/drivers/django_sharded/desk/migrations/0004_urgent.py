"""A change of rows, tenant by tenant: one transaction for all of them would touch several shards."""

from django.db import migrations, transaction

import sharding


def raise_priority(apps, schema_editor):
    tenants, tickets = apps.get_model("accounts", "Tenant"), apps.get_model("desk", "Ticket")
    for key in tenants.objects.values_list("id", flat=True):
        with sharding.tenant(key), transaction.atomic():
            tickets.objects.filter(title__startswith="URGENT").update(priority=1)


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("desk", "0003_priority"), ("accounts", "0002_countries")]
    operations = [migrations.RunPython(raise_priority, migrations.RunPython.noop)]
