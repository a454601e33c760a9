"""Files of an output folder: what they say, that they appear whole, and what steps took."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from support.product import Silent

from seap_export.common.memory import peak_memory
from seap_export.errors import ArtifactError, InputError, UsageError
from seap_export.pipeline.folder.contents import Export, Variant, open_folder
from seap_export.pipeline.folder.manifest import MANIFEST, Manifest
from seap_export.pipeline.folder.names import output_named_after
from seap_export.pipeline.folder.outputs import make_folders, remove_leftovers, scratch_folder
from seap_export.pipeline.folder.outputs import write_whole as write_file
from seap_export.pipeline.folder.performance import (
    PERFORMANCE,
    Performance,
    StepFigures,
    Timed,
    read_performance,
    recorded,
)
from seap_export.pipeline.folder.whole import WHOLE, read_whole, write_whole


@pytest.fixture
def variant(tmp_path: Path) -> Variant:
    folder = tmp_path / "gsm8k-0.2"
    for name in ("web", "onnx", "hf", "onnx-int4", "gguf-q8_0", "notes", "gguf-q4_0"):
        (folder / name).mkdir(parents=True)
    (folder / "mlx").write_text("a file is no folder of a format", "utf-8")
    return Variant(folder)


def test_folders_of_formats_stand_in_one_order(variant: Variant) -> None:
    assert list(variant.folders) == ["hf", "onnx", "onnx-int4", "gguf-q4_0", "gguf-q8_0", "web"]
    assert [folder.name for folder in variant.formats] == ["onnx", "onnx-int4", "gguf-q4_0", "gguf-q8_0", "web"]
    assert [folder.parity_file.name for folder in variant.formats][:2] == ["parity.json", "parity-onnx-int4.json"]
    first = {runtime: variant.run_by(runtime) for runtime in ("torch", "onnxruntime", "llama.cpp", "openvino")}
    assert [folder and folder.name for folder in first.values()] == ["hf", "onnx", "gguf-q4_0", None]


def test_a_damaged_variant_fails_only_where_it_is_read(variant: Variant, tmp_path: Path) -> None:
    assert variant.vocabulary is None  # there is no plan
    none, export = Variant(tmp_path / "none"), Export(tmp_path / "none")
    assert not any((none.folders, export.exists, export.variants, export.performance.speed))
    for read, error, message in (
        (lambda: variant.plan, ArtifactError, r"plan\.json"),
        (lambda: variant.spec, InputError, r"config\.json"),
        (variant.calibrations, ArtifactError, r"plan\.json is missing; give --prompt-file"),
        (lambda: variant.require("hf", "gguf"), ArtifactError, "gguf is missing; give a variant's folder"),
        (none.require, ArtifactError, "no such folder"),
    ):
        with pytest.raises(error, match=message):
            read()


def test_an_export_knows_its_variants_and_their_parts(variant: Variant) -> None:
    out = variant.path.parent
    assert open_folder(out) is open_folder(variant.path) is None
    steps = dict.fromkeys(["calibration/gsm8k", "gsm8k-0.2/hf", "gsm8k-0.2/onnx", "gsm8k-0.25/hf", "router"], "key")
    Manifest(steps=steps).write(out)
    (variant.path / "plan.json").write_text("{}", "utf-8")
    assert isinstance(open_folder(variant.path), Variant)
    export = open_folder(out)
    assert isinstance(export, Export)
    assert not export.variants
    assert export.parts_of("gsm8k-0.2") == ["hf", "onnx"]
    assert export.parts_of("gsm8k") == []
    assert export.variant("gsm8k-0.2").export is export


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def write(target: Path, error: BaseException, marker: str | None = None, *, force: bool = False) -> None:
    """Begins to write, then fails."""
    with write_file(target, marker=marker, force=force) as path:
        (path if marker is None else path / marker).write_text("half")
        raise error


def overtaken(target: Path) -> None:
    """Writes a file that somebody else writes too."""
    with write_file(target) as path:
        path.write_text("mine")
        target.write_text("theirs")


def test_a_file_appears_whole_with_its_folders(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "file"
    with write_file(target) as path:
        path.write_text("whole")
        assert not target.exists()
        assert path.stat().st_dev == tmp_path.stat().st_dev
    assert target.read_text() == "whole"
    assert names(tmp_path) == ["a", "a/b", "a/b/file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_nothing_but_what_stood_there(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        write(tmp_path / "a" / "b", error(), marker="m")
    assert names(tmp_path) == []
    (tmp_path / "file").write_text("old")
    with pytest.raises(error):
        write(tmp_path / "file", error(), force=True)
    with pytest.raises(UsageError, match="already exists"):
        overtaken(tmp_path / "other")
    assert [(tmp_path / name).read_text() for name in names(tmp_path)] == ["old", "theirs"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_is_replaced_as_a_whole_and_a_link_is_followed(tmp_path: Path, exists: bool) -> None:
    if exists:
        (tmp_path / "real").mkdir()
        (tmp_path / "real" / "m").write_text("old")
        (tmp_path / "real" / "stale").touch()
    (tmp_path / "link").symlink_to("real")
    with write_file(tmp_path / "link", marker="m", force=True) as path:
        (path / "m").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "real") == ["m"]
    assert (tmp_path / "real" / "m").read_text() == "new"


def test_folders_that_stay_empty_go_again(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with make_folders(tmp_path / "there" / "a" / "b"):
        assert (tmp_path / "there" / "a" / "b").is_dir()
    assert names(tmp_path) == ["there"]
    with make_folders(tmp_path / "a" / "b"):
        (tmp_path / "a" / "kept").touch()
    assert names(tmp_path) == ["a", "a/kept", "there"]


def test_leftovers_are_scratch_folders_only(tmp_path: Path) -> None:
    with scratch_folder(tmp_path) as scratch:
        left = scratch.name
    (tmp_path / left).mkdir()
    (tmp_path / left / "half").touch()
    (tmp_path / ".seap-export.lock").touch()
    (tmp_path / "mine").touch()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".seap-export.lock", "mine"]


def test_planned_steps_are_numbered_and_recorded() -> None:
    spoken = MagicMock(wraps=Silent())
    timed = Timed(spoken)
    timed.planned = ["first", "skipped", "third"]
    with timed.step("doing the first", name="first"):
        pass
    with timed.step("doing the third", 3, name="third") as advance:
        advance(0)
    with timed.step("something small"):
        pass
    labels = [call.args[0] for call in spoken.step.call_args_list]
    assert labels == ["[1/3] doing the first", "[3/3] doing the third", "something small"]
    assert list(timed.steps) == ["first", "third"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux keeps a peak for each step")
def test_the_peak_of_a_step_is_its_own() -> None:
    timed = Timed(Silent())
    with timed.step("much", name="much"):
        np.ones(40_000_000).sum()
    with timed.step("little", name="little"):
        pass
    much, little = timed.steps["much"].peak_bytes, timed.steps["little"].peak_bytes
    assert much is not None
    assert little is not None
    assert much - little > 200e6
    assert (peak_memory() or 0) < much


MODEL: dict[str, Any] = {
    "task": "a", "precision": "int4", "beside": "int8", "options": {}, "refusal": "", "command": "export m",
    "statistics": {"calibration/a": "k"}, "key": "k", "bytes": 7, "quality": None,
}  # fmt: skip
#: A file, what it holds, its reader, and what a reader gives where there is none.
FILES: dict[str, tuple[Any, Any, Any]] = {
    PERFORMANCE: (
        Performance({"a": StepFigures(1.5, None)}, {"a-0.2": {"onnx": "key", "figures": {}}}), read_performance,
        Performance(),
    ),
    WHOLE: ({"a": MODEL, "b": MODEL}, read_whole, {}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        *((file, text) for file in FILES for text in (None, "", "[]", "{}", "{", {"schema": "other"})),
        *((WHOLE, {"models": models}) for models in ([], {"a": 1})),
        *((WHOLE, {"models": {"a": MODEL | change}}) for change in ({"bytes": "7"}, {"quality": 1}, {"key": None})),
    ],
)
def test_what_is_written_is_read_and_what_is_damaged_counts_as_missing(tmp_path: Path, file: str, damage: Any) -> None:
    content, read, nothing = FILES[file]
    assert read(tmp_path) == nothing
    content.write(tmp_path) if file == PERFORMANCE else write_whole(content, tmp_path)
    assert read(tmp_path) == content
    if damage is not None:
        values = json.loads((tmp_path / file).read_text("utf-8"))
        (tmp_path / file).write_text(damage if isinstance(damage, str) else json.dumps(values | damage), "utf-8")
        assert read(tmp_path) == nothing


def _stopped(folder: Path, error: BaseException) -> None:
    """A run that finishes one step, measures a variant, and fails."""
    timed = Timed(Silent())
    with recorded(folder, timed) as performance:
        with timed.step("doing the second", name="second"):
            pass
        performance.speed["a-0.2"] = {"figures": {}}
        raise error


@pytest.mark.parametrize("error", [RuntimeError(), KeyboardInterrupt(), SystemExit(143)])
def test_a_run_that_stops_records_what_it_has_finished(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / MANIFEST).write_text("{}")
    Performance({"first": StepFigures(1.5, None)}).write(tmp_path)
    with pytest.raises(type(error)):
        _stopped(tmp_path, error)
    performance = read_performance(tmp_path)
    assert performance.steps.keys() == {"first", "second"}
    assert performance.speed == {"a-0.2": {"figures": {}}}


@pytest.mark.parametrize("name", [("models/Some.GGUF", "Some"), ("models/m.v2", "m.v2"), ("owner/m.v2@main", "m.v2")])
def test_the_output_folder_is_named_after_the_model(name: tuple[str, str]) -> None:
    assert output_named_after(name[0]) == Path(f"{name[1]}-export")
