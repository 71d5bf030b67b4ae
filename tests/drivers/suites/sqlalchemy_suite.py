"""SQLAlchemy's tests of its PostgreSQL dialect, and those of its core that need a database."""

import tools

VERSION = "2.1.9"
DIALECT = ["test/dialect/postgresql", "test/dialect/test_suite.py"]
CORE = ["test/engine", "test/sql", "test/base"]
# Of the six ranges, whose 1,228 tests each are the same, that of int4 is enough in CI.
RANGES = [f"{kind}RangeRoundTripTest" for kind in ("Date", "DateTime", "DateTimeTZ", "Int8", "Num")]
# Schemas its README asks for.
SETUP = "CREATE SCHEMA test_schema; CREATE SCHEMA test_schema_2; CREATE EXTENSION hstore; CREATE EXTENSION citext;"


class Variant:
    def __init__(self, driver):
        self.driver = driver
        self.name = f"sqlalchemy-{driver}"

    def __str__(self):
        return self.name

    def versions(self):
        return f"SQLAlchemy {VERSION}"

    def prepared(self):
        source = tools.source("SQLAlchemy", VERSION)
        return tools.environment("python"), tools.tests_alone(source, "test", "setup.cfg", "pyproject.toml")

    def run(self, target, selection, log):
        python, tests = self.prepared()
        # Its conftest.py looks for the package beside the tests.
        packages = next((python.parents[1] / "lib").glob("python3*/site-packages"))
        if not (tests / "lib").exists():
            (tests / "lib").symlink_to(packages)
        target.servers.drop_roles()
        target.servers.fresh_databases("sqlalchemy")
        target.servers.psql(SETUP, "sqlalchemy")
        target.servers.psql("ALTER DATABASE sqlalchemy SET password_encryption = 'scram-sha-256'")
        target.servers.catch_up()
        url = f"postgresql+{self.driver}://postgres:{target.password}@127.0.0.1:{target.port}/sqlalchemy"
        environ = target.environment("sqlalchemy", PYTHONPATH=str(tools.HERE), PYTHONHASHSEED="0")
        which = DIALECT if selection in ("ci", "database") else DIALECT + CORE
        if selection == "ci":
            which = [*which, "-k", " and ".join(f"not {test}" for test in RANGES)]
        # Of the examples, which are not there.
        without = ["--ignore=test/base/test_examples.py"]
        command = [python, "-m", "pytest", "-q", "-p", "recorder", "-p", "no:cacheprovider", "--dburi", url]
        command += ["--numprocesses", "2", "--maxfail=1000000", "--backend-only", *without, *which, *tools.picked(selection)]
        return tools.recorded(command, tests, environ, log, 3000)


def variants(selection):
    drivers = ("psycopg",) if selection == "ci" else ("psycopg", "psycopg2", "asyncpg")
    return [Variant(driver) for driver in drivers]
