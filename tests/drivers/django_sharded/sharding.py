"""What a project with a sharded database needs beside Django: the tenant of the moment, and models that say it.

Every statement on a sharded table must name its key. Three things see to that: a primary key of which the
tenant is part (so UPDATE, DELETE and refresh of one object name it), foreign keys of which it is part (so joins,
related lookups and cascades do), and a manager that adds it to everything else.
"""

import contextlib
import contextvars
import uuid

from django.db import connections, models

_tenant = contextvars.ContextVar("tenant", default=None)


def current_tenant():
    """The tenant that this request, command or task is for."""
    return _tenant.get()


@contextlib.contextmanager
def tenant(key):
    """All within is for this tenant."""
    token = _tenant.set(getattr(key, "pk", key))
    try:
        yield
    finally:
        _tenant.reset(token)


@contextlib.contextmanager
def on_shard(number, using="default"):
    """All statements within run on this shard, whatever they say: for reports and repairs, shard by shard."""

    def with_hint(execute, sql, params, many, context):
        return execute(f"/* pgweir: shard={int(number)} */ {sql}", params, many, context)

    with connections[using].execute_wrapper(with_hint):
        yield


class TenantManager(models.Manager):
    """Sees the rows of the tenant of the moment; without one all rows, which the database refuses to search."""

    # In the models of migrations, too.
    use_in_migrations = True

    def get_queryset(self):
        rows = super().get_queryset()
        key = current_tenant()
        return rows if key is None else rows.filter(tenant_id=key)


class TenantModel(models.Model):
    """The base of all sharded tables. Ids are not from a sequence: each shard has its own."""

    pk = models.CompositePrimaryKey("tenant_id", "id")
    tenant = models.ForeignKey(
        "accounts.Tenant", on_delete=models.DO_NOTHING, default=current_tenant, db_index=False, related_name="+"
    )
    id = models.UUIDField(default=uuid.uuid4, editable=False)

    objects = TenantManager()

    class Meta:
        abstract = True
        # Also what Django itself asks: refresh_from_db, related objects, cascades.
        base_manager_name = "objects"


def tenant_key(to, column, on_delete=models.CASCADE, **options):
    """A foreign key to a row of the same tenant; `column` is the UUIDField with the row's id.

    The id comes first: Django's exclude() over such a key compares the first column only, which would be wrong
    with the tenant; with the id the database refuses it, and ~Exists() is to be written.
    """
    return models.ForeignObject(
        to, on_delete, from_fields=(column, "tenant_id"), to_fields=("id", "tenant_id"), **options
    )
