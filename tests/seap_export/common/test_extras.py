"""What an extra installs, and what is said if it is missing."""

from __future__ import annotations

import re
import shlex
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, metadata, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from seap_export.common import extras
from seap_export.errors import EnvironmentFailure

ROOT = Path(__file__).parents[3]
SHIPPED = ("converters", "docs", "samples", "seap_export", "validation")
TEXTS = {".md", ".py", ".yml"}
REQUIRES = [
    "numpy>=1.26",
    'alpha>=2; extra == "some"',
    'beta[more]<3; extra == "some"',
    'gamma; sys_platform == "nowhere" and extra == "some"',
    'delta; extra == "other"',
]


def test_what_is_missing_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert extras.missing_packages("dev") == []
    versions: dict[str, str] = {}

    def version(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(extras, "requires", lambda name: REQUIRES)
    monkeypatch.setattr(extras, "version", version)
    extras.require_extra(None, "nothing")
    command = r'run: pip install "alpha>=2" "beta\[more\]<3"$'
    with pytest.raises(EnvironmentFailure, match=rf"^llama\.cpp needs alpha>=2, beta\[more\]<3; {command}"):
        extras.require_extra("some", "llama.cpp")
    assert extras.missing_packages("some") == ["alpha>=2", "beta[more]<3"]
    assert extras.missing_packages("") == ["numpy>=1.26"]
    versions |= {"alpha": "1.9", "beta": "2.0"}
    assert extras.missing_packages("some") == ["alpha>=2"]
    versions["alpha"] = "2.1"
    assert extras.missing_packages("some") == extras.missing_packages("unheard-of") == []
    monkeypatch.setattr(extras, "optional_extras", lambda: ["elsewhere"])
    assert extras.install_remedy("elsewhere") == "there are no packages for this system"
    assert extras.install_remedy("some-of-a-source-tree") == f'run: pip install "{ROOT}[some-of-a-source-tree]"'


def test_a_remedy_is_what_the_metadata_name() -> None:
    """By the names of the packages: this one is on no index."""
    for extra in extras.optional_extras():
        _, *command = shlex.split(extras.install_remedy(extra))
        end = re.compile(rf"""extra == ['"]{extra}['"]\)?$""")
        named = [text.partition(";")[0] for text in requires("seap-export") or [] if end.search(text)]
        assert command[:2] == ["pip", "install"]
        assert [*map(Requirement, command[2:])] == [*map(Requirement, named)] != []


def test_a_command_in_a_message_fits_what_is_installed_and_none_takes_this_package_from_an_index() -> None:
    """No release that this package refuses, and no extra that a package does not have."""
    files = [file for folder in SHIPPED for file in sorted((ROOT / folder).rglob("*")) if file.suffix in TEXTS]
    texts = {file: file.read_text("utf-8") for file in [*files, *ROOT.glob("*.md")]}
    commands = [pip for text in texts.values() for pip in re.findall(r"pip install [^;\n`]*", text)]
    assert len(commands) > 15
    assert [command for command in commands if re.search(r"\bseap-export\b", command)] == []
    whole = re.compile(r'run: pip install ((?:(?:[\w-]+|"[^"{]+") ?)+)')
    said = [command for file, text in texts.items() if file.suffix == ".py" for command in whole.findall(text)]
    assert said
    words = [*(word for command in said for word in shlex.split(command))]
    needed = {one.name: one for one in map(Requirement, requires("seap-export") or []) if one.marker is None}
    for named in {Requirement(word) for word in words if word != "--upgrade"}:
        if requirement := needed.get(named.name):
            assert requirement.specifier.contains("999") or not named.specifier.contains("999"), named
        with suppress(PackageNotFoundError):
            assert named.extras <= set(metadata(named.name).get_all("Provides-Extra") or []), named
