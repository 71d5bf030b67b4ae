"""What the tests share: tenants on both shards, and eyes behind pgweir's back."""

import contextlib
import json
import os
import subprocess

import psycopg
from django.db import connection

import sharding
from accounts.models import Country, Tenant, User
from desk.models import Comment, Counter, Project, Ticket

# Tenants 1 to 8; which shard has which is asked of pgweir.
KEYS = range(1, 9)
SHARDS = json.loads(os.environ.get("SHARD_PORTS", "[]"))


def shard_of(key):
    """The shard of a tenant, as `pgweir hash` tells it."""
    command = [os.environ["PGWEIR_BINARY"], "hash", "--type", "bigint", "--shards", str(len(SHARDS)), str(key)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def tenants_by_shard():
    found = [[] for _ in SHARDS]
    for key in KEYS:
        found[shard_of(key)].append(key)
    assert all(len(keys) > 1 for keys in found), found
    return found


def on_server(shard, sql, *values):
    """Rows of a shard's primary, without pgweir in between."""
    settings = connection.settings_dict
    with psycopg.connect(
        host="127.0.0.1", port=SHARDS[shard], dbname=settings["NAME"], user=settings["USER"], password=settings["PASSWORD"]
    ) as straight:
        return straight.execute(sql, values).fetchall()


def add_tenants():
    """Rows of everywhere tables: the tenants, and a user for each."""
    country, _ = Country.objects.get_or_create(code="IS", defaults={"name": "Iceland"})
    for key in KEYS:
        Tenant.objects.create(id=key, name=f"tenant {key}", country=country)
        User.objects.create(username=f"user{key}", tenant_id=key)


def fill(key, tickets=3):
    """A project with tickets and comments."""
    with sharding.tenant(key):
        project = Project.objects.create(name="roof")
        for number in range(1, tickets + 1):
            ticket = Ticket.objects.create(project=project, title=f"leak {number}", number=Counter.objects.next())
            for _ in range(number):
                Comment.objects.create(ticket=ticket, text=f"of {number}")
    return project


@contextlib.contextmanager
def statements():
    """The statements that Django sends within."""
    sent = []

    def note(execute, sql, params, many, context):
        sent.append(sql)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note):
        yield sent
