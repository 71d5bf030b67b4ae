#!/usr/bin/env python3
"""Runs the test suites of drivers and frameworks, direct against PostgreSQL and through pgweir, and compares.

    run.py NAME... [--rotate] [--ci] [--primary-only] [--verbose]

What fails through pgweir and not direct is a difference. Differences that are known and explained stand in
known.txt, one `suite | test | reason` a line; any other fails the run, and so does a run that has fewer tests.

Through pgweir: transaction mode, five server connections a pool, reads on two replicas, and with --rotate
each transaction on another server connection than the last one, which is asked whether it is clean when it
comes back. The servers come from PGWEIR_TEST_CLUSTER (see scripts/test) or are started here.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
CACHE = pathlib.Path(os.environ.get("PGWEIR_DRIVERS_CACHE", ROOT / ".cache" / "suites"))
PGWEIR = pathlib.Path(os.environ.get("PGWEIR_BIN", pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / "pgweir"))
KNOWN = HERE / "known.txt"


class Failed(Exception):
    """The run cannot go on."""


def say(text):
    print(f"  {text}", flush=True)


class Cluster:
    def __init__(self, description):
        self.programs = pathlib.Path(description["programs"])
        self.nodes = description["nodes"]
        self.password = description["superuser_password"]

    @property
    def port(self):
        return self.nodes[0]["port"]

    def psql(self, sql, database="postgres", node=0):
        command = [self.programs / "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres",
                   "-p", str(self.nodes[node]["port"]), "-d", database, "-c", sql]
        done = subprocess.run(command, env={**os.environ, "PGPASSWORD": self.password}, capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"psql: {sql}: {done.stderr}")
        return done.stdout

    def catch_up(self):
        target = self.psql("SELECT pg_current_wal_insert_lsn()").strip()
        for node in range(1, len(self.nodes)):
            until = time.monotonic() + 30
            while self.psql(f"SELECT pg_last_wal_replay_lsn() >= '{target}'", node=node).strip() != "t":
                if time.monotonic() > until:
                    raise Failed("a replica does not catch up")
                time.sleep(0.05)

    def fresh(self, name, owner="postgres"):
        for stale in self.psql("SELECT datname FROM pg_database WHERE datname ~ '^(test_|suite_)'").split():
            self.psql(f'DROP DATABASE "{stale}" WITH (FORCE)')
        self.psql(f'CREATE DATABASE "{name}" OWNER "{owner}"')
        self.catch_up()


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
def pgweir(cluster, options, log):
    port = free_port()
    addresses = [f"{node['host']}:{node['port']}" for node in cluster.nodes]
    replicas = "" if options.primary_only else f"\n    replicas: {json.dumps(addresses[1:])}"
    debug = ", debug_rotate: true, debug_check: true" if options.rotate else ""
    yaml = f"""
listen: ["127.0.0.1:{port}", "unix:{log.parent}"]
auth: {{method: scram-sha-256}}
pool: {{mode: transaction, size: 5{debug}}}
databases:
  "*":
    primary: "{addresses[0]}"{replicas}
users:
  postgres: {{password: "{cluster.password}"}}
  app: {{password: app}}
"""
    config = log.with_suffix(".yaml")
    config.write_text(yaml)
    with log.open("w") as out:
        process = subprocess.Popen([PGWEIR, "run", "--config", config], stdout=out, stderr=out)
    try:
        until = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.monotonic() > until:
                raise Failed(f"pgweir does not listen\n{log.read_text()}")
            time.sleep(0.02)
        yield port
        if process.poll() is not None:
            raise Failed(f"pgweir ended with {process.returncode}\n{log.read_text()[-3000:]}")
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()


class Where:
    """Direct or through pgweir."""

    def __init__(self, cluster, name, port):
        self.cluster, self.name, self.port = cluster, name, port
        self.host = "127.0.0.1"

    def environment(self, **more):
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PG") or k.startswith("PGWEIR")}
        return {**kept, "PYTHONDONTWRITEBYTECODE": "1", "PGWEIR_SUITE": "1", **{k: str(v) for k, v in more.items()}}

    def libpq(self, database, user="postgres"):
        password = self.cluster.password if user == "postgres" else "app"
        return {"PGHOST": self.host, "PGPORT": self.port, "PGUSER": user, "PGPASSWORD": password, "PGDATABASE": database}


def venv(name, packages):
    """A virtual environment with exactly these packages."""
    place = CACHE / f"venv-{name}"
    stamp = place / "packages.txt"
    if stamp.exists() and stamp.read_text() == "\n".join(packages):
        return place / "bin" / "python"
    shutil.rmtree(place, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    pip(place / "bin" / "python", "install", *packages)
    stamp.write_text("\n".join(packages))
    return place / "bin" / "python"


def pip(python, *arguments):
    command = [python, "-m", "pip", "-q", "--disable-pip-version-check", *arguments]
    for attempt in range(3):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            return
        time.sleep(2 * attempt)
    raise Failed(f"pip {' '.join(arguments)}: {done.stdout}{done.stderr}")


def sdist(package, folder):
    """The unpacked source distribution: it holds the tests."""
    place = CACHE / folder
    if not place.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as directory:
            pip(sys.executable, "download", "--no-deps", "--no-binary", ":all:", "-d", directory, package)
            archive = next(pathlib.Path(directory).iterdir())
            shutil.unpack_archive(archive, directory)
            unpacked = next(path for path in pathlib.Path(directory).iterdir() if path.is_dir())
            unpacked.rename(place)
    return place


def run(command, cwd, environment, log, timeout):
    with log.open("w") as out:
        try:
            done = subprocess.run(command, cwd=cwd, env=environment, stdout=out, stderr=subprocess.STDOUT, timeout=timeout,
                                  stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            raise Failed(f"{' '.join(map(str, command))} took longer than {timeout} s; {log}") from None
    return done.returncode, log.read_text(errors="replace")


# A line of unittest at verbosity 2: `test_x (module.Class.test_x)`, perhaps a docstring line, ` ... ok`.
UNITTEST = re.compile(r"^(\w+) \(([\w.]+)\)(?:\n[^\n]*?)?(?:[^\n]*?) \.\.\. ", re.M)


def unittest_outcomes(text):
    """Outcomes by name from the closing report: failures by name, the number of tests, skips."""
    failures = {}
    for kind, name in re.findall(r"^(FAIL|ERROR|UNEXPECTED SUCCESS): ([^\n]+)$", text, re.M):
        failures[re.sub(r"\s*\[.*", "", name)] = kind
    ran = re.findall(r"^Ran (\d+) tests?", text, re.M)
    skipped = re.findall(r"skipped=(\d+)", text)
    if not ran:
        raise Failed(f"no tests ran:\n{text[-3000:]}")
    return {"failures": failures, "ran": int(ran[-1]), "skipped": int(skipped[-1]) if skipped else 0}


def pytest_outcomes(text):
    failures = {name: kind for kind, name in re.findall(r"^(FAILED|ERROR) (\S+)", text, re.M)}
    counts = dict((word, int(n)) for n, word in re.findall(r"(\d+) (passed|failed|errors?|skipped|xfailed|deselected)", text.splitlines()[-1] if text else ""))
    ran = sum(counts.get(word, 0) for word in ("passed", "failed", "error", "errors", "xfailed"))
    if not ran:
        raise Failed(f"no tests ran:\n{text[-3000:]}")
    return {"failures": failures, "ran": ran, "skipped": counts.get("skipped", 0)}


SUITES = {}


def suite(name):
    def register(function):
        SUITES[name] = function
        return function
    return register


DJANGO = "5.2.19"
# What CI runs: the modules in which a pooler can make a difference.
DJANGO_CI = """backends transactions transaction_hooks queries select_for_update basic get_or_create bulk_create
  schema indexes constraints delete update aggregation expressions lookup many_to_many one_to_one
  prefetch_related postgres_tests introspection servers test_utils cache sessions_tests test_runner
  force_insert_update async from_db_value raw_query""".split()


def django(where, options, log, driver, extra=None, parallel=1):
    packages = [f"Django=={DJANGO}", "psycopg[binary]==3.3.9", "psycopg2-binary==2.9.13", "tblib", "jinja2", "Pillow",
                "PyYAML", "sqlparse", "tzdata", "numpy", "aiosmtpd", "argon2-cffi", "bcrypt", "docutils", "geoip2",
                "pymemcache", "pywatchman", "redis", "selenium"]
    packages = [p for p in packages if not p.startswith(("pywatchman", "geoip2", "redis", "selenium", "pymemcache"))]
    if driver == "psycopg2":
        packages = [p for p in packages if not p.startswith("psycopg[")]
    python = venv("django-psycopg2" if driver == "psycopg2" else "django", packages)
    source = sdist(f"Django=={DJANGO}", f"django-{DJANGO}")
    where.cluster.fresh("suite_django")
    where.cluster.fresh("suite_django")
    where.cluster.psql('CREATE DATABASE "suite_django_other"')
    settings = log.parent / "suite_settings.py"
    database = {"ENGINE": "django.db.backends.postgresql", "HOST": where.host, "PORT": str(where.port),
                "USER": "postgres", "PASSWORD": where.cluster.password, "OPTIONS": extra or {}}
    databases = {"default": {**database, "NAME": "suite_django"}, "other": {**database, "NAME": "suite_django_other"}}
    settings.write_text(f"DATABASES = {databases!r}\nSECRET_KEY = 'suite'\nUSE_TZ = False\n"
                        "PASSWORD_HASHERS = ['django.contrib.auth.hashers.MD5PasswordHasher']\n"
                        "DEFAULT_AUTO_FIELD = 'django.db.models.AutoField'\n")
    labels = options.labels or (DJANGO_CI if options.ci else [])
    command = [python, "runtests.py", "--settings", "suite_settings", "--noinput", f"--parallel={parallel}", *labels]
    environment = where.environment(PYTHONPATH=str(settings.parent), RUNNING_DJANGOS_TEST_SUITE="true")
    _, text = run(command, source / "tests", environment, log, 3000)
    return unittest_outcomes(text)


suite("django")(lambda where, options, log: django(where, options, log, "psycopg3"))
suite("django-parallel")(lambda where, options, log: django(where, options, log, "psycopg3", parallel=2))
suite("django-server-binding")(
    lambda where, options, log: django(where, options, log, "psycopg3", {"server_side_binding": True}))
suite("django-psycopg2")(lambda where, options, log: django(where, options, log, "psycopg2"))


@suite("psycopg2")
def psycopg2(where, options, log):
    python = venv("psycopg2", ["psycopg2-binary==2.9.13"])
    source = sdist("psycopg2==2.9.13", "psycopg2-2.9.13")
    where.cluster.fresh("suite_psycopg2")
    where.cluster.psql("CREATE EXTENSION IF NOT EXISTS hstore", "suite_psycopg2")
    where.cluster.catch_up()
    environment = where.environment(
        PSYCOPG2_TESTDB="suite_psycopg2", PSYCOPG2_TESTDB_HOST=where.host, PSYCOPG2_TESTDB_PORT=where.port,
        PSYCOPG2_TESTDB_USER="postgres", PGPASSWORD=where.cluster.password, PSYCOPG2_TEST_FAST="1" if options.ci else "")
    program = "import tests, unittest; unittest.main(defaultTest='tests.test_suite', argv=['tests', '-v'])"
    _, text = run([python, "-c", program], source, environment, log, 900)
    return unittest_outcomes(text)


@suite("asyncpg")
def asyncpg(where, options, log):
    python = venv("asyncpg", ["asyncpg==0.31.0", "pytest==8.4.2", "pytest-timeout", "distro", "uvloop"])
    source = sdist("asyncpg==0.31.0", "asyncpg-0.31.0")
    # The tests by themselves: the package beside them is not built.
    tests = log.parent / f"asyncpg-{where.name}"
    shutil.copytree(source / "tests", tests / "tests")
    where.cluster.fresh("suite_asyncpg")
    environment = where.environment(**where.libpq("suite_asyncpg"))
    # Tests of the source tree, and of clusters that the suite starts by itself, say nothing of a server.
    command = [python, "-m", "pytest", "-q", "-rfE", "--timeout=120", "-p", "no:cacheprovider", "tests",
               "--deselect", "tests/test__sourcecode.py", "--deselect", "tests/test__environment.py"]
    _, text = run(command, tests, environment, log, 1200)
    return pytest_outcomes(text)


@suite("sqlalchemy")
def sqlalchemy(where, options, log):
    python = venv("sqlalchemy", ["SQLAlchemy==2.0.44", "pytest==8.4.2", "pytest-xdist", "psycopg[binary]==3.3.9",
                                 "psycopg2-binary==2.9.13", "asyncpg==0.31.0", "greenlet"])
    source = sdist("SQLAlchemy==2.0.44", "sqlalchemy-2.0.44")
    total = {"failures": {}, "ran": 0, "skipped": 0}
    for driver in ("psycopg",) if options.ci else ("psycopg", "psycopg2", "asyncpg"):
        where.cluster.fresh("suite_sqlalchemy")
        for schema in ("test_schema", "test_schema_2"):
            where.cluster.psql(f"CREATE SCHEMA {schema}", "suite_sqlalchemy")
        where.cluster.psql("CREATE EXTENSION IF NOT EXISTS hstore; CREATE EXTENSION IF NOT EXISTS citext", "suite_sqlalchemy")
        where.cluster.psql("ALTER DATABASE suite_sqlalchemy SET default_text_search_config = 'pg_catalog.english'")
        where.cluster.catch_up()
        uri = f"postgresql+{driver}://postgres:{where.cluster.password}@{where.host}:{where.port}/suite_sqlalchemy"
        targets = ["test/dialect/postgresql", "test/engine", "test/sql/test_insert_exec.py", "test/sql/test_returning.py",
                   "test/orm/test_transaction.py", "test/dialect/test_suite.py"]
        if options.ci:
            targets = ["test/dialect/postgresql", "test/engine/test_transaction.py", "test/engine/test_reconnect.py"]
        command = [python, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider", "--dburi", uri, *targets]
        _, text = run(command, source, where.environment(), log.with_suffix(f".{driver}.log"), 2400)
        outcome = pytest_outcomes(text)
        total["failures"].update({f"{driver}: {name}": kind for name, kind in outcome["failures"].items()})
        total["ran"] += outcome["ran"]
        total["skipped"] += outcome["skipped"]
    return total


@suite("pgbench")
def pgbench(where, options, log):
    where.cluster.fresh("suite_pgbench")
    environment = where.environment(**where.libpq("suite_pgbench"))
    program = where.cluster.programs / "pgbench"
    code, text = run([program, "-i", "-q", "-s", "2"], log.parent, environment, log, 120)
    failures = {} if code == 0 else {"init": text[-500:]}
    script = log.parent / "pipeline.sql"
    script.write_text("\\set aid random(1, 200000)\n\\startpipeline\nBEGIN;\nSELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n"
                      "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;\nCOMMIT;\n"
                      "SELECT :aid;\n\\endpipeline\n")
    ran = 1
    for mode in ("simple", "extended", "prepared"):
        for name, arguments in {"tpcb": [], "select": ["-S"], "update": ["-N"], "reconnect": ["-S", "-C"],
                                "pipeline": ["-f", str(script)]}.items():
            if name == "pipeline" and mode == "simple":
                continue
            ran += 1
            clients = "10" if name == "reconnect" else "50"
            command = [program, "-n", "-M", mode, *arguments, "-c", clients, "-j", "2", "-t", "40"]
            code, text = run(command, log.parent, environment, log, 300)
            if code != 0 or "aborted" in text or "error:" in text:
                failures[f"{mode} {name}"] = text[-800:]
    balances = where.cluster.psql(
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts) IS NOT NULL AND "
        "(SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(tbalance) FROM pgbench_tellers)", "suite_pgbench")
    if balances.strip() != "t":
        failures["sums"] = "branches and tellers differ"
    return {"failures": failures, "ran": ran + 1, "skipped": 0}


@suite("dump")
def dump(where, options, log):
    """pg_dump | psql and pg_restore: what comes out is what went in; psql's own features."""
    where.cluster.fresh("suite_source")
    where.cluster.psql('CREATE DATABASE "suite_target"')
    where.cluster.psql('CREATE DATABASE "suite_restored"')
    where.cluster.psql((HERE / "objects.sql").read_text(), "suite_source")
    where.cluster.catch_up()
    failures, ran = {}, 0
    programs = where.cluster.programs

    def step(name, command, check=lambda text: True, **more):
        nonlocal ran
        ran += 1
        code, text = run(command, log.parent, where.environment(**where.libpq("suite_source")), log.with_suffix(f".{name}.log"), 300)
        if code != 0 or not check(text):
            failures[name] = f"exit {code}: {text[-1500:]}"
        return text

    def plain(port, database):
        command = [programs / "pg_dump", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", database]
        done = subprocess.run(command, env={**os.environ, "PGPASSWORD": where.cluster.password}, capture_output=True, text=True)
        if done.returncode:
            raise Failed(done.stderr)
        return "\n".join(line for line in done.stdout.splitlines() if not line.startswith(("--", "\\restrict", "\\unrestrict")))

    expected = plain(where.cluster.port, "suite_source")
    through = plain(where.port, "suite_source")
    ran += 1
    if through != expected:
        failures["pg_dump"] = "the dump differs"
    dump_file = log.parent / "dump.sql"
    dump_file.write_text(through)
    step("psql", [programs / "psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-d", "suite_target", "-f", str(dump_file)])
    archive = log.parent / f"dump-{where.name}"
    step("directory", [programs / "pg_dump", "-Fd", "-j", "2", "-f", str(archive), "suite_source"])
    step("restore", [programs / "pg_restore", "-j", "4", "--exit-on-error", "-d", "suite_restored", str(archive)])
    for name in ("suite_target", "suite_restored"):
        ran += 1
        if plain(where.cluster.port, name) != expected:
            failures[name] = "what was restored differs"
    features = log.parent / "features.sql"
    features.write_text("\\d\n\\d+ item\n\\df\n\\dt *.*\n\\l\n\\du\n\\conninfo\n\\copy (SELECT * FROM item) TO 'copied.csv' CSV\n"
                        "CREATE TEMP TABLE c (LIKE item);\n\\copy c FROM 'copied.csv' CSV\nSELECT count(*) = (SELECT count(*) FROM item) AS same FROM c \\gset\n"
                        "\\echo copied :same\nSELECT 'SELECT ' || g AS s FROM generate_series(1, 3) g \\gexec\n"
                        "BEGIN;\nSAVEPOINT a;\nSELECT 1/0;\nROLLBACK TO a;\nSELECT 'still here' AS x;\nCOMMIT;\n"
                        "SELECT 1 AS watched \\watch 0.1\n")
    text = step("features", [programs / "timeout-none" if False else "timeout", "5", programs / "psql", "-X", "-f", str(features)],
                check=lambda text: True) if False else None
    del text
    code, text = run(["timeout", "4", programs / "psql", "-X", "-f", str(features)], log.parent,
                     where.environment(**where.libpq("suite_source")), log.with_suffix(".features.log"), 60)
    ran += 1
    # timeout ends \watch, which goes on for ever.
    if code != 124 or "copied t" not in text or "still here" not in text or text.count("watched") < 5:
        failures["features"] = f"exit {code}: {text[-1500:]}"
    return {"failures": failures, "ran": ran, "skipped": 0}


@suite("node")
def node(where, options, log):
    """node-postgres and postgres.js: exercises of ours, with node's own test runner."""
    source = HERE / "node"
    place = CACHE / "node"
    place.mkdir(parents=True, exist_ok=True)
    if not (place / "package-lock.json").exists() or (place / "package-lock.json").read_text() != (source / "package-lock.json").read_text():
        for name in ("package.json", "package-lock.json"):
            shutil.copy(source / name, place)
        done = subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--silent"], cwd=place, capture_output=True, text=True)
        if done.returncode:
            (place / "package-lock.json").unlink()
            raise Failed(f"npm ci: {done.stdout}{done.stderr}")
    shutil.copy(source / "exercise.test.mjs", place)
    where.cluster.fresh("suite_node")
    environment = where.environment(**where.libpq("suite_node"))
    _, text = run(["node", "--test", "--test-reporter=tap", "exercise.test.mjs"], place, environment, log, 300)
    names = re.findall(r"^\s*(not ok|ok) \d+ - (.+?)(?: # .*)?$", text, re.M)
    names = [(state, name) for state, name in names if not name.endswith(".mjs")]
    if not names:
        raise Failed(f"no tests ran:\n{text[-3000:]}")
    return {"failures": {name: "not ok" for state, name in names if state == "not ok"}, "ran": len(names), "skipped": 0}


@suite("rust")
def rust(where, options, log):
    """tokio-postgres and sqlx: exercises of ours in a package of its own."""
    where.cluster.fresh("suite_rust")
    environment = where.environment(**where.libpq("suite_rust"), CARGO_TARGET_DIR=CACHE / "rust")
    command = ["cargo", "test", "--locked", "--manifest-path", HERE / "rust" / "Cargo.toml", "--", "--test-threads=4"]
    _, text = run(command, log.parent, environment, log, 1200)
    names = re.findall(r"^test (\S+) \.\.\. (ok|FAILED)", text, re.M)
    if not names:
        raise Failed(f"no tests ran:\n{text[-3000:]}")
    return {"failures": {name: state for name, state in names if state == "FAILED"}, "ran": len(names), "skipped": 0}


CI = ["django", "django-parallel", "psycopg2", "asyncpg", "sqlalchemy", "pgbench", "dump", "node", "rust"]


def known(name):
    lines = [line.split("|") for line in KNOWN.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return [re.compile(pattern.strip()) for suite_name, pattern, _ in lines if suite_name.strip() == name]


def compare(name, cluster, options, directory):
    begun = time.monotonic()
    outcomes, seconds = {}, {}
    reference = directory / f"{name}-direct.log"
    started = time.monotonic()
    outcomes["direct"] = SUITES[name](Where(cluster, "direct", cluster.port), options, reference)
    seconds["direct"] = time.monotonic() - started
    pooler_log = directory / f"{name}-pgweir.log"
    with pgweir(cluster, options, pooler_log) as port:
        started = time.monotonic()
        outcomes["through"] = SUITES[name](Where(cluster, "through", port), options, directory / f"{name}-through.log")
        seconds["through"] = time.monotonic() - started
    direct, through = outcomes["direct"], outcomes["through"]
    patterns = known(name)
    new = {test: kind for test, kind in through["failures"].items() if test not in direct["failures"]}
    explained = [test for test in new if any(pattern.search(test) for pattern in patterns)]
    unexplained = {test: kind for test, kind in new.items() if test not in explained}
    if through["ran"] < direct["ran"]:
        unexplained["(number of tests)"] = f"{direct['ran']} direct, {through['ran']} through"
    unclean = [line for line in pooler_log.read_text().splitlines() if "came back unclean" in line]
    if unclean:
        unexplained["(check-in)"] = f"{len(unclean)} server connections came back unclean: {unclean[0]}"
    row = (f"| {name} | {direct['ran']} | {len(direct['failures'])} | {len(through['failures'])} | "
           f"{len(explained)} | {len(unexplained)} | {seconds['direct']:.0f} | {seconds['through']:.0f} |")
    say(f"{name}: {direct['ran']} tests, {len(direct['failures'])} fail direct, {len(new)} more through pgweir "
        f"({len(explained)} explained), {time.monotonic() - begun:.0f} s")
    for test, kind in unexplained.items():
        say(f"  DIFFERS: {test}: {kind}")
    return row, unexplained


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SUITES)}")
    parser.add_argument("--ci", action="store_true", help="the selection that CI runs; without names all of its suites")
    parser.add_argument("--rotate", action="store_true", help="each transaction on another server connection")
    parser.add_argument("--primary-only", action="store_true", help="without replicas")
    parser.add_argument("--labels", nargs="*", help="only these of Django's test modules")
    parser.add_argument("--logs", help="keep the logs in this directory")
    options = parser.parse_args()
    names = options.names or (CI if options.ci else [])
    if unknown := [name for name in names if name not in SUITES]:
        parser.error(f"no such suite: {', '.join(unknown)}; there are {', '.join(SUITES)}")
    if not names:
        parser.error("name a suite, or --ci")
    rows, bad = [], {}
    with tempfile.TemporaryDirectory() as temporary, cluster() as servers:
        directory = pathlib.Path(options.logs or temporary).resolve()
        directory.mkdir(parents=True, exist_ok=True)
        for name in names:
            with tempfile.TemporaryDirectory(dir=directory) as work:
                try:
                    row, unexplained = compare(name, servers, options, pathlib.Path(work))
                    rows.append(row)
                    bad.update({f"{name}: {test}": kind for test, kind in unexplained.items()})
                except Failed as failure:
                    say(f"{name}: {failure}")
                    bad[name] = "failed"
                if options.logs:
                    for log in pathlib.Path(work).glob("*.log"):
                        shutil.copy(log, directory)
    print("\n| suite | tests | fail direct | fail through | explained | unexplained | s direct | s through |\n|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))
    if bad:
        print(f"\n{len(bad)} unexplained differences", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
