"""What is missing for transformers.js is said, with what to run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seap_export.errors import EnvironmentFailure
from validation.runtimes.node.package import NODE_MODULES, find_transformers_js

INSTALL = "npm install @huggingface/transformers@4.3"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with Node 22, npm and nothing else; its folder of programs."""
    programs = tmp_path / "bin"
    programs.mkdir()
    _program(programs / "node", "echo v22.1.0")
    _program(programs / "npm", f"echo {tmp_path / 'global'}")
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.delenv(NODE_MODULES, raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return programs


def _program(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n", "utf-8")
    path.chmod(0o755)


def _package(modules: Path, version: str = "4.3.1") -> Path:
    folder = modules / "@huggingface" / "transformers"
    folder.mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"version": version}), "utf-8")
    return folder


def test_node_is_missing(machine: Path) -> None:
    (machine / "node").unlink()
    with pytest.raises(EnvironmentFailure, match="Node; install version 20") as failure:
        find_transformers_js()
    assert INSTALL in str(failure.value)


def test_node_is_too_old(machine: Path) -> None:
    _program(machine / "node", "echo v18.20.1")
    with pytest.raises(EnvironmentFailure, match=r"Node 18\.20\.1 is too old"):
        find_transformers_js()


def test_package_is_missing(machine: Path) -> None:
    with pytest.raises(EnvironmentFailure) as failure:
        find_transformers_js()
    assert INSTALL in str(failure.value)
    assert NODE_MODULES in str(failure.value)


@pytest.mark.parametrize("version", ["4.2.9", "3.8.1", "", "next"])
def test_package_is_too_old(machine: Path, tmp_path: Path, version: str) -> None:
    _package(tmp_path / "here" / "node_modules", version)
    with pytest.raises(EnvironmentFailure, match="is too old; run 'npm install"):
        find_transformers_js()


def test_package_is_damaged(machine: Path, tmp_path: Path) -> None:
    (_package(tmp_path / "here" / "node_modules") / "package.json").write_text("{", "utf-8")
    with pytest.raises(EnvironmentFailure, match="run 'npm install"):
        find_transformers_js()


def test_places_are_tried_in_turn(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = _package(tmp_path / "global")
    assert find_transformers_js().folder == other.resolve()
    nearer = _package(tmp_path / "here" / "node_modules", "4.4.0")
    assert (find_transformers_js().folder, find_transformers_js().version) == (nearer.resolve(), "4.4.0")
    named = _package(tmp_path / "named" / "node_modules")
    for folder in (tmp_path / "named", tmp_path / "named" / "node_modules"):
        monkeypatch.setenv(NODE_MODULES, str(folder))
        assert find_transformers_js().folder == named.resolve()
    monkeypatch.setenv(NODE_MODULES, str(tmp_path / "nowhere"))
    with pytest.raises(EnvironmentFailure, match="is not installed"):
        find_transformers_js()
