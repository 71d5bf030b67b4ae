"""What is sold: authors, books, tags."""

from django.db import models
from django.db.models import Avg, Count, Q


class Author(models.Model):
    name = models.CharField(max_length=100, unique=True)
    born = models.DateField(null=True)
    mentor = models.ForeignKey("self", null=True, on_delete=models.SET_NULL, related_name="pupils")

    def __str__(self):
        return self.name


class Tag(models.Model):
    word = models.SlugField(unique=True)

    def __str__(self):
        return self.word


class BookQuerySet(models.QuerySet):
    def in_print(self):
        return self.filter(out_of_print=False)

    def with_tag_count(self):
        return self.annotate(tag_count=Count("tags", distinct=True))


class Book(models.Model):
    title = models.CharField(max_length=200)
    author = models.ForeignKey(Author, on_delete=models.CASCADE, related_name="books")
    tags = models.ManyToManyField(Tag, related_name="books")
    price = models.DecimalField(max_digits=8, decimal_places=2)
    pages = models.PositiveIntegerField(default=0)
    out_of_print = models.BooleanField(default=False)
    published = models.DateTimeField(null=True)
    details = models.JSONField(default=dict)

    objects = BookQuerySet.as_manager()

    class Meta:
        ordering = ["title", "pk"]
        indexes = [
            models.Index(fields=["published"]),
            models.Index(fields=["price"], name="book_price"),
        ]
        constraints = [
            models.UniqueConstraint(fields=["author", "title"], name="one_title_per_author"),
            models.CheckConstraint(condition=Q(price__gte=0), name="price_not_negative"),
        ]

    def __str__(self):
        return self.title


def average_price():
    return Book.objects.in_print().aggregate(average=Avg("price"))["average"]
