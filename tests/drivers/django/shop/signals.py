"""Every order leaves a trace in the journal; every book gets a stock."""

from django.db.models.signals import post_save, pre_delete
from django.dispatch import receiver

from catalog.models import Book

from .models import Journal, Order, Stock


@receiver(post_save, sender=Book)
def stock_of_new_book(sender, instance, created, **kwargs):
    if created:
        Stock.objects.get_or_create(book=instance)


@receiver(post_save, sender=Order)
def order_saved(sender, instance, created, **kwargs):
    Journal.objects.create(kind="placed" if created else "changed", about=instance.pk)


@receiver(pre_delete, sender=Order)
def order_deleted(sender, instance, **kwargs):
    Journal.objects.create(kind="deleted", about=instance.pk, note={"state": instance.state})
