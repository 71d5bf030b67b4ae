"""What all tenants share, in everywhere tables: the same rows on every shard.

They are read much and written little. Keys are given by the application where rows are added while many work.
"""

import uuid

from django.contrib.auth.models import AbstractUser
from django.db import models


class Country(models.Model):
    code = models.CharField(max_length=2, primary_key=True)
    name = models.CharField(max_length=60)

    class Meta:
        verbose_name_plural = "countries"

    def __str__(self):
        return self.name


class Tenant(models.Model):
    # The key of all sharded tables.
    id = models.BigIntegerField(primary_key=True)
    name = models.CharField(max_length=60, unique=True)
    country = models.ForeignKey(Country, on_delete=models.PROTECT)

    def __str__(self):
        return self.name


class User(AbstractUser):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, null=True, blank=True)
