"""Pages of the shop; those that change something read it back at once."""

import json

from django.contrib.auth import authenticate, login
from django.db.models import Count, F, OuterRef, Subquery, Sum
from django.http import JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_POST

from . import service
from .models import Customer, Order, OrderLine


@require_POST
def place_order(request):
    asked = json.loads(request.body)
    customer = get_object_or_404(Customer, pk=asked["customer"])
    try:
        order = service.place(customer, {int(book): n for book, n in asked["books"].items()})
    except service.OutOfStock as shortage:
        return JsonResponse({"out_of_stock": int(str(shortage))}, status=409)
    # After the commit, outside any transaction: what was written must be there.
    return JsonResponse(shown(Order.objects.get(pk=order.pk)), status=201)


def order(request, pk):
    return JsonResponse(shown(get_object_or_404(Order, pk=pk)))


def shown(order):
    lines = order.lines.order_by("book_id").values_list("book_id", "quantity")
    return {"id": order.pk, "customer": order.customer_id, "state": order.state, "lines": [list(l) for l in lines]}


def customer_orders(request, pk):
    orders = Order.objects.filter(customer=pk).annotate(books_sold=Sum("lines__quantity")).order_by("pk")
    return JsonResponse({"count": orders.count(), "sold": sum(o.books_sold or 0 for o in orders)})


def report(request):
    last = Order.objects.filter(customer=OuterRef("pk")).order_by("-pk").values("pk")[:1]
    best = Customer.objects.annotate(orders_placed=Count("orders"), last_order=Subquery(last)).order_by(
        "-points", "pk"
    )
    revenue = OrderLine.objects.aggregate(total=Sum(F("quantity") * F("price")))["total"]
    return JsonResponse(
        {"best": list(best.values("name", "orders_placed", "last_order")[:5]), "revenue": str(revenue)}
    )


@require_POST
def log_in(request):
    asked = json.loads(request.body)
    user = authenticate(request, username=asked["name"], password=asked["password"])
    if user is None:
        return JsonResponse({}, status=403)
    login(request, user)
    return JsonResponse({"name": user.username})


def whoami(request):
    return JsonResponse({"name": request.user.get_username()})
