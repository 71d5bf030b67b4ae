"""Who buys: customers, orders, stock, and a journal kept by signals."""

from django.conf import settings
from django.db import models

from catalog.models import Book


class Customer(models.Model):
    user = models.OneToOneField(settings.AUTH_USER_MODEL, null=True, on_delete=models.CASCADE)
    name = models.CharField(max_length=100)
    email = models.EmailField(unique=True)
    points = models.IntegerField(default=0)

    def __str__(self):
        return self.name


class Stock(models.Model):
    book = models.OneToOneField(Book, on_delete=models.CASCADE, related_name="stock")
    copies = models.PositiveIntegerField(default=0)

    def __str__(self):
        return f"{self.copies} of {self.book_id}"


class Order(models.Model):
    class State(models.TextChoices):
        OPEN = "open"
        PAID = "paid"
        CANCELED = "canceled"

    customer = models.ForeignKey(Customer, on_delete=models.CASCADE, related_name="orders")
    state = models.CharField(max_length=10, choices=State.choices, default=State.OPEN)
    placed = models.DateTimeField(auto_now_add=True)
    books = models.ManyToManyField(Book, through="OrderLine", related_name="orders")

    def __str__(self):
        return f"order {self.pk}"


class OrderLine(models.Model):
    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="lines")
    book = models.ForeignKey(Book, on_delete=models.PROTECT)
    quantity = models.PositiveIntegerField()
    price = models.DecimalField(max_digits=8, decimal_places=2)

    def __str__(self):
        return f"{self.quantity} of {self.book_id}"


class Journal(models.Model):
    at = models.DateTimeField(auto_now_add=True)
    kind = models.CharField(max_length=20)
    about = models.BigIntegerField()
    note = models.JSONField(default=dict)

    def __str__(self):
        return f"{self.kind} {self.about}"
