"""What the suites need: virtual environments and source distributions, under .cache/suites/."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

import outcomes
from servers import ROOT, Failed

HERE = pathlib.Path(__file__).resolve().parent
CACHE = ROOT / ".cache" / "suites"


def environment(name, python=None):
    """The virtual environment with the packages of requirements/NAME.txt; made when they changed."""
    wanted = HERE / "requirements" / f"{name}.txt"
    venv = CACHE / f"venv-{name}"
    stamp = venv / "requirements.txt"
    interpreter = venv / "bin" / "python"
    if not (interpreter.exists() and stamp.exists() and stamp.read_bytes() == wanted.read_bytes()):
        print(f"  making {venv.relative_to(ROOT)}", flush=True)
        shutil.rmtree(venv, ignore_errors=True)
        subprocess.run([python or sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([interpreter, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", wanted], check=True)
        shutil.copy(wanted, stamp)
    return interpreter


def source(package, version):
    """The directory of a package's source distribution from PyPI: where its tests are."""
    found = CACHE / f"{package}-{version}"
    if found.exists():
        return found
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "--ignore-requires-python"]
        subprocess.run([*command, "--no-binary", ":all:", "-d", scratch, f"{package}=={version}"], check=True)
        (archive,) = pathlib.Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(scratch, filter="data")
        (directory,) = (path for path in pathlib.Path(scratch).iterdir() if path.is_dir())
        directory.rename(found)
    return found


def newer_python(least):
    """A Python of at least this version, wherever one is usually found."""
    names = [f"python3.{minor}" for minor in range(least[1], least[1] + 4)]
    pyenv = pathlib.Path(os.environ.get("PYENV_ROOT", pathlib.Path.home() / ".pyenv"), "versions")
    candidates = [sys.executable, *filter(None, map(shutil.which, names)), *sorted(map(str, pyenv.glob("3.*/bin/python3")))]
    for candidate in candidates:
        with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
            said = subprocess.check_output(
                [candidate, "-c", "import sys, ensurepip; print(list(sys.version_info[:2]))"], text=True, stderr=subprocess.DEVNULL
            )
            if tuple(json.loads(said)) >= least:
                return candidate
    raise Failed(f"needs Python {least[0]}.{least[1]} or newer, and there is none on PATH or in pyenv")


def recorded(command, cwd, environ, log, limit, needs_tests=True):
    """Runs a suite whose runner has our recorder; gives what it recorded.

    A run that ends early is a failed test of its own: no outcome may be lost without a trace.
    """
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch, "outcomes")
        path.touch()
        environ = {**environ, "PGWEIR_OUTCOMES": str(path)}
        with open(log, "w") as out:
            code = bounded(command, cwd, environ, out, limit)
        run = outcomes.read(path)
    run.seconds = time.monotonic() - begun
    end = "\n".join(pathlib.Path(log).read_text(errors="replace").splitlines()[-40:])
    failures = run.count(outcomes.FAILED) > 0
    if code not in ((0, 1) if failures else (0,)) or (needs_tests and not run.tests):
        run.add("(the run as a whole)", outcomes.FAILED, f"ended with {code}:\n{end}")
    return run


def bounded(command, cwd, environ, out, limit):
    """The exit code of a command, or "timeout"; nothing it started survives it."""
    process = subprocess.Popen(
        [str(part) for part in command], cwd=cwd, env=environ, stdin=subprocess.DEVNULL, stdout=out,
        stderr=subprocess.STDOUT, start_new_session=True,
    )
    timer = threading.Timer(limit, lambda: os.killpg(process.pid, signal.SIGABRT))
    timer.start()
    try:
        code = process.wait()
    finally:
        ended_late = not timer.is_alive()
        timer.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return f"timeout after {limit} s" if ended_late else code


def tests_alone(source, *parts):
    """Only the tests of a source distribution: beside it, Python would find the package unbuilt."""
    alone = source.with_name(source.name + "-tests")
    if not alone.exists():
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            for part in parts or ("tests",):
                take = source / part
                copy = shutil.copytree if take.is_dir() else shutil.copy
                copy(take, pathlib.Path(scratch, part))
            pathlib.Path(scratch).rename(alone)
            pathlib.Path(scratch).mkdir()
    return alone


def picked(selection):
    """pytest's -k for a selection that is no name of ours."""
    return [] if selection in ("ci", "database", "all") else ["-k", selection]
