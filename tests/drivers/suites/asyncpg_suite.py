"""asyncpg's own tests, on our servers instead of those it starts itself."""

import tools

VERSION = "0.31.0"
# They start servers of their own, which PostgreSQL refuses to root: nothing of them would reach pgweir.
OWN_SERVERS = ["tests/test_connect.py::TestConnectionAttributes"]


class Variant:
    name = "asyncpg"

    def __str__(self):
        return self.name

    def versions(self):
        return f"asyncpg {VERSION}"

    def prepared(self):
        return tools.environment("python"), tools.tests_alone(tools.source("asyncpg", VERSION))

    def run(self, target, selection, log):
        python, tests = self.prepared()
        target.servers.fresh_databases("asyncpg")
        target.servers.drop_roles()
        environ = target.environment("asyncpg", PYTHONPATH=str(tools.HERE), PYTHONHASHSEED="0")
        command = [python, "-m", "pytest", "-q", "-p", "recorder", "-p", "no:cacheprovider", "--continue-on-collection-errors", "tests", *tools.picked(selection)]
        command += [part for test in OWN_SERVERS for part in ("--deselect", test)]
        return tools.recorded(command, tests, environ, log, 1800)


def variants(_selection):
    return [Variant()]
