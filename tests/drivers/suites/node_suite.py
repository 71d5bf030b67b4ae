"""node-postgres and postgres.js: exercises of ours, run by node's own test runner."""

import re
import shutil
import subprocess
import time

import outcomes
import tools
from servers import Failed

SOURCE = tools.HERE.parent / "node"
# `ok 3 - a name # SKIP why`: the reporter nests a file's tests one level deep.
LINE = re.compile(r"^\s*(not ok|ok) \d+ - (.*?)(?: # (SKIP|TODO).*)?$")


class Variant:
    def __init__(self, file, name):
        self.file, self.name = file, name

    def __str__(self):
        return self.name

    def versions(self):
        return f"node {subprocess.check_output(['node', '--version'], text=True).strip().lstrip('v')}"

    def prepared(self):
        return installed()

    def run(self, target, selection, log):
        modules = self.prepared()
        target.servers.fresh_databases("node")
        begun = time.monotonic()
        command = ["node", "--test", "--test-reporter=tap", "--test-timeout=60000", modules / self.file]
        with open(log, "w") as out:
            code = tools.bounded(command, modules, target.environment("node"), out, 300)
        run = outcomes.Run()
        said = log.read_text(errors="replace")
        for line in said.splitlines():
            if found := LINE.match(line):
                ok, name, skipped = found.groups()
                if not name.endswith(self.file):
                    detail = "\n".join(said[said.index(line):].splitlines()[:40])
                    run.add(name, outcomes.SKIPPED if skipped else outcomes.PASSED if ok == "ok" else outcomes.FAILED, detail)
        if not run.tests or code != (1 if run.count(outcomes.FAILED) else 0):
            run.add("(the run as a whole)", outcomes.FAILED, f"ended with {code}:\n{said[-3000:]}")
        run.seconds = time.monotonic() - begun
        return run


def installed():
    """A copy of the exercises with their modules, exactly those of the lock file."""
    place = tools.CACHE / "node"
    lock, stamp = SOURCE / "package-lock.json", place / "node_modules" / ".installed"
    if not (stamp.exists() and stamp.read_bytes() == lock.read_bytes()):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(SOURCE, place)
        done = subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--silent"], cwd=place, capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"npm ci: {done.stdout}{done.stderr}")
        shutil.copy(lock, stamp)
    for file in SOURCE.glob("*.mjs"):
        shutil.copy(file, place)
    return place


def variants(_selection):
    return [Variant("node-postgres.test.mjs", "node-postgres"), Variant("postgres-js.test.mjs", "postgres.js")]
