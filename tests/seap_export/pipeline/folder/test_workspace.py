from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from seap_export.errors import ArtifactError, EnvironmentFailure, InputError, UsageError
from seap_export.pipeline.folder import manifest as manifests
from seap_export.pipeline.folder import workspace as module
from seap_export.pipeline.folder.keys import RELEASE, step_key
from seap_export.pipeline.folder.manifest import MANIFEST_SCHEMA, Manifest, read_manifest
from seap_export.pipeline.folder.workspace import Workspace


@contextmanager
def locked(folder: Path, *, force: bool = False) -> Iterator[Workspace]:
    workspace = Workspace(folder, force)
    with workspace.locked():
        yield workspace


def make(workspace: Workspace, step: str = "v/hf", key: str = "key", text: str = "x") -> None:
    with workspace.writing(step, key, folder=True) as path:
        (path / "sub").mkdir()
        (path / "sub" / "file").write_text(text)


def test_a_step_is_recorded_with_its_files_and_made_again_if_it_was_not_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "deep" / "out"
    monkeypatch.setattr(module, "move_into_place", MagicMock(side_effect=SystemExit))
    with pytest.raises(SystemExit), locked(out) as workspace:
        make(workspace)
    monkeypatch.undo()
    assert read_manifest(out).steps == {"v/hf": "key"}
    assert not (out / "v").exists()
    with locked(out) as workspace:
        assert not workspace.is_done("v/hf", "key")
        make(workspace)
        assert workspace.is_done("v/hf", "key")
    manifest = read_manifest(out)
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    assert (manifest.steps, manifest.complete) == ({"v/hf": "key"}, False)
    assert manifest.files == {"v/hf/sub/file": {"bytes": 1, "sha256": digest}}
    assert "seap-export" in manifest.versions
    inode = (out / "manifest.json").stat().st_ino
    manifest.write(out)
    assert (out / "manifest.json").stat().st_ino == inode  # it says the same


def test_a_folder_in_which_nothing_was_made_goes(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in ("deep/out", "empty"):
        with locked(tmp_path / folder):
            assert (tmp_path / folder).is_dir()
    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path) as first:
        with pytest.raises(UsageError, match="another run is writing to"), locked(tmp_path):
            pass
        make(first)
    with locked(tmp_path) as second:
        assert second.is_done("v/hf", "key")


def test_what_other_runs_made_and_damage_need_force(tmp_path: Path) -> None:
    target, file = tmp_path / "v" / "hf", tmp_path / "v" / "hf" / "sub" / "file"
    with locked(tmp_path) as workspace:
        target.mkdir(parents=True)
        with pytest.raises(UsageError, match=r"hf is not listed in manifest\.json; use --force"):
            workspace.is_done("v/hf", "key")
        target.rmdir()
        make(workspace)
        with pytest.raises(UsageError, match="was made from other inputs"):
            workspace.is_done("v/hf", "another key")
        file.write_text("y")
        with pytest.raises(ArtifactError, match=r"differs from its SHA-256 in manifest\.json; .* with --force"):
            workspace.is_done("v/hf", "key")
    with locked(tmp_path, force=True) as forced:
        assert not forced.is_done("v/hf", "key")
        make(forced, "v/hf", "another key", "longer")
        assert forced.is_done("v/hf", "another key")
    assert file.read_text() == "longer"


@pytest.mark.parametrize(
    ("recorded", "differs"),
    [
        (step_key({"model": "x", "seed": 0, RELEASE: 1}), "seed"),
        (step_key({"model": "y", "seed": 1, "ridge": 2.0, RELEASE: 2}), f"model, {RELEASE}, ridge"),
        ("the digest that earlier releases wrote", RELEASE),
    ],
)
def test_the_inputs_that_differ_are_named(tmp_path: Path, recorded: str, differs: str) -> None:
    with locked(tmp_path) as workspace:
        make(workspace, "v/hf", recorded)
        with pytest.raises(UsageError, match=rf"other inputs \({differs}\); use --force"):
            workspace.is_done("v/hf", step_key({"model": "x", "seed": 1, RELEASE: 1}))


@pytest.mark.parametrize("force", [False, True])
def test_a_foreign_folder_is_refused(tmp_path: Path, force: bool) -> None:
    (tmp_path / ".seap-export.lock").touch()
    Workspace(tmp_path, force=force)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"contains 'thesis\.tex'"):
        Workspace(tmp_path, force=force)


def test_a_new_step_takes_its_variant_off_the_list(tmp_path: Path) -> None:
    (tmp_path / "made").write_text("x")
    manifest = Manifest(complete=True, variants={"v": {"task": "a"}, "w": {"task": "a"}})
    manifest.record("v/plan.json", "key", tmp_path / "made")
    assert (list(manifest.variants), manifest.complete, list(manifest.files)) == (["w"], False, ["v/plan.json"])


SOUND = {"schema": MANIFEST_SCHEMA, **vars(Manifest())}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "expected a JSON object"),
        ({"schema": "seap-export/manifest/9"}, "manifest schema is 'seap-export/manifest/9'"),
        ({"schema": MANIFEST_SCHEMA, "complete": True}, "damaged"),
        (SOUND | {"steps": []}, "damaged"),
        (SOUND | {"steps": {"a/../../b": "1"}}, "damaged"),
        (SOUND | {"files": {"a": {}}}, "damaged"),
        (SOUND | {"makers": {"torch 2.8": [1]}}, "damaged"),
        (SOUND | {"variants": {"a": 1}}, "damaged"),
    ],
)
def test_a_manifest_that_cannot_be_trusted(tmp_path: Path, values: Any, message: str) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(ArtifactError, match=message):
        read_manifest(tmp_path)


def test_steps_that_were_made_with_something_else_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = {"task": "a", "weights": {"a": 1.0}}
    with locked(tmp_path) as workspace:
        steps_of = {"2.8": ["calibration/a", "calibration/b", "v/plan.json"], "2.9": ["v/hf", "v/hf/x"]}
        for release, steps in steps_of.items():
            monkeypatch.setattr(manifests, "package_versions", lambda release=release: {"p": "1", "torch": release})
            for step in steps:
                make(workspace, step)
        manifest = workspace.manifest
        assert manifest.made_otherwise(["calibration/a", "v/hf"]) == {"torch 2.8": ["calibration/a"]}
        manifest.variants = {"v": variant, "w": {**variant, "weights": {"b": 1.0}, "task": "b"}}
        assert manifest.mix("v") == "torch 2.8: calibration/a, v/plan.json; torch 2.9: v/hf"
        assert manifest.mix("w") == ""
        make(workspace, "v/plan.json")
        make(workspace, "calibration/a")
        manifest.variants = {"v": variant}
        assert manifest.mix("v") == ""
        workspace.remove("calibration/b")
        assert list(map(len, manifest.makers.values())) == [4]


class Killed(BaseException):
    """What neither `except Exception` nor a clean-up sees."""


LEFT = ".seap-export-unfinished-*"


def interrupted(folder: Path, key: str, error: BaseException, *, resumes: bool = True) -> None:
    def write() -> None:
        with locked(folder) as workspace, workspace.writing("v/hf", key, folder=True, resumes=resumes) as path:
            (path / "first").write_text("x")
            raise error

    with pytest.raises(type(error)):
        write()


def test_the_next_run_goes_on_with_what_an_interrupted_one_left(tmp_path: Path) -> None:
    for error in (Killed(), OSError("no space"), EnvironmentFailure("no memory"), RuntimeError("a defect")):
        interrupted(tmp_path, "key", error)
    with locked(tmp_path) as workspace:
        assert not workspace.is_done("v/hf", "key")
        with workspace.writing("v/hf", "another key", folder=True, resumes=True) as path:
            assert list(path.iterdir()) == []
        (tmp_path / "v" / "hf").rmdir()
        with workspace.writing("v/hf", "key", folder=True, resumes=True) as path:
            assert (path / "first").read_text() == "x"
        assert workspace.is_done("v/hf", "key")
    assert not list(tmp_path.glob(LEFT))


def test_what_cannot_be_gone_on_with_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for error, resumes in ((InputError("a weight is NaN"), True), (OSError("no space"), False)):
        interrupted(out, "key", error, resumes=resumes)
        assert not out.exists()
    interrupted(out, "an older key", Killed())
    with locked(out) as workspace:
        make(workspace)
        assert list(out.glob(LEFT))
        workspace.finish()
    assert not list(out.glob(LEFT))
    assert read_manifest(out).complete
