"""What tests need and a machine may lack: a test is skipped, with the reason, where it is missing.

A test says `@pytest.mark.needs("browser")`. A name that is not listed below is a program on PATH, such as `cc`.
`pytest --require browser,cc` makes what is missing an error, which is how CI runs.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from functools import cache

import pytest
from fake_cuda import build

__all__ = ["NAMESPACE", "find", "pytest_addoption", "pytest_configure", "pytest_runtest_setup"]

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
#: Runs a command that may mount file systems which nothing else sees.
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


def _browser() -> str | None:
    return next((path for path in map(shutil.which, BROWSERS) if path), None)


def _mount() -> str | None:
    path = shutil.which(NAMESPACE[0])
    command = (*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/tmp")
    works = path is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0
    return path if works else None


def _fake_cuda() -> str | None:
    folder = build.built()
    return folder and str(folder)


#: How each thing is found, and what to do where it is not.
SPECIAL: dict[str, tuple[Callable[[], str | None], str]] = {
    "browser": (_browser, "install Chromium or Chrome, such as with 'apt-get install chromium'"),
    "fake-cuda": (_fake_cuda, build.REMEDY),
    "mount": (_mount, "it takes Linux with unshare and user namespaces"),
}


@cache
def find(name: str) -> str | None:
    """The path of the program that gives it, or None."""
    return SPECIAL[name][0]() if name in SPECIAL else shutil.which(name)


def _missing(name: str) -> str:
    return f"{name} is missing: {SPECIAL[name][1] if name in SPECIAL else f'no {name} on PATH'}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --require."""
    help = "what the tests must not miss, such as browser,cc,npm: an error where it is missing, instead of skips"
    parser.addoption("--require", default="", metavar="NAMES", help=help)


def pytest_configure(config: pytest.Config) -> None:
    """Refuses to start without what is required."""
    required = filter(None, config.getoption("--require").split(","))
    missing = [_missing(name) for name in required if find(name) is None]
    if missing:
        raise pytest.UsageError("; ".join(missing))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test that needs what is missing."""
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            if find(name) is None:
                pytest.skip(_missing(name))
