"""What is missing for transformers.js is said, with what to run."""

from __future__ import annotations

from pathlib import Path

import pytest

from seap_export.errors import EnvironmentFailure
from validation.runtimes.node.package import NODE_MODULES, find_transformers_js


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of programs of a machine with Node 22, npm and nothing else."""
    _program(tmp_path / "bin" / "node", "v22.1.0")
    _program(tmp_path / "bin" / "npm", str(tmp_path / "global"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv(NODE_MODULES, raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "bin"


def _program(path: Path, says: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {says}\n", "utf-8")
    path.chmod(0o755)


def _package(modules: Path, manifest: str = '{"version": "4.3.1"}') -> Path:
    folder = modules / "@huggingface" / "transformers"
    folder.mkdir(parents=True)
    (folder / "package.json").write_text(manifest, "utf-8")
    return folder.resolve()


@pytest.mark.parametrize(
    ("node", "manifest", "says"),
    [
        (None, None, "Node; install version 20"),
        ("v18.20.1", None, r"Node 18\.20\.1 is too old"),
        ("v22.1.0", None, "is not installed"),
        ("v22.1.0", '{"version": "4.2.9"}', "is too old; run 'npm install"),
        ("v22.1.0", '{"version": "next"}', "is too old; run 'npm install"),
        ("v22.1.0", "{", "run 'npm install"),
    ],
)
def test_what_is_missing_too_old_or_damaged(
    programs: Path, tmp_path: Path, node: str | None, manifest: str | None, says: str
) -> None:
    (programs / "node").unlink()
    if node is not None:
        _program(programs / "node", node)
    if manifest is not None:
        _package(tmp_path / "here" / "node_modules", manifest)
    with pytest.raises(EnvironmentFailure, match=says):
        find_transformers_js()


@pytest.mark.usefixtures("programs")
def test_places_are_tried_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = _package(tmp_path / "global")
    assert find_transformers_js().folder == other
    nearer = _package(tmp_path / "here" / "node_modules", '{"version": "4.4.0"}')
    assert (find_transformers_js().folder, find_transformers_js().version) == (nearer, "4.4.0")
    named = _package(tmp_path / "named" / "node_modules")
    for folder in (tmp_path / "named", tmp_path / "named" / "node_modules"):
        monkeypatch.setenv(NODE_MODULES, str(folder))
        assert find_transformers_js().folder == named
    monkeypatch.setenv(NODE_MODULES, str(tmp_path / "nowhere"))
    with pytest.raises(EnvironmentFailure, match="is not installed"):
        find_transformers_js()
