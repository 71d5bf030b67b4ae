"""Orders: transactions, locks, savepoints, signals."""

import json
from decimal import Decimal

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import ProtectedError
from django.test import TestCase, TransactionTestCase

from catalog.models import Author, Book
from shop import service
from shop.models import Customer, Journal, Order, OrderLine, Stock


class Shelf:
    def setUp(self):
        author = Author.objects.create(name="Author")
        self.books = [Book.objects.create(title=f"{n}", author=author, price=Decimal(n + 1)) for n in range(3)]
        Stock.objects.update(copies=5)
        self.customer = Customer.objects.create(name="Ada", email="ada@example.com")


class Orders(Shelf, TransactionTestCase):
    def test_a_signal_makes_the_stock(self):
        self.assertEqual(Stock.objects.count(), 3)

    def test_placing_takes_copies(self):
        order = service.place(self.customer, {self.books[0].pk: 2, self.books[1].pk: 1})
        self.assertEqual(Stock.objects.get(book=self.books[0]).copies, 3)
        self.assertEqual(order.lines.count(), 2)
        self.customer.refresh_from_db()
        self.assertEqual(self.customer.points, 3)

    def test_all_or_nothing(self):
        with self.assertRaises(service.OutOfStock):
            service.place(self.customer, {self.books[0].pk: 1, self.books[1].pk: 6})
        self.assertEqual(Order.objects.count(), 0)
        self.assertEqual(OrderLine.objects.count(), 0)
        self.assertEqual(Journal.objects.count(), 0)
        self.assertEqual(set(Stock.objects.values_list("copies", flat=True)), {5})

    def test_canceling_gives_them_back(self):
        order = service.place(self.customer, {self.books[0].pk: 5})
        self.assertEqual(service.cancel(order).state, Order.State.CANCELED)
        service.cancel(order)
        self.assertEqual(Stock.objects.get(book=self.books[0]).copies, 5)
        self.assertEqual(list(Journal.objects.order_by("pk").values_list("kind", flat=True)), ["placed", "changed"])

    def test_registering_survives_duplicates(self):
        made = service.register(["ada", "bob", "ada", "carol", "bob"])
        self.assertEqual([c.name for c in made], ["bob", "carol"])
        self.assertEqual(Customer.objects.count(), 3)

    def test_deleting_cascades_and_is_journaled(self):
        service.place(self.customer, {self.books[0].pk: 1})
        self.customer.delete()
        self.assertEqual((Order.objects.count(), OrderLine.objects.count()), (0, 0))
        self.assertEqual(Journal.objects.get(kind="deleted").note, {"state": "open"})

    def test_protected_rows_stay(self):
        service.place(self.customer, {self.books[0].pk: 1})
        with self.assertRaises(ProtectedError):
            self.books[0].delete()

    def test_select_for_update_needs_a_transaction(self):
        with self.assertRaises(transaction.TransactionManagementError):
            list(Stock.objects.select_for_update())


class Pages(Shelf, TransactionTestCase):
    def post(self, path, **body):
        return self.client.post(path, json.dumps(body), content_type="application/json")

    def test_placing_and_looking(self):
        for n in range(5):
            placed = self.post("/orders/", customer=self.customer.pk, books={self.books[0].pk: 1})
            self.assertEqual(placed.status_code, 201)
            self.assertEqual(self.client.get(f"/orders/{placed.json()['id']}/").json(), placed.json())
            mine = self.client.get(f"/customers/{self.customer.pk}/orders/").json()
            self.assertEqual(mine, {"count": n + 1, "sold": n + 1})
        self.assertEqual(self.post("/orders/", customer=self.customer.pk, books={self.books[0].pk: 1}).status_code, 409)

    def test_lists(self):
        self.assertEqual(self.client.get("/books/").json()["count"], 3)
        self.assertEqual(self.client.get("/books/?q=author").json()["count"], 3)
        self.assertEqual(self.client.get("/authors/").json()["authors"][0]["titles"], 3)
        self.assertEqual(self.client.get(f"/books/{self.books[1].pk}/").json()["price"], "2.00")
        self.assertEqual(self.client.get("/books/0/").status_code, 404)

    def test_export(self):
        lines = b"".join(self.client.get("/export/").streaming_content).splitlines()
        self.assertEqual(len(lines), 3)

    def test_report(self):
        service.place(self.customer, {self.books[2].pk: 2})
        report = self.client.get("/report/").json()
        self.assertEqual(report["revenue"], "6.00")
        self.assertEqual(report["best"][0]["orders_placed"], 1)

    def test_sessions(self):
        User.objects.create_user("ada", password="secret")
        self.assertEqual(self.post("/login/", name="ada", password="wrong").status_code, 403)
        self.assertEqual(self.post("/login/", name="ada", password="secret").status_code, 200)
        for _ in range(5):
            self.assertEqual(self.client.get("/whoami/").json(), {"name": "ada"})


class InOneTransaction(Shelf, TestCase):
    """The same in Django's default TestCase: everything inside one transaction with savepoints."""

    def test_nested_atomic(self):
        with self.assertRaises(service.OutOfStock):
            service.place(self.customer, {self.books[0].pk: 9})
        service.place(self.customer, {self.books[0].pk: 1})
        self.assertEqual(Order.objects.count(), 1)

    def test_on_commit_callbacks(self):
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            transaction.on_commit(lambda: Journal.objects.create(kind="after", about=0))
        self.assertEqual(len(callbacks), 1)
        self.assertEqual(Journal.objects.filter(kind="after").count(), 1)
