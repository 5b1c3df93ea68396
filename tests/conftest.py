"""Shared by all tests. With REQUIRE_BROWSER=1, as in continuous integration, a skipped browser test counts as failed.

`make test` runs three lanes (`pytest -n 3 --dist loadgroup`): a file, or a group that a mark names, stays in one lane,
and the longest begin first. The group `live` is timed and begins before all others; a process that begins anything else
steps back behind it (`os.nice`), so that the other lanes take what the live tests leave.
"""
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LONGEST = ["live", "test_lora_train", "test_train", "test_sharded", "test_memory", "test_wheel", "test_weights",
           "test_pipeline", "test_lora", "test_recipe", "site", "test_fresh_process", "test_export"]
TIMED = {"test_live": "live"}
REQUIRED = os.environ.get("REQUIRE_BROWSER", "0") not in ("", "0")


def pytest_configure(config):
    config.addinivalue_line("markers", "browser: needs Chromium; skipped without it unless REQUIRE_BROWSER=1")
    config.addinivalue_line("markers", "xdist_group(name): runs in one lane with all others of that name")


def group(item) -> str:
    mark = item.get_closest_marker("xdist_group")
    return mark.args[0] if mark else TIMED.get(item.path.stem, item.path.stem)


def pytest_collection_modifyitems(items):
    for item in items:
        if not item.get_closest_marker("xdist_group"): item.add_marker(pytest.mark.xdist_group(group(item)))
    items.sort(key=lambda item: LONGEST.index(group(item)) if group(item) in LONGEST else len(LONGEST))


def pytest_runtest_setup(item):
    if "PYTEST_XDIST_WORKER" in os.environ and group(item) != "live" and os.nice(0) < 10: os.nice(10)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if REQUIRED and report.skipped and item.get_closest_marker("browser"):
        report.outcome, report.longrepr = "failed", f"skipped although REQUIRE_BROWSER is set: {report.longrepr}"


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    "The folder with the built site."
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, ROOT / "nbs/_site.py", "build", "--out", folder]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder
