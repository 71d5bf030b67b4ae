"""Models of one tenant: all that Django does with them names the tenant by itself."""

import uuid

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Avg, Count, Exists, F, Max, OuterRef, Prefetch, Q, Subquery, Sum, Window
from django.db.models.functions import RowNumber, Upper
from django.test import TestCase

import sharding
from accounts.models import User
from desk.models import Comment, Counter, Label, Labelling, Project, Ticket

from . import support


class OneTenant(TestCase):
    KEY = 1

    @classmethod
    def setUpTestData(cls):
        support.add_tenants()
        cls.project = support.fill(cls.KEY)

    def setUp(self):
        within = sharding.tenant(self.KEY)
        within.__enter__()
        self.addCleanup(within.__exit__, None, None, None)


class Reading(OneTenant):
    def test_get_by_primary_key_and_by_number(self):
        ticket = Ticket.objects.get(number=2)
        self.assertEqual(Ticket.objects.get(pk=ticket.pk).title, "leak 2")
        self.assertEqual(Ticket.objects.get(pk=(self.KEY, ticket.id)), ticket)
        with self.assertRaises(Ticket.DoesNotExist):
            Ticket.objects.get(number=99)

    def test_several_primary_keys(self):
        keys = list(Ticket.objects.values_list("pk", flat=True))
        self.assertEqual(Ticket.objects.filter(pk__in=keys[:2]).count(), 2)
        self.assertEqual(set(Ticket.objects.in_bulk(keys)), set(keys))

    def test_select_related(self):
        with self.assertNumQueries(1):
            rows = list(Ticket.objects.select_related("project", "tenant", "assignee"))
            self.assertEqual({(row.project.name, row.tenant.name, row.assignee) for row in rows}, {("roof", "tenant 1", None)})

    def test_related_objects_both_ways(self):
        ticket = Ticket.objects.get(number=3)
        self.assertEqual(ticket.comments.count(), 3)
        self.assertEqual(ticket.comments.first().ticket, ticket)
        self.assertEqual(Ticket.objects.get(id=ticket.id).project, self.project)
        self.assertEqual(self.project.tickets.filter(title__contains="2").get().number, 2)

    def test_prefetch_related(self):
        with self.assertNumQueries(3):
            projects = list(Project.objects.prefetch_related("tickets__comments"))
            self.assertEqual([len(t.comments.all()) for p in projects for t in p.tickets.all()], [1, 2, 3])
        wanted = Prefetch("comments", Comment.objects.filter(text="of 2"), to_attr="seconds")
        self.assertEqual([len(t.seconds) for t in Ticket.objects.prefetch_related(wanted)], [0, 2, 0])
        back = Comment.objects.prefetch_related("ticket__project")
        self.assertEqual({comment.ticket.project.name for comment in back}, {"roof"})

    def test_joins_in_filters(self):
        self.assertEqual(Ticket.objects.filter(project__name="roof", comments__text="of 3").distinct().count(), 1)
        self.assertEqual(Project.objects.filter(tickets__comments__text__startswith="of").distinct().get(), self.project)
        self.assertEqual(Ticket.objects.exclude(project__name="roof").count(), 0)
        self.assertEqual(Ticket.objects.filter(comments__isnull=True).count(), 0)
        self.assertEqual(Ticket.objects.filter(Q(number=1) | Q(title="leak 3")).count(), 2)

    def test_related_instances_in_filters(self):
        first = Ticket.objects.get(number=1)
        self.assertEqual(Comment.objects.filter(ticket=first).count(), 1)
        self.assertEqual(Comment.objects.filter(ticket__in=[first, Ticket.objects.get(number=2)]).count(), 3)
        self.assertEqual(Comment.objects.filter(ticket__in=Ticket.objects.filter(number__gt=1)).count(), 5)

    def test_subqueries(self):
        talked = Comment.objects.filter(tenant_id=OuterRef("tenant_id"), ticket_id=OuterRef("id"))
        self.assertEqual(Ticket.objects.filter(Exists(talked.filter(text="of 2"))).get().number, 2)
        self.assertEqual(Ticket.objects.filter(~Exists(talked.filter(text="of 2"))).count(), 2)
        last = Ticket.objects.annotate(last=Subquery(talked.order_by("-at").values("text")[:1]))
        self.assertEqual([row.last for row in last], ["of 1", "of 2", "of 3"])

    def test_aggregation(self):
        self.assertEqual(Ticket.objects.aggregate(Sum("number"), Avg("number"), Max("title"))["number__sum"], 6)
        counted = Ticket.objects.annotate(talk=Count("comments")).filter(talk__gt=1).values_list("number", "talk")
        self.assertEqual(sorted(counted), [(2, 2), (3, 3)])
        by_state = Ticket.objects.order_by().values("state").annotate(n=Count("*"))
        self.assertEqual(list(by_state), [{"state": "open", "n": 3}])

    def test_windows_unions_and_expressions(self):
        rows = Ticket.objects.annotate(row=Window(RowNumber(), order_by="-number")).values_list("number", "row")
        self.assertEqual(sorted(rows), [(1, 3), (2, 2), (3, 1)])
        some = Ticket.objects.filter(number=1).union(Ticket.objects.filter(number=3)).order_by("number")
        self.assertEqual([row.number for row in some], [1, 3])
        self.assertEqual(Ticket.objects.annotate(up=Upper("title")).earliest("number").up, "LEAK 1")

    def test_pages_and_dates(self):
        self.assertEqual([row.number for row in Ticket.objects.order_by("-number")[1:3]], [2, 1])
        self.assertEqual(Comment.objects.dates("at", "year").count(), 1)
        self.assertTrue(Ticket.objects.exists())
        self.assertEqual(Ticket.objects.only("number").last().title, "leak 3")

    def test_a_long_list_by_a_cursor(self):
        self.assertEqual([row.number for row in Ticket.objects.iterator(chunk_size=2)], [1, 2, 3])

    def test_another_tenants_rows_are_not_seen(self):
        with sharding.tenant(self.KEY + 1):
            self.assertEqual(Ticket.objects.count(), 0)
            self.assertEqual(Project.objects.filter(id=self.project.id).count(), 0)


class Writing(OneTenant):
    def test_save_refresh_and_delete(self):
        label = Label(name="wet")
        label.save()
        Label.objects.filter(id=label.id).update(name="dry")
        label.refresh_from_db()
        self.assertEqual(label.name, "dry")
        label.name = "damp"
        label.save(update_fields=["name"])
        label.save()
        self.assertEqual(Label.objects.get(id=label.id).name, "damp")
        self.assertEqual(label.delete()[0], 1)
        self.assertFalse(Label.objects.filter(name="damp").exists())

    def test_deferred_columns_come_later(self):
        row = Ticket.objects.defer("title").get(number=1)
        self.assertEqual(row.title, "leak 1")

    def test_get_or_create_and_update_or_create(self):
        first, made = Label.objects.get_or_create(name="urgent")
        again, made_again = Label.objects.get_or_create(name="urgent")
        self.assertEqual((first, made, made_again), (again, True, False))
        _, made = Ticket.objects.update_or_create(
            number=1, defaults={"title": "new"}, create_defaults={"project": self.project, "title": "other"}
        )
        self.assertEqual((made, Ticket.objects.get(number=1).title), (False, "new"))

    def test_bulk_create(self):
        labels = Label.objects.bulk_create(Label(name=f"label {n}") for n in range(20))
        self.assertEqual(Label.objects.filter(id__in=[label.id for label in labels]).count(), 20)
        Label.objects.bulk_create([Label(name="label 3"), Label(name="more")], ignore_conflicts=True)
        self.assertEqual(Label.objects.count(), 21)
        one = Label.objects.bulk_create([Label(name="alone")])
        self.assertEqual(Label.objects.get(name="alone"), one[0])

    def test_bulk_create_that_updates(self):
        old = Label.objects.create(name="old")
        Label.objects.bulk_create(
            [Label(id=old.id, name="renamed"), Label(name="fresh")],
            update_conflicts=True, update_fields=["name"], unique_fields=["tenant", "id"],
        )
        self.assertEqual(sorted(Label.objects.values_list("name", flat=True)), ["fresh", "renamed"])

    def test_bulk_update(self):
        rows = list(Ticket.objects.all())
        for row in rows:
            row.title, row.votes = f"bulk {row.number}", row.number
        self.assertEqual(Ticket.objects.bulk_update(rows, ["title", "votes"]), 3)
        self.assertEqual(list(Ticket.objects.values_list("title", "votes")), [(f"bulk {n}", n) for n in (1, 2, 3)])

    def test_update_with_expressions(self):
        self.assertEqual(Ticket.objects.filter(number__gt=1).update(votes=F("votes") + F("number")), 2)
        self.assertEqual(list(Ticket.objects.values_list("votes", flat=True)), [0, 2, 3])
        talked = Ticket.objects.filter(comments__text="of 3")
        self.assertEqual(talked.update(state=Ticket.State.CLOSED), 1)

    def test_rows_by_related_managers(self):
        ticket = self.project.tickets.create(number=Counter.objects.next(), title="by the project")
        self.assertEqual((ticket.tenant_id, ticket.project_id, ticket.number), (self.KEY, self.project.id, 4))
        comment, made = ticket.comments.get_or_create(text="hello")
        self.assertTrue(made and comment.tenant_id == self.KEY)

    def test_many_to_many(self):
        ticket, wet = Ticket.objects.get(number=1), Label.objects.create(name="wet")
        Labelling.objects.create(ticket=ticket, label=wet)
        self.assertEqual(Ticket.objects.filter(labellings__label__name="wet").get(), ticket)
        self.assertEqual(Label.objects.filter(labellings__ticket=ticket).get(), wet)
        with self.assertRaises(IntegrityError), transaction.atomic():
            Labelling.objects.create(ticket=ticket, label=wet)

    def test_delete_with_what_hangs_on_it(self):
        ticket = Ticket.objects.get(number=3)
        self.assertEqual(ticket.delete()[1], {"desk.Ticket": 1, "desk.Comment": 3})
        self.assertEqual(Comment.objects.count(), 3)

    def test_delete_of_a_queryset(self):
        self.assertEqual(Comment.objects.filter(text="of 3").delete()[0], 3)
        self.assertEqual(Ticket.objects.filter(number__gt=1).delete()[1], {"desk.Ticket": 2, "desk.Comment": 2})
        self.assertEqual(Project.objects.all().delete()[1], {"desk.Project": 1, "desk.Ticket": 1, "desk.Comment": 1})

    def test_constraints(self):
        with self.assertRaises(IntegrityError), transaction.atomic():
            Project.objects.create(name="roof")
        with self.assertRaises(ValidationError):
            Project(name="roof").full_clean()
        with self.assertRaises(IntegrityError), transaction.atomic():
            Ticket.objects.create(project_id=uuid.uuid4(), number=9, title="of no project")
            Ticket.objects.filter(number=9).update(votes=1)
            transaction.get_connection().check_constraints()

    def test_counters_have_no_gaps(self):
        with self.assertRaises(IntegrityError), transaction.atomic():
            Counter.objects.next()
            Project.objects.create(name="roof")
        self.assertEqual([Counter.objects.next(), Counter.objects.next()], [4, 5])

    def test_an_assignee_is_everywhere(self):
        user = User.objects.get(username="user1")
        Ticket.objects.filter(number=1).update(assignee=user)
        self.assertEqual(Ticket.objects.get(assignee__username="user1").number, 1)


class WritingOnTheOtherShard(Writing):
    """Tenants 1 and 3 are not on the same shard: test_sharded sees to that."""

    KEY = 3

    def test_an_assignee_is_everywhere(self):
        user = User.objects.get(username="user3")
        Ticket.objects.filter(number=1).update(assignee=user)
        self.assertEqual(Ticket.objects.select_related("assignee").get(number=1).assignee.tenant_id, 3)
