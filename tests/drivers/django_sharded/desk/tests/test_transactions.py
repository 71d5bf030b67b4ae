"""Transactions, really committed; each is of one tenant."""

from django.db import DatabaseError, IntegrityError, connection, transaction
from django.test import TransactionTestCase

import sharding
from accounts.models import Country, Tenant, User
from desk.models import Counter, Label, Project, Ticket

from . import support


class Transactions(TransactionTestCase):
    def setUp(self):
        support.add_tenants()

    def test_commit_and_rollback(self):
        for key in (1, 3):
            with sharding.tenant(key):
                with transaction.atomic():
                    Label.objects.create(name="kept")
                with self.assertRaises(ZeroDivisionError), transaction.atomic():
                    Label.objects.create(name="lost")
                    1 // 0
                self.assertEqual([label.name for label in Label.objects.all()], ["kept"])

    def test_savepoints(self):
        with sharding.tenant(3), transaction.atomic():
            Label.objects.create(name="a")
            with self.assertRaises(IntegrityError), transaction.atomic():
                Label.objects.create(name="a")
            point = transaction.savepoint()
            Label.objects.create(name="b")
            transaction.savepoint_rollback(point)
            Label.objects.create(name="c")
        with sharding.tenant(3):
            self.assertEqual([label.name for label in Label.objects.all()], ["a", "c"])

    def test_a_savepoint_before_any_key(self):
        with sharding.tenant(3), transaction.atomic(), transaction.atomic():
            self.assertEqual(Country.objects.count(), 1)
            Label.objects.create(name="in both")
        with sharding.tenant(3):
            self.assertEqual(Label.objects.get().name, "in both")

    def test_after_the_commit(self):
        seen = []
        with sharding.tenant(1), transaction.atomic():
            Label.objects.create(name="a")
            transaction.on_commit(lambda: seen.append(Label.objects.count()))
            self.assertEqual(seen, [])
        self.assertEqual(seen, [1])

    def test_locks(self):
        support.fill(3)
        with sharding.tenant(3), transaction.atomic():
            row = Ticket.objects.select_for_update().select_related("project").get(number=2)
            row.votes += 1
            row.save()
        with sharding.tenant(3):
            self.assertEqual(Ticket.objects.get(number=2).votes, 1)

    def test_a_long_list_by_a_cursor(self):
        support.fill(3)
        with sharding.tenant(3):
            self.assertEqual([row.number for row in Ticket.objects.iterator(chunk_size=2)], [1, 2, 3])
            with transaction.atomic():
                self.assertEqual([row.number for row in Ticket.objects.iterator(chunk_size=2)], [1, 2, 3])
                self.assertEqual(Ticket.objects.update(votes=1), 3)

    def test_one_tenant_after_the_other(self):
        for key in (1, 3, 2, 4):
            support.fill(key, tickets=2)
        counts = {}
        for key in (1, 2, 3, 4):
            with sharding.tenant(key):
                counts[key] = Ticket.objects.count(), Counter.objects.get().last
        self.assertEqual(set(counts.values()), {(2, 2)})

    def test_autocommit_is_back_after_an_error(self):
        with sharding.tenant(1):
            with self.assertRaises(DatabaseError), connection.cursor() as cursor:
                cursor.execute("SELECT 1 / 0")
            self.assertEqual(Label.objects.count(), 0)

    def test_rows_of_all_and_of_one_tenant_in_one_transaction(self):
        with transaction.atomic():
            iceland = Country.objects.get(code="IS")
            Tenant.objects.create(id=99, name="new", country=iceland)
            with sharding.tenant(99):
                Project.objects.create(name="first")
        with sharding.tenant(99):
            self.assertEqual(Project.objects.get().tenant.name, "new")

    def test_a_write_for_all_after_one_of_a_tenant(self):
        with sharding.tenant(3), transaction.atomic():
            Label.objects.create(name="first")
            User.objects.filter(username="user3").update(first_name="Three")
        self.assertEqual(User.objects.get(username="user3").first_name, "Three")
        with sharding.tenant(3):
            self.assertEqual(Label.objects.count(), 1)

    def test_a_rollback_of_both(self):
        with sharding.tenant(3), self.assertRaises(ZeroDivisionError), transaction.atomic():
            User.objects.filter(username="user3").update(first_name="Nobody")
            Label.objects.create(name="lost")
            1 // 0
        self.assertEqual(User.objects.get(username="user3").first_name, "")
        with sharding.tenant(3):
            self.assertEqual(Label.objects.count(), 0)
