"""The admin is for the tables that all tenants share: Django has none for composite primary keys."""

from django.contrib import admin

from .models import Country, Tenant

admin.site.register(Country)
admin.site.register(Tenant)
