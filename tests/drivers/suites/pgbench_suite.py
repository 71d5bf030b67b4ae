"""pgbench: fifty clients over a pool of five, in every protocol, and sums that must be right afterwards."""

import subprocess
import time

import outcomes

CLIENTS, THREADS = 50, 2
# Several statements in flight, a change among them, and an answer that depends on it.
PIPELINE = r"""\set aid random(1, 200000)
\startpipeline
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
INSERT INTO pipelined (aid) VALUES (:aid);
COMMIT;
SELECT count(*) FROM pgbench_branches;
\endpipeline
"""
# What a client has just written it must see, and a setting must be there in the next transaction.
OWN_WRITES = r"""\set n random(1, 1000000)
SET work_mem = '5MB';
INSERT INTO written (n) VALUES (:n);
SELECT (count(*) > 0)::int AS seen FROM written WHERE n = :n \gset
SELECT 1 / (:seen = 1 AND current_setting('work_mem') = '5MB')::int;
"""


class Variant:
    name = "pgbench"
    pool = {"pool_size": 5}

    def __str__(self):
        return self.name

    def versions(self):
        return "PostgreSQL 15"

    def run(self, target, selection, log):
        begun = time.monotonic()
        servers = target.servers
        servers.fresh_databases("bench")
        transactions = 40 if selection == "ci" else 400
        run = outcomes.Run()
        out = open(log, "w")
        program = servers.programs / "pgbench"

        def check(name, *arguments, counts=None):
            done = subprocess.run(
                [program, *map(str, arguments)], env=target.environment("bench"), cwd=log.parent, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
            out.write(f"--- {name}\n{done.stdout}\n")
            whole = counts is None or f"actually processed: {counts}/{counts}" in done.stdout
            bad = done.returncode or "error:" in done.stdout or "aborted" in done.stdout or not whole
            run.add(name, outcomes.FAILED if bad else outcomes.PASSED, done.stdout[-2000:])

        check("initialize", "-i", "-q", "-s", 2, "--foreign-keys", "--partitions=2")
        servers.psql("CREATE TABLE pipelined (aid int); CREATE TABLE written (n int)", "bench")
        servers.catch_up()
        scripts = {"pipeline": log.with_suffix(".pipeline.sql"), "own writes": log.with_suffix(".own.sql")}
        scripts["pipeline"].write_text(PIPELINE)
        scripts["own writes"].write_text(OWN_WRITES)
        kinds = {"tpcb-like": ["-b", "tpcb-like"], "simple-update": ["-b", "simple-update"], "select-only": ["-b", "select-only"]}
        kinds |= {name: ["-f", path] for name, path in scripts.items()}
        pipelined = 0
        for protocol in ("simple", "extended", "prepared"):
            for kind, arguments in kinds.items():
                if kind == "pipeline" and protocol == "simple":
                    continue
                if kind == "pipeline":
                    pipelined += CLIENTS * transactions
                count = ["-n", "-M", protocol, "-c", CLIENTS, "-j", THREADS, "-t", transactions]
                check(f"{protocol}: {kind}", *count, *arguments, counts=CLIENTS * transactions)
            count = ["-n", "-M", protocol, "-c", 10, "-j", THREADS, "-t", 20, "-C", "-b", "select-only"]
            check(f"{protocol}: a connection for each transaction", *count, counts=200)
        # Six runs have changed the balances of tellers and branches by the same amounts.
        sums = "SELECT (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(bbalance) FROM pgbench_branches)"
        sums += f" AND (SELECT count(*) FROM pipelined) = {pipelined}"
        sums += f" AND (SELECT count(*) FROM written) = {3 * CLIENTS * transactions}"
        sums += f" AND (SELECT count(*) FROM pgbench_history) = {6 * CLIENTS * transactions}"
        right = servers.psql(sums, "bench")
        run.add("every sum agrees", outcomes.PASSED if right == "t" else outcomes.FAILED, sums)
        out.close()
        run.seconds = time.monotonic() - begun
        return run


def variants(_selection):
    return [Variant()]
