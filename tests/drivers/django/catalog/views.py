"""Pages that only read."""

from django.db.models import Avg, Count, Max, Q
from django.http import JsonResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404

from .models import Author, Book


def books(request):
    found = Book.objects.in_print().select_related("author").prefetch_related("tags")
    if tag := request.GET.get("tag"):
        found = found.filter(tags__word=tag)
    if words := request.GET.get("q"):
        found = found.filter(Q(title__icontains=words) | Q(author__name__icontains=words))
    return JsonResponse({"count": found.count(), "books": [shown(book) for book in found[:20]]})


def book(request, pk):
    return JsonResponse(shown(get_object_or_404(Book.objects.select_related("author"), pk=pk)))


def shown(book):
    return {
        "id": book.pk,
        "title": book.title,
        "author": book.author.name,
        "tags": sorted(tag.word for tag in book.tags.all()),
        "price": str(book.price),
    }


def authors(request):
    rows = Author.objects.annotate(
        titles=Count("books"), average=Avg("books__price"), longest=Max("books__pages")
    ).order_by("-titles", "name")
    return JsonResponse(
        {"authors": list(rows.values("name", "titles", "longest")[:20]), "count": Author.objects.count()}
    )


def export(request):
    # .iterator() outside a transaction is a server-side cursor WITH HOLD.
    rows = Book.objects.order_by("pk").values_list("pk", "title").iterator(chunk_size=100)
    return StreamingHttpResponse((f"{pk},{title}\n" for pk, title in rows), content_type="text/csv")
