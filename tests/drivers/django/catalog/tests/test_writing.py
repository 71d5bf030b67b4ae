"""Writes, and reads of what was just written, outside any surrounding transaction."""

from decimal import Decimal

from django.db import DatabaseError, IntegrityError, connection, transaction
from django.test import TransactionTestCase

from catalog.models import Author, Book, Tag


class Writing(TransactionTestCase):
    """TransactionTestCase commits: each statement is a transaction of its own, as in production."""

    def setUp(self):
        self.author = Author.objects.create(name="Author")

    def book(self, title="Title", **fields):
        return Book.objects.create(title=title, author=self.author, price=Decimal("1.00"), **fields)

    def test_a_created_row_is_there(self):
        for n in range(20):
            made = self.book(f"title {n}")
            self.assertEqual(Book.objects.get(pk=made.pk).title, f"title {n}")
            self.assertEqual(Book.objects.count(), n + 1)

    def test_an_updated_row_is_new(self):
        made = self.book()
        for n in range(20):
            Book.objects.filter(pk=made.pk).update(pages=n)
            self.assertEqual(Book.objects.get(pk=made.pk).pages, n)

    def test_a_deleted_row_is_gone(self):
        for n in range(10):
            made = self.book(f"title {n}")
            made.delete()
            self.assertFalse(Book.objects.filter(pk=made.pk).exists())

    def test_get_or_create(self):
        first, created = Tag.objects.get_or_create(word="drama")
        self.assertTrue(created)
        again, created = Tag.objects.get_or_create(word="drama")
        self.assertFalse(created)
        self.assertEqual(first, again)

    def test_update_or_create(self):
        for n in range(5):
            Book.objects.update_or_create(
                author=self.author, title="One", defaults={"price": Decimal(n), "pages": n}
            )
        self.assertEqual(Book.objects.get().pages, 4)

    def test_bulk_create_and_update(self):
        made = Book.objects.bulk_create(
            Book(title=f"{n:04}", author=self.author, price=n, details={"n": n}) for n in range(1500)
        )
        self.assertEqual(Book.objects.count(), 1500)
        for book in made:
            book.pages = book.details["n"] * 2
        Book.objects.bulk_update(made, ["pages"], batch_size=500)
        self.assertEqual(Book.objects.get(title="0700").pages, 1400)

    def test_bulk_create_ignoring_conflicts(self):
        self.book("same")
        Book.objects.bulk_create(
            [Book(title="same", author=self.author, price=1), Book(title="other", author=self.author, price=1)],
            ignore_conflicts=True,
        )
        self.assertEqual(Book.objects.count(), 2)

    def test_upsert(self):
        self.book("same", pages=1)
        Book.objects.bulk_create(
            [Book(title="same", author=self.author, price=1, pages=9)],
            update_conflicts=True, update_fields=["pages"], unique_fields=["author", "title"],
        )
        self.assertEqual(Book.objects.get(title="same").pages, 9)

    def test_iterator_outside_a_transaction(self):
        Book.objects.bulk_create(Book(title=f"{n:04}", author=self.author, price=1) for n in range(450))
        seen = []
        for book in Book.objects.iterator(chunk_size=100):
            seen.append(book.title)
            if len(seen) % 150 == 0:
                # Other statements between two fetches of the cursor.
                self.assertEqual(Book.objects.filter(title=book.title).count(), 1)
        self.assertEqual(seen, [f"{n:04}" for n in range(450)])

    def test_an_abandoned_iterator_harms_nobody(self):
        Book.objects.bulk_create(Book(title=f"{n:04}", author=self.author, price=1) for n in range(300))
        rows = iter(Book.objects.iterator(chunk_size=50))
        next(rows)
        del rows
        self.assertEqual(Book.objects.count(), 300)

    def test_constraints_are_errors_not_disconnects(self):
        self.book("same")
        with self.assertRaises(IntegrityError):
            self.book("same")
        with self.assertRaises(IntegrityError):
            Book.objects.create(title="cheap", author=self.author, price=-1)
        self.assertEqual(Book.objects.count(), 1)

    def test_rollback(self):
        with self.assertRaises(ZeroDivisionError), transaction.atomic():
            self.book()
            self.assertEqual(Book.objects.count(), 1)
            1 / 0  # noqa: B018
        self.assertEqual(Book.objects.count(), 0)

    def test_savepoints(self):
        with transaction.atomic():
            self.book("kept")
            with self.assertRaises(IntegrityError), transaction.atomic():
                self.book("kept")
            with transaction.atomic():
                self.book("also kept")
            self.assertEqual(Book.objects.count(), 2)
        self.assertEqual(Book.objects.count(), 2)

    def test_a_failed_transaction_stays_failed(self):
        with self.assertRaises(transaction.TransactionManagementError), transaction.atomic():
            try:
                Book.objects.create(title="cheap", author=self.author, price=-1)
            except IntegrityError:
                Book.objects.count()

    def test_on_commit(self):
        called = []
        with transaction.atomic():
            transaction.on_commit(lambda: called.append(Book.objects.count()))
            self.book()
            self.assertEqual(called, [])
        self.assertEqual(called, [1])

    def test_a_syntax_error_is_only_an_error(self):
        with self.assertRaises(DatabaseError), connection.cursor() as cursor:
            cursor.execute("SELEC 1")
        self.assertEqual(Book.objects.count(), 0)

    def test_a_write_in_a_cte(self):
        Tag.objects.create(word="doomed")
        with connection.cursor() as cursor:
            cursor.execute(
                "WITH gone AS (DELETE FROM catalog_tag WHERE word = %s RETURNING id) SELECT count(*) FROM gone",
                ["doomed"],
            )
            self.assertEqual(cursor.fetchone(), (1,))
        self.assertFalse(Tag.objects.filter(word="doomed").exists())

    def test_two_statements_in_one_string(self):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1; INSERT INTO catalog_tag (word) VALUES ('second')")
        self.assertTrue(Tag.objects.filter(word="second").exists())

    def test_large_values(self):
        text = "ü" * 1_000_000
        made = self.book(details={"text": text})
        self.assertEqual(Book.objects.get(pk=made.pk).details["text"], text)
