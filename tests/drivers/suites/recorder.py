"""Records outcomes from inside a suite's own runner: a pytest plugin, and a test runner for Django.

PGWEIR_OUTCOMES names the file. Nothing here may change what a test does.
"""

import json
import os

_out = None


def record(test, outcome, detail=""):
    global _out
    if _out is None:
        _out = open(os.environ["PGWEIR_OUTCOMES"], "a", buffering=1)
    _out.write(json.dumps({"test": test, "outcome": outcome, "detail": str(detail)[-6000:]}) + "\n")


# --- pytest ---


def pytest_configure(config):
    # Where several processes share the tests (pytest-xdist), the one that started the others is told all of theirs.
    if hasattr(config, "workerinput"):
        config.pluginmanager.unregister(name="recorder")


def pytest_runtest_logstart(nodeid, location):
    record(nodeid, "started")


def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        expected = hasattr(report, "wasxfail")
        outcome = "passed" if expected and report.when == "call" else report.outcome
        record(report.nodeid, outcome, "" if outcome == "passed" else report.longrepr)


def pytest_collectreport(report):
    if report.failed:
        record(report.nodeid + " (collecting)", "failed", report.longrepr)


# --- Django ---


def result_class(base):
    """`base` that also records; with --parallel the events of the workers are replayed into it."""

    class Recording(base):
        def startTest(self, test):
            record(test.id(), "started")
            super().startTest(test)

        def addSuccess(self, test):
            record(test.id(), "passed")
            super().addSuccess(test)

        def addExpectedFailure(self, test, err):
            record(test.id(), "passed")
            super().addExpectedFailure(test, err)

        def addUnexpectedSuccess(self, test):
            record(test.id(), "failed", "unexpected success")
            super().addUnexpectedSuccess(test)

        def addSkip(self, test, reason):
            record(test.id(), "skipped")
            super().addSkip(test, reason)

        def addError(self, test, err):
            super().addError(test, err)
            record(test.id(), "failed", self.errors[-1][1] if self.errors else "")

        def addFailure(self, test, err):
            super().addFailure(test, err)
            record(test.id(), "failed", self.failures[-1][1] if self.failures else "")

        def addSubTest(self, test, subtest, err):
            super().addSubTest(test, subtest, err)
            if err is not None:
                said = (self.failures + self.errors)[-1:]
                record(test.id(), "failed", f"{subtest}\n" + (said[0][1] if said else ""))

    return Recording


def __getattr__(name):
    # Django is there only where its suite runs.
    if name != "DjangoRunner":
        raise AttributeError(name)
    import unittest

    from django.test.runner import DiscoverRunner

    class DjangoRunner(DiscoverRunner):
        def get_resultclass(self):
            return result_class(super().get_resultclass() or unittest.TextTestResult)

    return DjangoRunner
