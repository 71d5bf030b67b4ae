"""manage.py seed: a shop with something in it, for the load test and the example."""

import random

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand
from django.db import transaction

from catalog.models import Author, Book, Tag
from shop.models import Customer, Stock


class Command(BaseCommand):
    help = "Fills an empty shop: 20 authors, 200 books with 100000 copies each, 50 customers, 10 users."

    def handle(self, *args, **options):
        if Book.objects.exists():
            self.stdout.write("there are books already")
            return
        choice = random.Random(1)
        with transaction.atomic():
            authors = Author.objects.bulk_create(Author(name=f"author {n}") for n in range(20))
            books = Book.objects.bulk_create(
                Book(title=f"book {n}", author=authors[n % 20], price=5 + n % 30, pages=100 + n, details={"n": n})
                for n in range(200)
            )
            Stock.objects.bulk_create(Stock(book=book, copies=100_000) for book in books)
            tags = list(Tag.objects.all())
            for book in books:
                book.tags.add(choice.choice(tags))
            Customer.objects.bulk_create(
                Customer(name=f"customer {n}", email=f"customer{n}@example.com") for n in range(50)
            )
        for n in range(10):
            User.objects.create_user(f"user{n}", password=f"password{n}")
        self.stdout.write(f"{len(books)} books")
