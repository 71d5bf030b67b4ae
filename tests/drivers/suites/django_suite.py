"""Django's own test suite. Between the two runs only the port differs."""

import json

import tools

LTS, NEWEST = "5.2.19", "6.1.3"
# Heavy on transactions, cursors, DDL, clones of databases and the catalog.
CI_MODULES = (
    "backends transactions transaction_hooks postgres_tests migrations schema select_for_update basic delete bulk_create"
    " fixtures get_or_create test_runner servers introspection inspectdb constraints indexes db_functions.text"
).split()
# Binding on the server's side changes statements with parameters: what makes tables and databases is tried without it.
DDL_MODULES = {"migrations", "test_runner"}
DATABASE_MODULES = sorted({
    *CI_MODULES,
    *(
        "queries ordering aggregation aggregation_regress lookup many_to_many many_to_one prefetch_related expressions"
        " expressions_case expressions_window model_fields db_functions annotations async atomic_requests"
        " bulk_update cache composite_pk contenttypes_tests custom_columns custom_lookups custom_managers datatypes"
        " dates datetimes db_typecasts defer distinct_on_fields filtered_relation fixtures_regress force_insert_update"
        " foreign_object from_db_value invalid_models_tests lookup m2m_through migrate_signals migration_test_data_persistence"
        " multiple_database nested_foreign_keys null_queries or_lookups proxy_models raw_query reverse_lookup save_delete_hooks"
        " select_related sessions_tests signals timezones unmanaged_models update update_only_fields"
    ).split(),
})


class Variant:
    """One version of Django with one driver."""

    def __init__(self, version, driver, parallel):
        self.version, self.driver, self.parallel = version, driver, parallel
        short = version.rpartition(".")[0]
        self.name = f"django-{short}-{driver}" + ("-parallel" if parallel else "")

    def __str__(self):
        return self.name

    def versions(self):
        return f"Django {self.version}"

    def prepared(self):
        if self.version == LTS:
            python = tools.environment("python")
        else:
            python = tools.environment("django-newest", tools.newer_python((3, 12)))
        return python, tools.source("Django", self.version) / "tests"

    def run(self, target, selection, log):
        python, tests = self.prepared()
        target.servers.fresh_databases("django", "django_other")
        path = [str(tools.HERE)]
        if self.driver == "psycopg2":
            path.append(str(tools.HERE.parent / "django" / "without_psycopg3"))
        options = {"server_side_binding": True} if self.driver == "psycopg3-server" else {}
        environ = target.environment("django", PYTHONPATH=":".join(path), PGWEIR_DJANGO_OPTIONS=json.dumps(options))
        # The settings take them from there; libpq is to get everything from Django.
        environ.pop("PGDATABASE")
        command = [python, "runtests.py", "--settings=pgweir_settings", "--noinput", f"--parallel={self.parallel or 1}"]
        command += modules(selection, tests, DDL_MODULES if selection == "ci" and options else set())
        return tools.recorded(command, tests, environ, log, 3600)


def modules(selection, tests, without):
    if selection == "all":
        return []
    if selection in ("ci", "database"):
        wanted = CI_MODULES if selection == "ci" else DATABASE_MODULES
        return [module for module in wanted if module not in without and (tests / module.replace(".", "/")).exists()]
    return selection.split(",")


def variants(selection):
    if selection == "ci":
        return [Variant(LTS, "psycopg3", 2), Variant(LTS, "psycopg3-server", 2)]
    drivers = ("psycopg3", "psycopg3-server", "psycopg2")
    return [Variant(version, driver, parallel) for version in (LTS, NEWEST) for driver in drivers for parallel in (0, 2)]
