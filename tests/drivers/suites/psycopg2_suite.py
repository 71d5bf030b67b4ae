"""psycopg2's own tests."""

import tools

VERSION = "2.9.13"


class Variant:
    name = "psycopg2"

    def __str__(self):
        return self.name

    def versions(self):
        return f"psycopg2 {VERSION}"

    def prepared(self):
        return tools.environment("python"), tools.tests_alone(tools.source("psycopg2", VERSION))

    def run(self, target, selection, log):
        python, tests = self.prepared()
        target.servers.fresh_databases("psycopg2_test")
        target.servers.psql("CREATE EXTENSION hstore", "psycopg2_test")
        target.servers.catch_up()
        # Without a fixed order hash seeds would decide about names in messages.
        environ = target.environment("psycopg2_test", PYTHONPATH=str(tools.HERE), PYTHONHASHSEED="0")
        environ["PSYCOPG2_TESTDB"] = "psycopg2_test"
        environ["PSYCOPG2_TEST_REPL_DSN"] = ""
        command = [python, "-m", "pytest", "-q", "-p", "recorder", "-p", "no:cacheprovider", "--continue-on-collection-errors", "tests", *tools.picked(selection)]
        return tools.recorded(command, tests, environ, log, 1200)


def variants(_selection):
    return [Variant()]
