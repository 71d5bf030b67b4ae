"""A Django project with many tenants, on two shards with a replica each: migrated and tested through pgweir.

What it has in common with any project is compared with a run on one PostgreSQL; its tests of where rows are and
of what is refused (the tag `sharded`), and the steps around the tests, must pass.
"""

import json
import os
import subprocess
import time

import outcomes
import servers
import tools
from django_suite import LTS
from servers import Failed

PROJECT = tools.HERE.parent / "django_sharded"
SHARDS = 2
# Django's test runner cannot create a database on each shard: the one it uses is there beforehand (--keepdb).
DATABASES = ("helpdesk", "test_helpdesk")
SHARDED, EVERYWHERE = ["desk_*"], ["accounts_*", "auth_*", "django_*"]


class Variant:
    """The project with one way to bind parameters."""

    has_own_servers = True

    def __init__(self, name, options):
        self.name, self.options = name, options

    def __str__(self):
        return self.name

    def versions(self):
        return f"Django {LTS}"

    def prepared(self):
        return tools.environment("python")

    def compared(self, options, logs):
        """Runs all; what is not there directly must have passed."""
        through = outcomes.Run()
        with servers.clusters(SHARDS, replicas=1) as shards:
            databases_on(shards[:1])
            directly = self.tests(shards[0].nodes[0]["port"], [], logs / f"{self}.direct.log", "--exclude-tag", "sharded")
            databases_on(shards)
            extra = "routing: {transactions: replica_until_write}\n" if options.until_write else ""
            log = logs / f"{self}.pgweir-itself.log"
            with servers.running(sections(shards, not options.primary_only) + extra, options.rotate, log) as port:
                self.step(through, "migrate", lambda: self.migrate(port, shards))
                through_tests = self.tests(port, shards, logs / f"{self}.pgweir.log")
                for test, outcome in through_tests.tests.items():
                    through.add(test, outcome, through_tests.details.get(test, ""))
                through.seconds = through_tests.seconds
                self.step(through, "browse", lambda: self.browse(port, shards, options.primary_only))
                self.step(through, "migrate back", lambda: self.manage(port, "migrate", "desk", "zero"))
        for test in through.tests:
            directly.tests.setdefault(test, outcomes.PASSED)
        return directly, through

    def step(self, run, name, action):
        """Something around the tests, as a test of its own."""
        try:
            action()
        except Failed as failure:
            run.add(f"({name})", outcomes.FAILED, str(failure))
        else:
            run.add(f"({name})", outcomes.PASSED)

    def environment(self, port, shards):
        """Nothing of PostgreSQL's own variables; the tests look behind pgweir's back, too."""
        ours = {k: v for k, v in os.environ.items() if not k.startswith("PG") or k.startswith("PGWEIR")}
        return {
            **ours,
            "DB_PORT": str(port),
            "DB_OPTIONS": json.dumps(self.options),
            "SHARD_PORTS": json.dumps([shard.nodes[0]["port"] for shard in shards]),
            "PGWEIR_BINARY": str(servers.PGWEIR),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(tools.HERE),
        }

    def tests(self, port, shards, log, *arguments):
        environ = {**self.environment(port, shards), "TEST_RUNNER": "recorder.DjangoRunner"}
        command = [self.prepared(), "manage.py", "test", "--noinput", "--keepdb", *arguments]
        return tools.recorded(command, PROJECT, environ, log, 300)

    def manage(self, port, *arguments):
        command = [self.prepared(), "manage.py", *arguments]
        done = subprocess.run(
            command, cwd=PROJECT, env=self.environment(port, []), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=120,
        )
        if done.returncode:
            raise Failed(f"manage.py {' '.join(arguments)} failed:\n{done.stdout}")
        return done.stdout

    def migrate(self, port, shards):
        """Every shard has the whole schema afterwards, and the rows that are everywhere."""
        self.manage(port, "makemigrations", "--check", "--dry-run")
        self.manage(port, "migrate")
        self.manage(port, "migrate", "--check")
        self.manage(port, "check", "--database", "default")
        for what, sql in SAME.items():
            first, *others = (shard.psql(sql, "helpdesk") for shard in shards)
            if not first or any(other != first for other in others):
                raise Failed(f"{what} differ from shard to shard:\n{first}\n---\n{others}")

    def browse(self, port, shards, primary_only):
        """Requests of all tenants; replicas of both shards must have answered some."""
        said = self.manage(port, "browse")
        rows = [int(shard.psql("SELECT count(*) FROM desk_ticket", "helpdesk")) for shard in shards]
        if not all(rows) or sum(rows) != json.loads(said.splitlines()[-1])["tickets"]:
            raise Failed(f"tickets on the shards: {rows}; told: {said}")
        if not primary_only:
            for number, shard in enumerate(shards):
                read_on_replica(number, shard)


# What must be the same on each shard after migrate.
SAME = {
    "tables": "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns"
    " WHERE table_schema = 'public' ORDER BY 1, 2",
    "indexes": "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1",
    "constraints": "SELECT conrelid::regclass, conname, pg_get_constraintdef(oid) FROM pg_constraint"
    " WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2",
    "migrations": "SELECT * FROM django_migrations ORDER BY id",
    "content types": "SELECT * FROM django_content_type ORDER BY id",
    "permissions": "SELECT * FROM auth_permission ORDER BY id",
    "countries": "SELECT * FROM accounts_country ORDER BY 1",
}


def read_on_replica(number, shard):
    """The replica's own statistics, which appear some time after the statement."""
    sql = "SELECT sum(seq_scan + coalesce(idx_scan, 0)) FROM pg_stat_user_tables WHERE relname LIKE 'desk_%'"
    until = time.monotonic() + 20
    while not int(shard.psql(sql, "helpdesk", node=1) or 0):
        if time.monotonic() > until:
            raise Failed(f"the replica of shard {number} has answered nothing")
        time.sleep(0.2)


def databases_on(shards):
    """Empty databases on each shard."""
    for shard in shards:
        for name in DATABASES:
            shard.psql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            shard.psql(f"CREATE DATABASE {name} OWNER app")
        shard.catch_up()


def sections(shards, replicas):
    """pooler.yaml for the project: its database and that of its tests, sharded in the same way."""
    nodes = [
        f'      - {{primary: "{shard.addresses()[0]}", replicas: {json.dumps(shard.addresses()[1:] if replicas else [])}}}'
        for shard in shards
    ]
    text = "databases:\n"
    for name in DATABASES:
        text += "\n".join([f"  {name}:", "    shards:", *nodes, "    sharded_tables:"])
        text += f"\n      - {{tables: {json.dumps(SHARDED)}, column: tenant_id, type: bigint, function: hash}}"
        text += f"\n    everywhere_tables: {json.dumps(EVERYWHERE)}\n"
    # Where Django looks whether the database of its tests is there.
    text += f'  postgres: {{primary: "{shards[0].addresses()[0]}"}}\n'
    return text + "users:\n  app: {password: app}\n"


def variants(selection):
    return [Variant("django-sharded", {}), Variant("django-sharded-server", {"server_side_binding": True})]
