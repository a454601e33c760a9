from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seap_export.errors import ArtifactError, EnvironmentFailure, InputError, UsageError
from seap_export.pipeline.folder import manifest as manifests
from seap_export.pipeline.folder import workspace as module
from seap_export.pipeline.folder.keys import RELEASE, step_key
from seap_export.pipeline.folder.manifest import MANIFEST_SCHEMA, Manifest, read_manifest
from seap_export.pipeline.folder.workspace import Workspace


def make(workspace: Workspace, step: str, key: str, text: str = "x") -> None:
    with workspace.writing(step, key, folder=True) as path:
        (path / "sub").mkdir()
        (path / "sub" / "file").write_text(text)


def test_a_step_is_recorded_with_its_files(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "deep" / "out", force=False)
    with workspace.locked():
        assert not workspace.is_done("v/hf", "key")
        make(workspace, "v/hf", "key")
        assert workspace.is_done("v/hf", "key")

    manifest = read_manifest(tmp_path / "deep" / "out")
    assert manifest.steps == {"v/hf": "key"}
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    assert manifest.files == {"v/hf/sub/file": {"bytes": 1, "sha256": digest}}
    assert not manifest.complete
    assert "seap-export" in manifest.versions


def test_a_folder_in_which_nothing_was_made_goes(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in ("deep/out", "empty"):
        with Workspace(tmp_path / folder, force=False).locked():
            assert (tmp_path / folder).is_dir()
    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    first, second = (Workspace(tmp_path / "out", force=False) for _ in range(2))
    with first.locked():
        with pytest.raises(UsageError, match="another run is writing to"), second.locked():
            pass
        make(first, "v/hf", "key")
    with second.locked():
        assert second.is_done("v/hf", "key")


def test_what_other_runs_made_and_damage_need_force(tmp_path: Path) -> None:
    file = tmp_path / "v" / "hf" / "sub" / "file"
    workspace, forced = (Workspace(tmp_path, force=force) for force in (False, True))
    with workspace.locked():
        file.parent.mkdir(parents=True)
        with pytest.raises(UsageError, match=r"hf is not listed in manifest\.json; use --force"):
            workspace.is_done("v/hf", "key")
    with forced.locked():
        make(forced, "v/hf", "key")
    workspace = Workspace(tmp_path, force=False)
    with workspace.locked():
        with pytest.raises(UsageError, match="was made from other inputs"):
            workspace.is_done("v/hf", "another key")
        file.write_text("y")
        with pytest.raises(ArtifactError, match=r"differs from its SHA-256 in manifest\.json; .* with --force"):
            workspace.is_done("v/hf", "key")
    forced = Workspace(tmp_path, force=True)
    with forced.locked():
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
    workspace = Workspace(tmp_path, force=False)
    with workspace.locked():
        make(workspace, "v/hf", recorded)
        with pytest.raises(UsageError, match=rf"other inputs \({differs}\); use --force"):
            workspace.is_done("v/hf", step_key({"model": "x", "seed": 1, RELEASE: 1}))


def test_a_step_that_was_recorded_but_not_moved_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(temporary: Path, target: Path) -> None:
        raise SystemExit

    workspace = Workspace(tmp_path, force=False)
    monkeypatch.setattr(module, "move_into_place", fail)
    with pytest.raises(SystemExit), workspace.locked():
        make(workspace, "v/hf", "key")
    monkeypatch.undo()
    assert read_manifest(tmp_path).steps == {"v/hf": "key"}
    assert not (tmp_path / "v").exists()

    workspace = Workspace(tmp_path, force=False)
    with workspace.locked():
        assert not workspace.is_done("v/hf", "key")
        make(workspace, "v/hf", "key")
        assert workspace.is_done("v/hf", "key")


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
    workspace, variant = Workspace(tmp_path, force=False), {"task": "a", "weights": {"a": 1.0}}
    with workspace.locked():
        steps_of = {"2.8": ["calibration/a", "calibration/b", "v/plan.json"], "2.9": ["v/hf", "v/hf/x"]}
        for release, steps in steps_of.items():
            monkeypatch.setattr(manifests, "package_versions", lambda release=release: {"p": "1", "torch": release})
            for step in steps:
                make(workspace, step, "key")
        manifest = workspace.manifest
        assert manifest.made_otherwise(["calibration/a", "v/hf"]) == {"torch 2.8": ["calibration/a"]}
        manifest.variants = {"v": variant, "w": {**variant, "weights": {"b": 1.0}, "task": "b"}}
        assert manifest.mix("v") == "torch 2.8: calibration/a, v/plan.json; torch 2.9: v/hf"
        assert manifest.mix("w") == ""
        make(workspace, "v/plan.json", "key")
        make(workspace, "calibration/a", "key")
        manifest.variants = {"v": variant}
        assert manifest.mix("v") == ""
        workspace.remove("calibration/b")
        assert list(map(len, manifest.makers.values())) == [4]


class Killed(BaseException):
    """What neither `except Exception` nor a clean-up sees."""


def interrupted(workspace: Workspace, key: str, error: BaseException, *, resumes: bool = True) -> None:
    def write() -> None:
        with workspace.locked(), workspace.writing("v/hf", key, folder=True, resumes=resumes) as path:
            (path / "first").write_text("x")
            raise error

    with pytest.raises(type(error)):
        write()


def test_the_next_run_goes_on_with_what_an_interrupted_one_left(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "out", force=False)
    for error in (Killed(), OSError("no space"), EnvironmentFailure("no memory"), RuntimeError("a defect")):
        interrupted(workspace, "key", error)
    workspace = Workspace(tmp_path / "out", force=False)
    with workspace.locked():
        assert not workspace.is_done("v/hf", "key")
        with workspace.writing("v/hf", "another key", folder=True, resumes=True) as path:
            assert list(path.iterdir()) == []
        (tmp_path / "out" / "v" / "hf").rmdir()
        with workspace.writing("v/hf", "key", folder=True, resumes=True) as path:
            assert (path / "first").read_text() == "x"
        assert workspace.is_done("v/hf", "key")
    assert not list((tmp_path / "out").glob(".seap-export-unfinished-*"))


def test_what_cannot_be_gone_on_with_is_removed(tmp_path: Path) -> None:
    workspace, left = Workspace(tmp_path / "out", force=False), ".seap-export-unfinished-*"
    for error, resumes in ((InputError("a weight is NaN"), True), (OSError("no space"), False)):
        interrupted(workspace, "key", error, resumes=resumes)
        assert not (tmp_path / "out").exists()
    interrupted(workspace, "an older key", Killed())
    with workspace.locked():
        make(workspace, "v/hf", "key")
        assert list((tmp_path / "out").glob(left))
        workspace.finish()
    assert not list((tmp_path / "out").glob(left))
    assert read_manifest(tmp_path / "out").complete
