"""What became of each test of a run, and how two runs differ.

A recorder inside the suite's own runner writes one JSON object a line: {"test": …, "outcome": …,
"detail": …}. Outcomes are passed, failed, skipped; an expected failure counts as passed. A test that
only "started" never came to its end.
"""

import collections
import dataclasses
import fnmatch
import json
import pathlib

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
KNOWN = pathlib.Path(__file__).with_name("known_differences.txt")


@dataclasses.dataclass
class Run:
    """Outcomes by test, in the order they came."""

    tests: dict = dataclasses.field(default_factory=dict)
    details: dict = dataclasses.field(default_factory=dict)
    seconds: float = 0.0

    def add(self, test, outcome, detail=""):
        # A test may report twice (its body, its teardown, its subtests): the worst counts.
        order = (PASSED, SKIPPED, FAILED)
        before = self.tests.get(test)
        if before is None or order.index(outcome) > order.index(before):
            self.tests[test] = outcome
        if outcome == FAILED:
            self.details[test] = (self.details.get(test, "") + "\n" + detail).strip()

    def count(self, outcome):
        return collections.Counter(self.tests.values())[outcome]


def read(path):
    """The lines of a recorder; the last may be cut off when the suite was killed."""
    run, started = Run(), set()
    for line in pathlib.Path(path).read_text().splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if said["outcome"] == "started":
            started.add(said["test"])
        else:
            run.add(said["test"], said["outcome"], said.get("detail", ""))
    for test in started - set(run.tests):
        run.add(test, FAILED, "it began and did not end")
    return run


@dataclasses.dataclass
class Known:
    """One line of known_differences.txt."""

    suite: str
    test: str
    reason: str
    seen: bool = False

    def covers(self, suite, test):
        return fnmatch.fnmatchcase(suite, self.suite) and fnmatch.fnmatchcase(test, self.test)


def known_differences(path=KNOWN):
    known = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = [part.strip() for part in line.split(" | ")]
        if len(parts) != 3 or not all(parts):
            raise ValueError(f"{path.name}:{number}: not `suite | test | reason`")
        known.append(Known(*parts))
    return known


@dataclasses.dataclass
class Difference:
    """A test that did not do the same through pgweir as directly."""

    test: str
    directly: str
    through: str
    detail: str
    reason: str | None

    @property
    def excused(self):
        return self.reason is not None

    def __str__(self):
        return f"{self.test}: directly {self.directly}, through pgweir {self.through}"


def compare(suite, directly, through, known):
    """All differences but for failures that pgweir takes away."""
    differences = []
    for test in dict.fromkeys([*directly.tests, *through.tests]):
        before, after = directly.tests.get(test, "not run"), through.tests.get(test, "not run")
        if before == after or (before == FAILED and after == PASSED):
            continue
        entry = next((entry for entry in known if entry.covers(suite, test)), None)
        if entry:
            entry.seen = True
        detail = through.details.get(test) or directly.details.get(test, "")
        differences.append(Difference(test, before, after, detail, entry.reason if entry else None))
    return differences
