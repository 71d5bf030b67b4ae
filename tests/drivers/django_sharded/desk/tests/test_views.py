"""Requests, from login to the report: sessions and users are everywhere, the rest is on the tenant's shard."""

import uuid

from django.contrib.auth.models import Permission
from django.contrib.sessions.models import Session
from django.test import Client, TestCase, TransactionTestCase

from accounts.models import Country, Tenant, User

from . import support


class Requests:
    """The same tests in a transaction around them, as most projects test, and with real commits, as they work."""

    def client_of(self, key):
        client = Client()
        user = User.objects.get(username=f"user{key}")
        user.set_password("secret")
        user.save()
        self.assertTrue(client.login(username=user.username, password="secret"))
        return client

    def open(self, client, key, **asked):
        asked = {"project": "roof", "title": "leak", "comments": ["help", "quickly"], **asked}
        answer = client.post(f"/t/{key}/tickets/", asked, content_type="application/json")
        self.assertEqual(answer.status_code, 201, answer.content)
        return answer.json()

    def test_a_ticket_from_its_opening_to_its_end(self):
        client = self.client_of(3)
        first, second = self.open(client, 3), self.open(client, 3, title="second", comments=[])
        self.assertEqual((first["number"], second["number"], first["assignee"]), (1, 2, "user3"))
        self.assertEqual(sorted(first["comments"]), ["help", "quickly"])
        self.assertEqual(len(client.get("/t/3/tickets/").json()["tickets"]), 2)
        self.assertEqual(len(client.get("/t/3/tickets/?q=HELP").json()["tickets"]), 1)
        closed = client.post(f"/t/3/tickets/{first['id']}/close/").json()
        self.assertEqual(closed, {"state": "closed", "closed": 1})
        again = client.get(f"/t/3/tickets/{first['id']}/").json()
        self.assertEqual((again["state"], again["comments"][-1]), ("closed", "closed by user3"))
        report = client.get("/t/3/report/").json()
        self.assertEqual(report, {"projects": [["roof", 1, 0]], "comments": 3})

    def test_tenants_do_not_see_each_other(self):
        made = self.open(self.client_of(1), 1)
        client = self.client_of(3)
        self.assertEqual(client.get("/t/1/tickets/").status_code, 403)
        self.assertEqual(client.get(f"/t/3/tickets/{made['id']}/").status_code, 404)
        self.assertEqual(client.get(f"/t/3/tickets/{uuid.uuid4()}/").status_code, 404)
        self.assertEqual(client.get("/t/3/tickets/").json(), {"tickets": []})

    def test_sessions(self):
        client = self.client_of(1)
        self.assertEqual(Session.objects.count(), 1)
        client.logout()
        self.assertEqual(Session.objects.count(), 0)
        self.assertEqual(client.get("/t/1/tickets/").status_code, 403)

    def test_the_admin_of_what_is_everywhere(self):
        User.objects.create_superuser("root", password="secret")
        client = Client()
        client.login(username="root", password="secret")
        added = client.post("/admin/accounts/country/add/", {"code": "NO", "name": "Norway"}, follow=True)
        self.assertContains(added, "was added successfully")
        changed = client.post("/admin/accounts/country/NO/change/", {"code": "NO", "name": "NORWAY"}, follow=True)
        self.assertContains(changed, "NORWAY")
        self.assertContains(client.get("/admin/accounts/tenant/?q="), "tenant 8")
        gone = client.post("/admin/accounts/country/NO/delete/", {"post": "yes"}, follow=True)
        self.assertContains(gone, "was deleted successfully")
        self.assertEqual(Country.objects.filter(code="NO").count(), 0)

    def test_permissions(self):
        user = User.objects.get(username="user1")
        user.user_permissions.add(*Permission.objects.filter(codename__endswith="_ticket"))
        self.assertTrue(User.objects.get(username="user1").has_perm("desk.close_ticket") is False)
        self.assertTrue(User.objects.get(username="user1").has_perm("desk.change_ticket"))

    def test_a_tenant_is_deleted_with_its_users(self):
        self.assertEqual(Tenant.objects.get(id=8).delete()[1], {"accounts.User": 1, "accounts.Tenant": 1})


class InATransaction(Requests, TestCase):
    @classmethod
    def setUpTestData(cls):
        support.add_tenants()


class Committed(Requests, TransactionTestCase):
    def setUp(self):
        support.add_tenants()
