"""What an extra installs, and what is said where it is missing."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

from seap_export import extras
from seap_export.errors import EnvironmentFailure

REQUIRES = [
    "numpy>=1.26",
    'alpha>=2; extra == "some"',
    'beta[more]<3; extra == "some"',
    'gamma; sys_platform == "nowhere" and extra == "some"',
    'delta; extra == "other"',
]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The versions of what is installed, to be changed."""
    versions: dict[str, str] = {}

    def version(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(extras, "requires", lambda name: REQUIRES)
    monkeypatch.setattr(extras, "version", version)
    return versions


def test_what_is_missing_is_named(installed: dict[str, str]) -> None:
    assert extras.missing_packages("some") == ["alpha>=2", "beta[more]<3"]
    installed |= {"alpha": "1.9", "beta": "2.0"}
    assert extras.missing_packages("some") == ["alpha>=2"]
    installed["alpha"] = "2.1"
    assert extras.missing_packages("some") == []
    assert extras.missing_packages("unheard-of") == []


def test_the_remedy_names_the_extra(installed: dict[str, str]) -> None:
    extras.require_extra(None, "nothing")
    with pytest.raises(EnvironmentFailure, match=r"llama\.cpp needs alpha>=2.*pip install 'seap-export\[some\]'"):
        extras.require_extra("some", "llama.cpp")


def test_the_extras_of_this_package_are_known() -> None:
    assert extras.missing_packages("dev") == []
