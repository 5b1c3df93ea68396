"""Shared by all tests. With REQUIRE_BROWSER=1, as in continuous integration, a skipped browser test counts as failed.

`make test` runs the files that wait for pictures against the clock by themselves (`TIMED` in the Makefile), then all
others in three lanes (`pytest -n 3 --dist loadfile`): a file stays in one lane, and the longest begin first.
"""
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
LONGEST = ["test_lora_train", "test_train", "test_sharded", "test_memory", "test_wheel", "test_weights",
           "test_pipeline", "test_lora", "test_recipe", "test_browser", "test_fresh_process", "test_export"]
REQUIRED = os.environ.get("REQUIRE_BROWSER", "0") not in ("", "0")


def pytest_configure(config):
    config.addinivalue_line("markers", "browser: needs Chromium; skipped without it unless REQUIRE_BROWSER=1")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


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
