"""Opens tickets for every tenant and reads them as visitors do, with real requests; tells how many there are."""

import json

from django.core.management.base import BaseCommand
from django.test import Client

from accounts.models import Country, Tenant, User

TENANTS, READS = range(1, 9), 20


class Command(BaseCommand):
    help = __doc__

    def handle(self, **options):
        iceland = Country.objects.get(code="IS")
        for key in TENANTS:
            Tenant.objects.create(id=key, name=f"tenant {key}", country=iceland)
            User.objects.create(username=f"user{key}", tenant_id=key)
        tickets = sum(self.visit(key) for key in TENANTS)
        self.stdout.write(json.dumps({"tickets": tickets}))

    def visit(self, key):
        client = Client()
        client.force_login(User.objects.get(username=f"user{key}"))
        for number in range(3):
            asked = {"project": "roof", "title": f"leak {number}", "comments": ["help"]}
            made = client.post(f"/t/{key}/tickets/", asked, content_type="application/json").json()
        for _ in range(READS):
            (last,) = (row for row in client.get(f"/t/{key}/tickets/").json()["tickets"] if row["id"] == made["id"])
            assert last["comments"] == ["help"], last
            assert client.get(f"/t/{key}/report/").json()["comments"] == 3
        return len(client.get(f"/t/{key}/tickets/").json()["tickets"])
