"""pg_dump, psql and pg_restore: what comes out is what went in; and psql's own commands."""

import re
import subprocess
import time

import outcomes
import tools

SOURCE, PIPED, RESTORED = "dump_source", "dump_piped", "dump_restored"


class Variant:
    name = "dump"

    def __str__(self):
        return self.name

    def versions(self):
        return "PostgreSQL 15"

    def run(self, target, _selection, log):
        begun = time.monotonic()
        return Steps(target, log).all(begun)


class Steps:
    def __init__(self, target, log):
        self.target, self.log = target, log
        self.programs = target.servers.programs
        self.run = outcomes.Run()

    def program(self, name, *arguments, database=SOURCE, stdin=None):
        """(standard output, standard error) of one of PostgreSQL's programs; a bad end is a failure."""
        command = [self.programs / name, *map(str, arguments)]
        done = subprocess.run(command, env=self.target.environment(database), input=stdin, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, name, done.stdout, done.stderr)
        return done.stdout, done.stderr

    def step(self, name, work):
        try:
            said = work()
        except (subprocess.SubprocessError, AssertionError) as error:
            said = f"{error}\n{getattr(error, 'stderr', '')}"[-4000:]
        self.run.add(name, outcomes.FAILED if said else outcomes.PASSED, said or "")

    def dump_of(self, database, *arguments, port=None):
        """A dump without what differs between two dumps of the same database."""
        more = ["-p", port] if port else []
        text, _ = self.program("pg_dump", *more, *arguments, database, database=database)
        return "\n".join(line for line in text.splitlines() if not line.startswith(("--", r"\restrict", r"\unrestrict")))

    def all(self, begun):
        servers = self.target.servers
        servers.fresh_databases(SOURCE, PIPED, RESTORED)
        self.program("psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-f", tools.HERE / "objects.sql", "-o", "/dev/null")
        servers.catch_up()
        primary = servers.nodes[0]["port"]
        # Read from the primary itself: what the target must come to.
        expected = self.dump_of(SOURCE, port=primary)
        self.step("the objects are there", lambda: "" if expected.count("CREATE ") > 35 else expected)
        self.step("pg_dump", lambda: differ(expected, self.dump_of(SOURCE)))
        self.step("pg_dump --inserts, --serializable-deferrable", lambda: self.dump_of(SOURCE, "--inserts", "--serializable-deferrable") and "")

        def piped():
            text, _ = self.program("pg_dump", SOURCE)
            self.program("psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", database=PIPED, stdin=text)
            return differ(expected, self.dump_of(PIPED, port=primary))

        self.step("pg_dump | psql", piped)
        archive = self.log.with_suffix(".archive")
        subprocess.run(["rm", "-rf", archive], check=True)
        self.step("pg_dump -Fd -j 3", lambda: self.program("pg_dump", "-Fd", "-j", 3, "-f", archive, SOURCE) and "")

        def restored():
            self.program("pg_restore", "-j", 4, "--exit-on-error", "-d", RESTORED, archive)
            return differ(expected, self.dump_of(RESTORED, port=primary))

        self.step("pg_restore -j 4", restored)
        self.step("pg_dumpall --globals-only", lambda: self.program("pg_dumpall", "--globals-only") and "")
        self.step("vacuumdb, reindexdb, clusterdb", self.maintenance)
        self.step("createdb, dropdb", self.databases)
        self.features()
        self.step("psql: watch", self.watch)
        subprocess.run(["rm", "-rf", archive], check=True)
        self.run.seconds = time.monotonic() - begun
        self.log.write_text("\n".join(f"{test}: {what}\n{self.run.details.get(test, '')}" for test, what in self.run.tests.items()))
        return self.run

    def maintenance(self):
        self.program("vacuumdb", "--analyze", "-j", 3, SOURCE)
        self.program("reindexdb", "-j", 2, "-S", "sales", SOURCE)
        self.program("clusterdb", SOURCE)

    def databases(self):
        self.program("createdb", "-T", PIPED, "dump_clone")
        clone = self.dump_of("dump_clone")
        self.program("dropdb", "dump_clone")
        return "" if "CREATE TABLE sales.orders" in clone else clone

    def features(self):
        """Each command of features.sql is a test of its own: what it printed."""
        command = [self.programs / "psql", "-Xa", "-f", tools.HERE / "features.sql"]
        done = subprocess.run(
            command, env=self.target.environment(SOURCE), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120
        )
        # Told at LISTEN, and where the server's source is: neither is the client's business.
        said = re.sub(r"PID \d+", "PID …", done.stdout)
        said = said.replace(str(tools.HERE), "").replace(str(self.target.port), "PORT")
        self.log.with_suffix(".psql.log").write_text(said)
        other = self.log.with_name("dump.direct.psql.log")
        if self.target.name == "direct":
            self.run.add("psql: every command", outcomes.PASSED if "watched" in said else outcomes.FAILED, said[-3000:])
        else:
            different = differ(other.read_text(), said)
            self.run.add("psql: every command", outcomes.FAILED if different else outcomes.PASSED, different)

    def watch(self):
        command = ["timeout", "3", self.programs / "psql", "-X", "-c", r"SELECT 'watched' \watch 0.2"]
        done = subprocess.run(command, env=self.target.environment(SOURCE), capture_output=True, input="", text=True)
        script = subprocess.run(
            ["timeout", "3", self.programs / "psql", "-X"], env=self.target.environment(SOURCE), capture_output=True, text=True,
            input="SELECT 'watched' AS w \\watch 0.2\n",
        )
        return "" if script.stdout.count("watched") > 4 else f"{done.stdout}{done.stderr}{script.stdout}{script.stderr}"


def differ(one, two):
    """The first lines in which two texts are not the same."""
    if one == two:
        return ""
    first, second = one.splitlines(), two.splitlines()
    pairs = [f"{n}: {a!r} | {b!r}" for n, (a, b) in enumerate(zip(first, second), 1) if a != b]
    return "\n".join(pairs[:20]) or f"{len(first)} and {len(second)} lines"


def variants(_selection):
    return [Variant()]
