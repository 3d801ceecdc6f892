"""What `make` hands on to the commands behind it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHOWN = (".venv/bin", "python", "DIFFGDN_BACKEND")  # commands of ours, and the backend in the data base

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def dry_run(*words: str) -> str:
    """The commands that make would run, and the backend that it would export to them."""
    command = ["make", "--dry-run", "--print-data-base", *words]
    # a fresh environment: `make test BACKEND=interpret` hands its own words down to every make below it
    fresh = {"PATH": os.environ["PATH"]}
    shown = subprocess.run(command, cwd=ROOT, env=fresh, check=True, capture_output=True, text=True).stdout
    return "\n".join(line for line in shown.splitlines() if line.startswith(SHOWN))


def test_fuzz_sets_up_first_and_runs_for_a_minute() -> None:
    setup, fuzz = dry_run("fuzz").splitlines()
    assert "tools/bootstrap.py" in setup
    assert fuzz.split() == [".venv/bin/diffgdn", "fuzz", "--max-time", "60s"]


def test_fuzz_passes_the_time_and_further_arguments_on() -> None:
    assert dry_run("fuzz", "TIME=30s", "ARGS=--op gdn.*").endswith("diffgdn fuzz --max-time 30s --op gdn.*")


def test_test_runs_the_ci_profile_on_all_cores() -> None:
    setup, test = dry_run("test").splitlines()
    assert "tools/bootstrap.py" in setup
    assert test.split()[1:] == ["-m", "pytest", "-n", "auto", "--hypothesis-profile=ci"]


def test_a_locked_setup_is_one_where_it_is_asked_for() -> None:
    for goal in ("fuzz", "test", "lint", "docs", "coverage"):
        setup, *_ = dry_run(goal, "LOCKED=1").splitlines()
        assert "--locked" in setup.split()
    assert "--locked" not in dry_run("test")


def test_docs_are_built_with_every_warning_an_error() -> None:
    setup, build = dry_run("docs").splitlines()
    assert setup.split()[-1] == "docs"
    assert {"-n", "-W", "docs"} <= set(build.split())


def test_coverage_is_that_of_all_tests() -> None:
    setup, test, *_ = dry_run("coverage", "ARGS=-k verify").splitlines()
    assert setup.split()[-1] == "test,coverage"
    assert "--cov" in test.split()
    assert test.endswith("-k verify")


def test_backend_is_exported_only_where_asked_for() -> None:
    assert "DIFFGDN_BACKEND := interpret" in dry_run("fuzz", "BACKEND=interpret")
    assert "DIFFGDN_BACKEND" not in dry_run("fuzz")
