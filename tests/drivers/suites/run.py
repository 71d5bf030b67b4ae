#!/usr/bin/env python3
"""Runs suites directly against PostgreSQL and through pgweir in transaction mode, and compares.

Every test must do the same in both runs, but for those that known_differences.txt excuses.
"""

import argparse
import contextlib
import datetime
import fnmatch
import importlib
import json
import pathlib
import signal
import subprocess
import sys

import outcomes
import servers
from servers import ROOT, Failed

NAMES = ("django", "django-sharded", "psycopg2", "asyncpg", "sqlalchemy", "node", "rust", "pgbench", "dump")
LOGS = ROOT / ".cache" / "suites" / "logs"


def say(text):
    print(text, flush=True)


def one(cluster, variant, options):
    """Both runs of one variant, and their differences."""
    LOGS.mkdir(parents=True, exist_ok=True)
    if getattr(variant, "has_own_servers", False):
        directly, through = variant.compared(options, LOGS)
        say(f"  {variant} directly: {summary(directly)}")
        say(f"  {variant} through pgweir: {summary(through)}")
        return directly, through
    # A run against the servers themselves is the same however pgweir is set up: it may be kept.
    kept = LOGS / f"{variant}.{options.selection.replace('/', '_')}.direct.json"
    if options.keep_direct and kept.exists():
        directly = outcomes.Run(**json.loads(kept.read_text()))
    else:
        directly = variant.run(servers.direct(cluster), options.selection, LOGS / f"{variant}.direct.log")
        kept.write_text(json.dumps(directly.__dict__))
    say(f"  {variant} directly: {summary(directly)}")
    # Two runs of nothing would be the same.
    if directly.count(outcomes.PASSED) <= len(directly.tests) // 2:
        raise Failed(f"the suite itself does not run: see {LOGS / f'{variant}.direct.log'}")
    log = LOGS / f"{variant}.pgweir-itself.log"
    more = {"extra": "routing: {transactions: replica_until_write}\n"} if options.until_write else {}
    more |= getattr(variant, "pool", {})
    with servers.pgweir(cluster, options.rotate, not options.primary_only, log, **more) as target:
        through = variant.run(target, options.selection, LOGS / f"{variant}.pgweir.log")
        routes = target.routes()
    say(f"  {variant} through pgweir: {summary(through)}")
    (LOGS / f"{variant}.routes.md").write_text(shares(routes))
    replicas = sum(count for (target, _), count in routes.items() if target == "replica")
    refused = sum(count for (_, reason), count in routes.items() if reason == "retried_read_only")
    say(f"  {sum(routes.values())} batches, {replicas} on replicas, {refused} refused there as writes")
    return directly, through


def shares(routes):
    """The same for people."""
    whole = max(sum(routes.values()), 1)
    lines = ["| target | reason | batches | share |", "|---|---|---|---|"]
    for (target, reason), count in routes.most_common():
        lines.append(f"| {target} | `{reason}` | {count} | {100 * count / whole:.1f} % |")
    return "\n".join(lines) + "\n"


def summary(run):
    counts = ", ".join(f"{run.count(kind)} {kind}" for kind in (outcomes.PASSED, outcomes.FAILED, outcomes.SKIPPED))
    return f"{len(run.tests)} tests, {counts} ({run.seconds:.0f} s)"


def row(variant, directly, through, differences):
    excused = sum(difference.excused for difference in differences)
    day = datetime.date.today().isoformat()
    return (
        f"| {variant} | {variant.versions()} | {len(directly.tests)} | {directly.count(outcomes.FAILED)} "
        f"| {through.count(outcomes.FAILED)} | {len(differences) - excused} | {excused} "
        f"| {directly.seconds:.0f} / {through.seconds:.0f} | {day} |"
    )


def show(differences, path):
    text = []
    for difference in differences:
        if not difference.excused:
            text.append(f"{difference}\n{difference.detail}\n")
    path.write_text("\n".join(text))
    for difference in [difference for difference in differences if not difference.excused][:40]:
        say(f"    {difference}")
        last = [line for line in difference.detail.splitlines() if line.strip()][-1:]
        say(f"        {last[0][:300] if last else ''}")


def main():
    parser = argparse.ArgumentParser(prog="scripts/drivers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES) + "; default: all of them")
    parser.add_argument("--selection", default="all", help="all, database, ci, or what the suite's own runner can select by")
    parser.add_argument("--variant", action="append", help="only these variants of a suite; may have wildcards")
    parser.add_argument("--list", action="store_true", help="name the variants and end")
    parser.add_argument("--prepare", action="store_true", help="install what they need and end")
    parser.add_argument("--rotate", action="store_true", help="each transaction on another server connection, checked when it returns")
    parser.add_argument("--primary-only", action="store_true", help="pgweir knows no replicas")
    parser.add_argument("--until-write", action="store_true", help="transactions begin on replicas (routing.transactions)")
    parser.add_argument("--keep-direct", action="store_true", help="compare with the last direct run instead of a new one")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no such suite: {', '.join(sorted(unknown))}")
    sys.stdout.reconfigure(line_buffering=True)
    # What we have started ends with us, also when a time limit ends us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))

    known, rows, failed, compared = outcomes.known_differences(), [], [], []
    chosen = [
        variant
        for name in options.names or NAMES
        for variant in importlib.import_module(f"{name.replace('-', '_')}_suite").variants(options.selection)
        if not options.variant or any(fnmatch.fnmatchcase(str(variant), pattern) for pattern in options.variant)
    ]
    if not chosen:
        parser.error("there is no such variant; --list names them")
    if options.list:
        say("\n".join(map(str, chosen)))
        return
    if options.prepare:
        for variant in chosen:
            if prepared := getattr(variant, "prepared", None):
                prepared()
        return
    shared = [variant for variant in chosen if not getattr(variant, "has_own_servers", False)]
    with servers.cluster() if shared else contextlib.nullcontext() as cluster:
        for variant in chosen:
            try:
                directly, through = one(cluster, variant, options)
            except (Failed, OSError, subprocess.SubprocessError) as failure:
                say(f"  {variant}: {failure} {getattr(failure, 'stderr', '') or ''}")
                failed.append(str(variant))
                continue
            differences = outcomes.compare(str(variant), directly, through, known)
            show(differences, LOGS / f"{variant}.differences.log")
            rows.append(row(variant, directly, through, differences))
            compared.append(str(variant))
            if any(not difference.excused for difference in differences):
                failed.append(str(variant))
    say("\n| suite | version | tests | fail directly | fail through pgweir | new differences | known differences | seconds | date |")
    say("|---|---|---|---|---|---|---|---|---|")
    say("\n".join(rows))
    if failed:
        sys.exit(f"FAILED: {', '.join(failed)} (logs in {LOGS.relative_to(ROOT)})")


if __name__ == "__main__":
    main()
