"""Shared by all tests. With REQUIRE_BROWSER=1, as in continuous integration, a skipped browser test counts as failed."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

REQUIRED = os.environ.get("REQUIRE_BROWSER", "0") not in ("", "0")


def pytest_configure(config):
    config.addinivalue_line("markers", "browser: needs Chromium; skipped without it unless REQUIRE_BROWSER=1")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if REQUIRED and report.skipped and item.get_closest_marker("browser"):
        report.outcome, report.longrepr = "failed", f"skipped although REQUIRE_BROWSER is set: {report.longrepr}"


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    "The folder with the built site."
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run([sys.executable, ROOT / "nbs/_site.py", "build", "--out", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder
