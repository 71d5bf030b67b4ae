"""tokio-postgres and sqlx: exercises of ours, in a package of their own."""

import os
import re
import subprocess
import time

import outcomes
import tools

SOURCE = tools.HERE.parent / "rust"
ENVIRON = {"CARGO_TARGET_DIR": str(tools.CACHE / "rust"), "CARGO_INCREMENTAL": "0"}
LINE = re.compile(r"^test (\S+) \.\.\. (ok|FAILED|ignored)", re.M)


class Variant:
    def __init__(self, test):
        self.test = test
        self.name = test.replace("_", "-")

    def __str__(self):
        return self.name

    def versions(self):
        lock = (SOURCE / "Cargo.lock").read_text()
        version = re.search(rf'name = "{self.name}"\nversion = "([^"]+)"', lock)
        return f"{self.name} {version[1]}"

    def prepared(self):
        return subprocess.run([*self.cargo(), "--quiet", "--no-run"], cwd=SOURCE, env=os.environ | ENVIRON, check=True)

    def cargo(self):
        return ["cargo", "test", "--locked", "--manifest-path", SOURCE / "Cargo.toml", "--test", self.test]

    def run(self, target, _selection, log):
        environ, cargo = target.environment("rust", **ENVIRON), self.cargo()
        with open(log, "w") as out:
            built = tools.bounded([*cargo, "--no-run"], SOURCE, environ, out, 1200)
        run = outcomes.Run()
        if built:
            run.add("(building)", outcomes.FAILED, log.read_text()[-3000:])
            return run
        target.servers.fresh_databases("rust")
        begun = time.monotonic()
        with open(log, "w") as out:
            code = tools.bounded([*cargo, "--", "--test-threads=4"], SOURCE, environ, out, 300)
        said = log.read_text()
        kinds = {"ok": outcomes.PASSED, "FAILED": outcomes.FAILED, "ignored": outcomes.SKIPPED}
        for name, kind in LINE.findall(said):
            _, _, detail = said.partition(f"---- {name} stdout ----")
            run.add(name, kinds[kind], detail[:2000])
        if not run.tests or bool(code) != bool(run.count(outcomes.FAILED)):
            run.add("(the run as a whole)", outcomes.FAILED, f"ended with {code}:\n{said[-3000:]}")
        run.seconds = time.monotonic() - begun
        return run


def variants(_selection):
    return [Variant("tokio_postgres"), Variant("sqlx")]
