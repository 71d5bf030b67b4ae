#!/usr/bin/env python3
"""Runs the bookshop, a Django project that knows nothing of a pooler, through pgweir.

    run.py [--driver psycopg3|psycopg2] [--direct] [--requests N]

Migrates, runs the project's own tests (also with --parallel 2), then a concurrent load of requests,
and asks every server what it has executed: reads must have gone to the replicas and no write may have.
With --direct the same against the primary itself: what the project does without a pooler.

The servers come from PGWEIR_TEST_CLUSTER (see scripts/test) or are started here.
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
PGWEIR = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / "pgweir"
DATABASE = "bookshop"
THREADS = 8
# Statements that must never have run on a replica.
WRITES = ("INSERT", "UPDATE", "DELETE", "TRUNCATE", "CREATE", "ALTER", "DROP", "MERGE", "LOCK")
TABLES = ("catalog_", "shop_", "auth_", "django_")


class Failed(Exception):
    """Something is not as it must be."""


def say(text):
    print(f"  {text}", flush=True)


class Cluster:
    """The servers: where they are, and what they have executed."""

    def __init__(self, description):
        self.programs = pathlib.Path(description["programs"])
        self.nodes = description["nodes"]
        self.password = description["superuser_password"]
        self.directory = pathlib.Path(description["directory"])

    def psql(self, node, sql, database="postgres"):
        command = [self.programs / "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres"]
        command += ["-p", str(self.nodes[node]["port"]), "-d", database, "-c", sql]
        done = subprocess.run(
            command, env={**os.environ, "PGPASSWORD": self.password}, capture_output=True, text=True
        )
        if done.returncode:
            raise Failed(f"psql on {self.nodes[node]['name']}: {done.stderr}")
        return done.stdout

    def fresh_database(self):
        for name in (f"test_{DATABASE}", f"test_{DATABASE}_1", f"test_{DATABASE}_2", DATABASE):
            self.psql(0, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        self.psql(0, f"CREATE DATABASE {DATABASE} OWNER app")
        self.catch_up()

    def catch_up(self):
        target = self.psql(0, "SELECT pg_current_wal_insert_lsn()").strip()
        for node in range(1, len(self.nodes)):
            until = time.monotonic() + 30
            while self.psql(node, f"SELECT pg_last_wal_replay_lsn() >= '{target}'").strip() != "t":
                if time.monotonic() > until:
                    raise Failed(f"{self.nodes[node]['name']} does not catch up")
                time.sleep(0.05)

    def forget_statements(self):
        for node in range(len(self.nodes)):
            self.psql(node, "SELECT pg_stat_statements_reset()")

    def statements(self, node):
        """(kind, calls) of the project's statements on a node."""
        rows = self.psql(node, "SELECT coalesce(json_agg(json_build_array(query, calls)), '[]') FROM pg_stat_statements")
        counts = collections.Counter()
        for query, calls in json.loads(rows):
            # Not the server's own queries: those that check foreign keys at the end of a transaction.
            if any(table in query for table in TABLES) and "FROM ONLY" not in query:
                counts[kind(query)] += calls
        return counts

    def refused_writes(self):
        """Lines of the replicas' logs that tell of a write of this project sent to them."""
        lines = []
        for node in self.nodes[1:]:
            log = self.directory / f"{node['name']}.log"
            lines += [line for line in log.read_text().splitlines() if "read-only transaction" in line and "bookshop" in line]
        return lines


def kind(query):
    words = query.upper().split()
    if words[0] == "WITH":
        return next((w for w in WRITES if w in words), "SELECT")
    if "UPDATE" in words and "FOR" in words and words[0] == "SELECT":
        return "SELECT FOR UPDATE"
    return words[0]


@contextlib.contextmanager
def cluster():
    if given := os.environ.get("PGWEIR_TEST_CLUSTER"):
        yield Cluster(json.loads(given))
        return
    pipe = subprocess.PIPE
    with subprocess.Popen([PGWEIR, "demo", "--servers-only"], stdin=pipe, stdout=pipe, text=True) as servers:
        line = servers.stdout.readline()
        if not line:
            raise Failed("the servers did not start")
        yield Cluster(json.loads(line))
        servers.stdin.close()


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def pgweir(cluster):
    """pgweir in front, with a pool smaller than the number of clients; yields its port."""
    port = free_port()
    addresses = [f"{node['host']}:{node['port']}" for node in cluster.nodes]
    nodes = f'primary: "{addresses[0]}"\n    replicas: {json.dumps(addresses[1:])}'
    yaml = f"""
listen: ["127.0.0.1:{port}"]
pool: {{mode: transaction, size: 5}}
databases:
  {DATABASE}:
    {nodes}
  "*":
    {nodes}
users:
  app: {{password: app}}
"""
    with tempfile.TemporaryDirectory() as directory:
        config, log = pathlib.Path(directory, "pooler.yaml"), pathlib.Path(directory, "pgweir.log")
        config.write_text(yaml)
        with log.open("w") as out:
            process = subprocess.Popen([PGWEIR, "run", "--config", config], stdout=out, stderr=out)
        try:
            wait_for(port, process)
            yield port
            if process.poll() is not None:
                raise Failed(f"pgweir ended with {process.returncode}")
        except BaseException:
            sys.stderr.write("--- the end of pgweir's log ---\n" + "\n".join(log.read_text().splitlines()[-40:]) + "\n")
            raise
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_for(port, process):
    until = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise Failed("pgweir does not listen")


class Project:
    """The Django project, at a port, with one of the two drivers."""

    def __init__(self, port, driver):
        self.environment = {**os.environ, "DB_HOST": "127.0.0.1", "DB_PORT": str(port), "PYTHONDONTWRITEBYTECODE": "1"}
        for name in [name for name in self.environment if name.startswith("PG") and name != "PGWEIR_PG_BIN"]:
            del self.environment[name]
        if driver == "psycopg2":
            self.environment["PYTHONPATH"] = str(HERE / "without_psycopg3")

    def manage(self, *arguments):
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments], cwd=HERE, env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        if done.returncode:
            raise Failed(f"manage.py {' '.join(arguments)} failed:\n{done.stdout}")
        tests = [line for line in done.stdout.splitlines() if line.startswith("Ran ")]
        took = tests[0].lower() if tests else f"{time.monotonic() - begun:.1f} s"
        say(f"manage.py {' '.join(arguments)}: ok, {took}")
        return done.stdout

    def driver(self):
        """The driver that Django has really taken."""
        code = "from django.db.backends.postgresql.psycopg_any import errors; print(errors.__name__.split('.')[0])"
        return subprocess.check_output([sys.executable, "-c", code], cwd=HERE, env=self.environment, text=True).strip()

    @contextlib.contextmanager
    def served(self, settings):
        environment = {**self.environment, "DJANGO_SETTINGS_MODULE": settings, "PYTHONUNBUFFERED": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [environment.get("PYTHONPATH"), str(HERE)]))
        with tempfile.TemporaryFile("w+") as errors:
            server = subprocess.Popen(
                [sys.executable, "-m", "bookshop.serve"], cwd=HERE, env=environment,
                stdout=subprocess.PIPE, stderr=errors, text=True,
            )
            try:
                yield int(server.stdout.readline() or 0)
            except Failed:
                errors.seek(0)
                sys.stderr.write("--- the end of the web server's log ---\n" + errors.read()[-6000:])
                raise
            finally:
                server.kill()
                server.wait()
                server.stdout.close()


class Visitors:
    """Threads that browse and buy, each checking what it sees."""

    def __init__(self, port):
        self.base = f"http://127.0.0.1:{port}"
        self.wrong = []
        self.bought = collections.Counter()
        self.lock = threading.Lock()

    def fetch(self, path, body=None):
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    def visit(self, number, requests):
        choice = random.Random(number)
        customer = 1 + number
        for _ in range(requests):
            try:
                self.one(choice, customer)
            except (OSError, ValueError, KeyError, urllib.error.HTTPError) as error:
                self.wrong.append(f"{type(error).__name__}: {error}")

    def one(self, choice, customer):
        dice = choice.random()
        if dice < 0.3:
            self.check(len(json.loads(self.fetch("/books/?tag=novel"))["books"]) == 20, "books by tag")
        elif dice < 0.6:
            pk = choice.randint(1, 200)
            self.check(json.loads(self.fetch(f"/books/{pk}/"))["id"] == pk, "one book")
        elif dice < 0.7:
            self.check(json.loads(self.fetch("/authors/"))["count"] == 20, "authors")
        elif dice < 0.75:
            self.check(self.fetch("/export/").count(b"\n") == 200, "export")
        elif dice < 0.85:
            self.check(len(json.loads(self.fetch("/report/"))["best"]) == 5, "report")
        else:
            books = {choice.randint(1, 200): 1 for _ in range(3)}
            placed = json.loads(self.fetch("/orders/", {"customer": customer, "books": books}))
            self.check(placed["lines"] == [[book, 1] for book in sorted(books)], "an order read back at once")
            with self.lock:
                self.bought[customer] += len(books)

    def check(self, holds, what):
        if not holds:
            self.wrong.append(f"wrong answer: {what}")

    def all(self, requests):
        threads = [threading.Thread(target=self.visit, args=(n, requests // THREADS)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.wrong:
            counts = collections.Counter(self.wrong).most_common(5)
            raise Failed(f"{len(self.wrong)} requests went wrong: {counts}")


def load(project, servers, settings, requests):
    with project.served(settings) as port:
        visitors = Visitors(port)
        begun = time.monotonic()
        visitors.all(requests)
        took = time.monotonic() - begun
    say(f"{requests} requests with {settings}: ok, {requests / took:.0f} a second")
    return visitors.bought


def check_books(servers, bought):
    """The sums must agree: what visitors were told they bought is what the primary has."""
    sold = int(servers.psql(0, "SELECT coalesce(sum(quantity), 0) FROM shop_orderline", DATABASE))
    left = int(servers.psql(0, "SELECT 200 * 100000 - sum(copies) FROM shop_stock", DATABASE))
    points = int(servers.psql(0, "SELECT sum(points) FROM shop_customer", DATABASE))
    if not sold == left == points == sum(bought.values()):
        raise Failed(f"sold {sold}, taken from stock {left}, points {points}, told {sum(bought.values())}")
    say(f"{sold} books sold, and every sum agrees")


def check_routing(servers, direct):
    """Reads must have run on replicas, writes only on the primary."""
    reads = []
    for node in range(len(servers.nodes)):
        counts = servers.statements(node)
        reads.append(counts["SELECT"])
        shown = ", ".join(f"{name} {calls}" for name, calls in sorted(counts.items()))
        say(f"{servers.nodes[node]['name']}: {shown or 'nothing'}")
        if node and (wrong := [name for name in counts if name.startswith(WRITES) or "FOR UPDATE" in name]):
            raise Failed(f"writes on {servers.nodes[node]['name']}: {wrong}")
    share = sum(reads[1:]) / max(sum(reads), 1)
    say(f"{share:.0%} of the SELECTs ran on replicas")
    if direct:
        return
    if min(reads[1:]) == 0 or share < 0.5:
        raise Failed("the replicas served too little")
    if refused := servers.refused_writes():
        raise Failed(f"{len(refused)} writes were sent to replicas, the first: {refused[0]}")


def run(servers, port, options):
    project = Project(port, options.driver)
    wanted = {"psycopg3": "psycopg", "psycopg2": "psycopg2"}[options.driver]
    if project.driver() != wanted:
        raise Failed(f"Django took {project.driver()}, not {wanted}")
    project.manage("makemigrations", "--check", "--dry-run")
    project.manage("migrate")
    project.manage("check", "--database", "default")
    project.manage("test", "--noinput")
    project.manage("test", "--noinput", "--parallel", "2")
    project.manage("seed")
    servers.catch_up()
    servers.forget_statements()
    bought = collections.Counter()
    for settings in ("bookshop.settings", "bookshop.settings_persistent"):
        bought += load(project, servers, settings, options.requests)
    check_books(servers, bought)
    check_routing(servers, options.direct)
    project.manage("migrate", "shop", "zero")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--driver", choices=("psycopg3", "psycopg2"), default="psycopg3")
    parser.add_argument("--direct", action="store_true", help="without pgweir, straight to the primary")
    parser.add_argument("--requests", type=int, default=800, help="requests of each load")
    options = parser.parse_args()
    try:
        with cluster() as servers:
            servers.fresh_database()
            if options.direct:
                run(servers, servers.nodes[0]["port"], options)
            else:
                with pgweir(servers) as port:
                    run(servers, port, options)
    except Failed as failure:
        sys.exit(f"FAILED: {failure}")


if __name__ == "__main__":
    main()
