"""What only a sharded database has: where rows are, what is refused and in which words, what to do instead."""

from django.contrib import admin
from django.core.exceptions import ImproperlyConfigured
from django.db import IntegrityError, NotSupportedError, connection, transaction
from django.test import TransactionTestCase, tag

import sharding
from accounts.models import Country, Tenant, User
from desk.models import Comment, Label, Project, Ticket

from . import support
from .support import on_server, shard_of


class Sharded(TransactionTestCase):
    def setUp(self):
        support.add_tenants()

    def refused(self, *words):
        """SQLSTATE 0A000 with these words; Django calls it NotSupportedError."""
        outer = self

        class Refusal:
            def __enter__(self):
                self.within = outer.assertRaises(NotSupportedError)
                self.within.__enter__()

            def __exit__(self, *error):
                caught = self.within.__exit__(*error)
                cause = self.within.exception.__cause__
                outer.assertEqual(cause.sqlstate, "0A000")
                said = " ".join(filter(None, (cause.diag.message_primary, cause.diag.message_detail, cause.diag.message_hint)))
                for word in words:
                    outer.assertIn(word, said)
                return caught

        return Refusal()


@tag("sharded")
class Placement(Sharded):
    def test_rows_are_where_the_hash_of_their_tenant_says(self):
        by_shard = support.tenants_by_shard()
        self.assertNotEqual(shard_of(1), shard_of(3))
        for key in support.KEYS:
            support.fill(key, tickets=2)
        for shard, keys in enumerate(by_shard):
            for table, rows in (("project", 1), ("ticket", 2), ("comment", 3), ("counter", 1)):
                found = on_server(shard, f"SELECT tenant_id, count(*) FROM desk_{table} GROUP BY 1 ORDER BY 1")
                self.assertEqual(found, [(key, rows) for key in keys], table)

    def test_what_is_everywhere_is_the_same_everywhere(self):
        Country.objects.bulk_create([Country(code="FR", name="France"), Country(code="KE", name="Kenya")])
        Country.objects.filter(code="KE").update(name="KENYA")
        Country.objects.filter(code="FR").delete()
        self.client.force_login(User.objects.get(username="user1"))
        tables = ["accounts_country", "accounts_tenant", "accounts_user", "django_session", "django_migrations"]
        tables += ["django_content_type", "auth_permission"]
        for table in tables:
            rows = [on_server(shard, f"SELECT t::text FROM {table} t ORDER BY 1") for shard in range(len(support.SHARDS))]
            self.assertTrue(rows[0], table)
            self.assertEqual(rows[0], rows[1], table)

    def test_a_failure_on_one_shard_undoes_all(self):
        # A row of a tenant of one shard keeps the row it refers to on all shards.
        user = User.objects.get(username="user3")
        support.fill(3)
        with sharding.tenant(3):
            Ticket.objects.filter(number=1).update(assignee=user)
        with self.assertRaises(IntegrityError):
            user.delete()
        for shard in range(len(support.SHARDS)):
            self.assertEqual(on_server(shard, "SELECT count(*) FROM accounts_user WHERE username = 'user3'"), [(1,)])


@tag("sharded")
class Refusals(Sharded):
    def test_no_tenant(self):
        with self.refused('table "desk_ticket" is sharded by "tenant_id"', "desk_ticket.tenant_id ="):
            Ticket.objects.count()
        with self.refused("sharded"):
            Ticket.objects.filter(number=1).update(votes=1)
        with self.refused("sharded"):
            Ticket.objects.filter(title="x").delete()

    def test_a_join_that_leaves_the_tenant_out(self):
        with sharding.tenant(1), self.refused('table "desk_comment" is sharded by "tenant_id"'):
            list(Ticket.objects.raw(
                "SELECT t.* FROM desk_ticket t JOIN desk_comment c ON c.ticket_id = t.id WHERE t.tenant_id = 1"
            ))

    def test_exclude_over_many(self):
        # Django's subquery compares ids only; ~Exists() with the tenant is in test_models.
        with sharding.tenant(1), self.refused('table "desk_comment" is sharded by "tenant_id"'):
            Ticket.objects.exclude(comments__text="of 3").count()

    def test_two_tenants_of_two_shards_in_one_statement(self):
        with self.refused("shard"):
            list(Ticket.objects.filter(tenant_id__in=[1, 3]))
        for shard in range(len(support.SHARDS)):
            self.assertEqual(on_server(shard, "SELECT count(*) FROM desk_label"), [(0,)])

    def test_bulk_create_over_tenants_of_several_shards(self):
        made = Label.objects.bulk_create(Label(tenant_id=key, name=f"label {n}, of {key}") for n in range(5) for key in (1, 3))
        for key in (1, 3):
            with sharding.tenant(key):
                self.assertEqual(set(Label.objects.values_list("id", "name")),
                                 {(label.id, label.name) for label in made if label.tenant_id == key})
        counts = [on_server(shard, "SELECT count(*) FROM desk_label")[0][0] for shard in range(len(support.SHARDS))]
        self.assertEqual(counts, [5, 5])

    def test_two_tenants_of_one_shard_are_answered(self):
        support.fill(3)
        support.fill(4)
        self.assertEqual(Ticket.objects.filter(tenant_id__in=[3, 4]).count(), 6)

    def test_two_tenants_of_two_shards_in_one_transaction(self):
        with self.refused("shard"), transaction.atomic():
            with sharding.tenant(1):
                Label.objects.create(name="first")
            with sharding.tenant(3):
                Label.objects.create(name="second")
        for shard in range(len(support.SHARDS)):
            self.assertEqual(on_server(shard, "SELECT count(*) FROM desk_label"), [(0,)])

    def test_a_move_to_another_tenant(self):
        support.fill(1)
        with sharding.tenant(1), self.refused("tenant_id"):
            Ticket.objects.filter(number=1).update(tenant_id=3)

    def test_from_what_is_everywhere_to_what_is_sharded(self):
        with self.refused("sharded"):
            list(Ticket.objects.filter(assignee__username="user1"))

    def test_an_undeclared_table(self):
        with self.refused("nobody"), connection.cursor() as cursor:
            cursor.execute("SELECT * FROM nobody")

    def test_admin_of_a_sharded_model(self):
        # Django's own refusal.
        with self.assertRaisesMessage(ImproperlyConfigured, "composite primary key"):
            admin.AdminSite().register(Ticket)


@tag("sharded")
class Instead(Sharded):
    """What to do instead of what is refused."""

    def test_a_report_shard_by_shard(self):
        for key in support.KEYS:
            support.fill(key, tickets=1)
        total = 0
        for shard, keys in enumerate(support.tenants_by_shard()):
            with sharding.on_shard(shard):
                here = Ticket.objects.count()
                self.assertEqual(here, len(keys))
                total += here
        self.assertEqual(total, len(support.KEYS))

    def test_a_change_tenant_by_tenant(self):
        for key in (1, 3):
            support.fill(key, tickets=1)
        for key in Tenant.objects.values_list("id", flat=True):
            with sharding.tenant(key), transaction.atomic():
                Ticket.objects.update(votes=5)
        for key in (1, 3):
            found = on_server(shard_of(key), "SELECT votes FROM desk_ticket WHERE tenant_id = %s", key)
            self.assertEqual(found, [(5,)])

    def test_a_change_shard_by_shard(self):
        for key in (1, 3):
            support.fill(key, tickets=1)
        for shard in range(len(support.SHARDS)):
            with sharding.on_shard(shard), transaction.atomic():
                self.assertEqual(Ticket.objects.update(votes=6), 1)

    def test_raw_sql_that_names_the_tenant(self):
        support.fill(3)
        with sharding.tenant(3), connection.cursor() as cursor:
            cursor.execute(
                "WITH talk AS (SELECT ticket_id, count(*) n FROM desk_comment WHERE tenant_id = %(key)s GROUP BY 1)"
                " SELECT t.number, talk.n FROM desk_ticket t JOIN talk ON talk.ticket_id = t.id"
                " WHERE t.tenant_id = %(key)s ORDER BY 1",
                {"key": 3},
            )
            self.assertEqual(cursor.fetchall(), [(1, 1), (2, 2), (3, 3)])

    def test_a_shard_by_a_setting(self):
        support.fill(3)
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL pgweir.sharding_key = '3'")
            self.assertEqual(Ticket.objects.count(), 3)
            self.assertEqual(Comment.objects.count(), 6)

    def test_a_tenant_is_moved_by_copies(self):
        support.fill(1, tickets=1)
        with sharding.tenant(1):
            name = Project.objects.get().name
            old = Label.objects.create(name=name)
        with sharding.tenant(3):
            Label.objects.create(id=old.id, name=old.name)
        with sharding.tenant(1):
            old.delete()
        self.assertEqual(on_server(shard_of(3), "SELECT tenant_id, name FROM desk_label"), [(3, "roof")])
        self.assertEqual(on_server(shard_of(1), "SELECT count(*) FROM desk_label"), [(0,)])
