"""Queries of every kind inside Django's usual test transactions."""

import datetime
from decimal import Decimal

from django.db.models import (
    Avg, Case, Count, Exists, F, Max, Min, OuterRef, Prefetch, Q, StdDev, Subquery, Sum, Value, When, Window,
)
from django.db.models.functions import Coalesce, Concat, Lower, Rank, TruncYear
from django.test import TestCase
from django.utils import timezone

from catalog.models import Author, Book, Tag, average_price


class Reading(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.woolf = Author.objects.create(name="Virginia Woolf", born=datetime.date(1882, 1, 25))
        cls.borges = Author.objects.create(name="Jorge Luis Borges", born=datetime.date(1899, 8, 24))
        cls.pupil = Author.objects.create(name="Pupil", mentor=cls.borges)
        new = Book.objects.create
        cls.waves = new(title="The Waves", author=cls.woolf, price=Decimal("12.50"), pages=300)
        cls.orlando = new(title="Orlando", author=cls.woolf, price=Decimal("9.00"), pages=250, out_of_print=True)
        cls.ficciones = new(
            title="Ficciones", author=cls.borges, price=Decimal("15.00"), pages=180,
            published=datetime.datetime(1944, 6, 1, tzinfo=datetime.UTC),
            details={"language": "es", "stories": ["Tlön", "Pierre Menard"], "rating": {"stars": 5}},
        )
        cls.novel, _ = Tag.objects.get_or_create(word="novel")
        cls.science, _ = Tag.objects.get_or_create(word="science")
        cls.waves.tags.add(cls.novel)
        cls.ficciones.tags.add(cls.novel, cls.science)

    def test_filter_and_order(self):
        titles = Book.objects.filter(price__gt=10).order_by("-price").values_list("title", flat=True)
        self.assertEqual(list(titles), ["Ficciones", "The Waves"])

    def test_count_and_exists(self):
        self.assertEqual(Book.objects.count(), 3)
        self.assertTrue(Book.objects.filter(title="Orlando").exists())
        self.assertFalse(Book.objects.filter(title="Ulysses").exists())

    def test_get_raises_when_there_is_none(self):
        with self.assertRaises(Book.DoesNotExist):
            Book.objects.get(title="Ulysses")

    def test_get_raises_when_there_are_many(self):
        with self.assertRaises(Book.MultipleObjectsReturned):
            Book.objects.get(author=self.woolf)

    def test_aggregates(self):
        found = Book.objects.aggregate(Sum("pages"), Avg("price"), Min("price"), Max("price"), StdDev("pages"))
        self.assertEqual(found["pages__sum"], 730)
        self.assertEqual(found["price__min"], Decimal("9.00"))
        self.assertGreater(found["pages__stddev"], 0)

    def test_average_of_books_in_print(self):
        self.assertEqual(average_price(), Decimal("13.75"))

    def test_annotate_and_having(self):
        busy = Author.objects.annotate(n=Count("books")).filter(n__gte=2)
        self.assertEqual([a.name for a in busy], ["Virginia Woolf"])

    def test_custom_queryset(self):
        counts = {b.title: b.tag_count for b in Book.objects.in_print().with_tag_count()}
        self.assertEqual(counts, {"Ficciones": 2, "The Waves": 1})

    def test_f_expression(self):
        self.assertEqual(Book.objects.filter(pages__gt=F("price") * 20).count(), 2)

    def test_q_expressions(self):
        found = Book.objects.filter(Q(title__startswith="O") | ~Q(author=self.woolf))
        self.assertEqual({b.title for b in found}, {"Orlando", "Ficciones"})

    def test_subquery(self):
        dearest = Book.objects.filter(author=OuterRef("pk")).order_by("-price").values("title")[:1]
        found = Author.objects.annotate(dearest=Subquery(dearest)).order_by("name").values_list("dearest", flat=True)
        self.assertEqual(list(found), ["Ficciones", None, "The Waves"])

    def test_exists_subquery(self):
        tagged = Book.objects.filter(Exists(Tag.objects.filter(books=OuterRef("pk"), word="science")))
        self.assertEqual(list(tagged), [self.ficciones])

    def test_case_when(self):
        sizes = Book.objects.annotate(size=Case(When(pages__gte=300, then=Value("thick")), default=Value("thin")))
        self.assertEqual(dict(sizes.values_list("title", "size"))["The Waves"], "thick")

    def test_window_function(self):
        ranked = Book.objects.annotate(rank=Window(Rank(), order_by=F("price").desc())).order_by("rank")
        self.assertEqual([b.title for b in ranked], ["Ficciones", "The Waves", "Orlando"])

    def test_functions(self):
        found = Author.objects.annotate(shout=Concat(Lower("name"), Value("!"))).get(pk=self.woolf.pk)
        self.assertEqual(found.shout, "virginia woolf!")

    def test_coalesce_and_trunc(self):
        years = Book.objects.annotate(year=TruncYear(Coalesce("published", timezone.now()))).values_list("year")
        self.assertEqual(min(y[0].year for y in years), 1944)

    def test_select_related_is_one_query(self):
        with self.assertNumQueries(1):
            names = {b.author.name for b in Book.objects.select_related("author")}
        self.assertEqual(len(names), 2)

    def test_prefetch_related_is_two_queries(self):
        with self.assertNumQueries(2):
            words = {b.title: [t.word for t in b.tags.all()] for b in Book.objects.prefetch_related("tags")}
        self.assertEqual(words["The Waves"], ["novel"])

    def test_prefetch_with_queryset(self):
        thick = Prefetch("books", Book.objects.filter(pages__gt=260), to_attr="thick")
        self.assertEqual([len(a.thick) for a in Author.objects.prefetch_related(thick).order_by("name")], [0, 0, 1])

    def test_many_to_many_both_ways(self):
        self.assertEqual(self.novel.books.count(), 2)
        self.ficciones.tags.remove(self.novel)
        self.assertEqual(self.novel.books.count(), 1)
        self.ficciones.tags.set([self.novel])
        self.assertEqual(list(self.ficciones.tags.all()), [self.novel])

    def test_self_reference(self):
        self.assertEqual(self.borges.pupils.get(), self.pupil)
        self.borges.books.all().delete()
        self.borges.delete()
        self.pupil.refresh_from_db()
        self.assertIsNone(self.pupil.mentor)

    def test_json_lookups(self):
        self.assertEqual(Book.objects.get(details__language="es"), self.ficciones)
        self.assertEqual(Book.objects.get(details__rating__stars__gte=4), self.ficciones)
        self.assertEqual(Book.objects.get(details__stories__contains=["Tlön"]), self.ficciones)
        self.assertEqual(Book.objects.filter(details__has_key="nothing").count(), 0)

    def test_json_comes_back_as_it_went(self):
        value = {"text": "quote ' and \\ and \u2603", "list": [1, None, True, 2.5], "empty": {}}
        Book.objects.filter(pk=self.waves.pk).update(details=value)
        self.assertEqual(Book.objects.get(pk=self.waves.pk).details, value)

    def test_dates_in_the_projects_zone(self):
        Book.objects.filter(pk=self.waves.pk).update(
            published=datetime.datetime(2001, 12, 31, 23, 30, tzinfo=datetime.UTC)
        )
        # Half past midnight in Paris: the year there is another one.
        self.assertEqual(Book.objects.filter(published__year=2002).count(), 1)

    def test_union_and_difference(self):
        cheap, thick = Book.objects.filter(price__lt=13), Book.objects.filter(pages__gt=260)
        self.assertEqual(len(cheap.union(thick)), 2)
        self.assertEqual([b.title for b in cheap.difference(thick)], ["Orlando"])

    def test_in_bulk_and_values(self):
        self.assertEqual(set(Book.objects.in_bulk()), {self.waves.pk, self.orlando.pk, self.ficciones.pk})
        self.assertEqual(Book.objects.values("author__name").annotate(n=Count("pk")).order_by("-n")[0]["n"], 2)

    def test_iterator_in_a_transaction(self):
        titles = [b.title for b in Book.objects.iterator(chunk_size=2)]
        self.assertEqual(titles, ["Ficciones", "Orlando", "The Waves"])

    def test_raw_query(self):
        found = Book.objects.raw("SELECT id, title FROM catalog_book WHERE pages > %s", [260])
        self.assertEqual([b.title for b in found], ["The Waves"])

    def test_explain(self):
        self.assertIn("catalog_book", Book.objects.filter(pages=1).explain())
