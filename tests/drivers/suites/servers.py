"""The servers the suites run against: a primary with two replicas, and pgweir in front of them."""

import collections
import contextlib
import json
import os
import pathlib
import socket
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
PGWEIR = pathlib.Path(
    os.environ.get("PGWEIR_BINARY") or pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / "pgweir"
)
# Clients of a suite open a few connections at once; statements must be able to change places among them.
POOL_SIZE = 8


class Failed(Exception):
    """Something is not as it must be."""


class Cluster:
    """Where the servers are, and what the tests do to them behind pgweir's back."""

    def __init__(self, description):
        self.programs = pathlib.Path(description["programs"])
        self.nodes = description["nodes"]
        self.password = description["superuser_password"]

    def addresses(self):
        return [f"{node['host']}:{node['port']}" for node in self.nodes]

    def psql(self, sql, database="postgres", node=0):
        command = [self.programs / "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres"]
        command += ["-p", str(self.nodes[node]["port"]), "-d", database, "-c", sql]
        done = subprocess.run(command, env={**os.environ, "PGPASSWORD": self.password}, capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"psql on {self.nodes[node]['name']}: {done.stderr}")
        return done.stdout.strip()

    def fresh_databases(self, *names):
        """Empty databases of these names, on all nodes; others that tests have left are dropped too."""
        keep = "('postgres', 'template0', 'template1', 'app')"
        left = self.psql(f"SELECT datname FROM pg_database WHERE datname NOT IN {keep}").splitlines()
        for name in left:
            self.psql(f'DROP DATABASE "{name}" WITH (FORCE)')
        for name in names:
            self.psql(f'CREATE DATABASE "{name}"')
        self.catch_up()

    def drop_roles(self):
        """Roles that tests have left, with all they own in the databases that are always there."""
        roles = "SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND rolname NOT IN ('postgres', 'app')"
        for role in self.psql(roles).splitlines():
            self.psql(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')

    def catch_up(self):
        target = self.psql("SELECT pg_current_wal_insert_lsn()")
        for node in range(1, len(self.nodes)):
            until = time.monotonic() + 60
            while self.psql(f"SELECT pg_last_wal_replay_lsn() >= '{target}'", node=node) != "t":
                if time.monotonic() > until:
                    raise Failed(f"{self.nodes[node]['name']} does not catch up")
                time.sleep(0.05)


@contextlib.contextmanager
def cluster():
    """The cluster of the whole test run, or one of our own."""
    if given := os.environ.get("PGWEIR_TEST_CLUSTER"):
        yield Cluster(json.loads(given))
        return
    with clusters(1, replicas=2) as (own,):
        yield own


@contextlib.contextmanager
def clusters(count, replicas):
    """Clusters of our own, each a primary with streaming replicas; they end with us."""
    pipe = subprocess.PIPE
    command = [PGWEIR, "demo", "--servers-only", "--replicas", str(replicas)]
    with contextlib.ExitStack() as stack:
        # All of them start at once.
        started = [stack.enter_context(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)) for _ in range(count)]
        lines = [servers.stdout.readline() for servers in started]
        if not all(lines):
            raise Failed("the servers did not start")
        yield [Cluster(json.loads(line)) for line in lines]
        for servers in started:
            servers.stdin.close()


class Target:
    """What a suite connects to: the primary itself, or pgweir."""

    def __init__(self, name, port, servers):
        self.name = name
        self.port = port
        self.servers = servers
        self.password = servers.password

    def environment(self, database, **more):
        """libpq's variables, and nothing of PostgreSQL's that was set outside."""
        ours = {k: v for k, v in os.environ.items() if not k.startswith("PG") or k.startswith("PGWEIR")}
        libpq = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": "postgres", "PGPASSWORD": self.password}
        return {**ours, **libpq, "PGDATABASE": database, "PYTHONDONTWRITEBYTECODE": "1", **more}


    def routes(self):
        """What pgweir has decided, over all databases: how often for each target and reason."""
        command = [self.servers.programs / "psql", "-XqAt", "-c", "SHOW ROUTES", "-d", "pgweir"]
        done = subprocess.run(command, env=self.environment("pgweir"), capture_output=True, text=True, check=True)
        counts = collections.Counter()
        for line in done.stdout.splitlines():
            # The database's name may be anything; the last column is the shard, if there is one.
            _, target, reason, count, _ = line.rsplit("|", 4)
            counts[target, reason] += int(count)
        return counts


def direct(servers):
    return Target("direct", servers.nodes[0]["port"], servers)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def pgweir(servers, rotate=False, replicas=True, log=None, pool_size=POOL_SIZE, extra=""):
    """pgweir in transaction mode in front of the servers."""
    addresses = servers.addresses()
    yaml = f"""
databases:
  "*":
    primary: "{addresses[0]}"
    replicas: {json.dumps(addresses[1:] if replicas else [])}
users:
  postgres: {{password: "{servers.password}"}}
  app: {{password: app}}
admin: {{stats_users: [postgres]}}
{extra}"""
    with running(yaml, rotate, log, pool_size) as port:
        yield Target("pgweir", port, servers)


@contextlib.contextmanager
def running(yaml, rotate=False, log=None, pool_size=POOL_SIZE):
    """pgweir in transaction mode with these sections in its pooler.yaml; gives its port."""
    port = free_port()
    rotation = ", debug_rotate: true, debug_check: true" if rotate else ""
    yaml = f"""
listen: ["127.0.0.1:{port}"]
pool: {{mode: transaction, size: {pool_size}{rotation}}}
{yaml}"""
    with tempfile.TemporaryDirectory() as directory:
        config = pathlib.Path(directory, "pooler.yaml")
        log = pathlib.Path(log or pathlib.Path(directory, "pgweir.log"))
        config.write_text(yaml)
        with log.open("w") as out:
            process = subprocess.Popen([PGWEIR, "run", "--config", config], stdout=out, stderr=out)
        try:
            wait_for(port, process, log)
            yield port
            if process.poll() is not None:
                raise Failed(f"pgweir ended with {process.returncode}: {tail(log)}")
            if rotate and (dirty := dirty_connections(log)):
                raise Failed(f"{len(dirty)} server connections came back dirty, the first: {dirty[0]}")
            if panics := [line for line in log.read_text(errors="replace").splitlines() if "panicked" in line]:
                raise Failed(f"pgweir panicked: {panics[0]}")
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def dirty_connections(log):
    """What debug_check has found: a server connection that would have gone to the next client unclean."""
    lines = log.read_text(errors="replace").splitlines()
    return [line for line in lines if "ERROR" in line and "debug_check" in line]


def tail(log):
    return "\n".join(log.read_text(errors="replace").splitlines()[-30:])


def wait_for(port, process, log):
    until = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise Failed(f"pgweir does not listen: {tail(log)}")
