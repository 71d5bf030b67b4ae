"""Placing and canceling orders: transactions, row locks, savepoints."""

from django.db import IntegrityError, transaction
from django.db.models import F

from catalog.models import Book

from .models import Customer, Order, OrderLine, Stock


class OutOfStock(Exception):
    """There are not enough copies."""


@transaction.atomic
def place(customer, wanted):
    """Places an order for {book id: quantity}; all of it or nothing."""
    order = Order.objects.create(customer=customer)
    # In the order of their keys: two orders for the same books must not wait for each other.
    stocks = {s.book_id: s for s in Stock.objects.select_for_update().filter(book__in=wanted).order_by("book_id")}
    prices = dict(Book.objects.filter(pk__in=wanted).values_list("pk", "price"))
    for book, quantity in wanted.items():
        if book not in stocks or stocks[book].copies < quantity:
            raise OutOfStock(book)
        Stock.objects.filter(book=book).update(copies=F("copies") - quantity)
    OrderLine.objects.bulk_create(
        OrderLine(order=order, book_id=book, quantity=quantity, price=prices[book])
        for book, quantity in wanted.items()
    )
    Customer.objects.filter(pk=customer.pk).update(points=F("points") + sum(wanted.values()))
    return order


@transaction.atomic
def cancel(order):
    """Gives the copies back."""
    order = Order.objects.select_for_update().get(pk=order.pk)
    if order.state == Order.State.CANCELED:
        return order
    for line in order.lines.all():
        Stock.objects.filter(book=line.book_id).update(copies=F("copies") + line.quantity)
    order.state = Order.State.CANCELED
    order.save()
    return order


@transaction.atomic
def register(names):
    """Creates a customer for each name; one that exists already does not stop the others."""
    created = []
    for name in names:
        try:
            with transaction.atomic():
                created.append(Customer.objects.create(name=name, email=f"{name}@example.com"))
        except IntegrityError:
            continue
    return created
