"""Shared by all tests. With REQUIRE_BROWSER=1, as in continuous integration, a skipped browser test counts as failed.

`make test` runs three lanes (`pytest -n 3 --dist loadfile`): a file stays in one lane, and the longest begin first. The
files in `TIMED` begin before all others; a process that begins anything else steps back behind them (`os.nice`), so
that the other lanes take what the timed tests leave.
"""
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
TIMED = ["test_live_browser", "test_live_elsewhere", "test_live"]
LONGEST = ["test_lora_train", "test_train", "test_sharded", "test_memory", "test_wheel", "test_weights",
           "test_pipeline", "test_lora", "test_recipe", "test_browser", "test_fresh_process", "test_export"]
REQUIRED = os.environ.get("REQUIRE_BROWSER", "0") not in ("", "0")


def pytest_configure(config):
    config.addinivalue_line("markers", "browser: needs Chromium; skipped without it unless REQUIRE_BROWSER=1")


def pytest_collection_modifyitems(items):
    first = [*TIMED, *LONGEST]
    items.sort(key=lambda item: first.index(item.path.stem) if item.path.stem in first else len(first))


def pytest_runtest_setup(item):
    if "PYTEST_XDIST_WORKER" in os.environ and item.path.stem not in TIMED and os.nice(0) < 10: os.nice(10)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if REQUIRED and report.skipped and item.get_closest_marker("browser"):
        report.outcome, report.longrepr = "failed", f"skipped although REQUIRE_BROWSER is set: {report.longrepr}"


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    "The folder with the built site, one for all lanes."
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "site"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            build = [sys.executable, ROOT / "nbs/_site.py", "build", "--out", folder]
            done = subprocess.run(build, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
    return folder
