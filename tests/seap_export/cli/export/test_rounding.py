"""int4 rounded with the calibration texts: by export, by hand, and how files are checked that were."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.exports import Outcome, Run
from support.formats.written import complaints
from support.models import write_micro_model
from support.product import OnnxFormat, read_note, read_spec, round_columns
from support.tokenizers import write_byte_level

from converters.comparison import Comparison
from converters.formats import read_format
from seap_export.common.json_file import read_json
from seap_export.pipeline.folder.rounded import compared, opened_model
from seap_export.pruning.rounding import walk

FILES = ("model.onnx", "model.onnx.data", "rounding.json")
EXPORT = ("export", "m", "--task", "a=a.jsonl", "--ratio", "0.3", "--format", "onnx:int4")


@pytest.fixture(scope="module")
def once(place: Path, done_in: Callable[..., Outcome]) -> Path:
    """A folder with an export of a pruned model in int4, and one of a wide model as it is; not to be changed.

    The wide one has biases, which are fitted, and groups of 64.
    """
    done_in(place, *EXPORT, "--out", "out")
    wide = {"hidden_size": 192, "head_dim": 32, "mlp_bias": True, "intermediate_size": 192}
    write_micro_model(place / "wide", model_type="llama", **wide)
    write_byte_level(place / "wide")
    done_in(place, "export", "wide", *EXPORT[2:4], "--ratio", "0", "--format", "hf", "--out", "whole")
    return place


@pytest.fixture
def out(home: Path) -> Path:
    return home / "out"


def contents(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES if (folder / name).is_file()]


def test_convert_with_the_calibration_writes_the_same_files(out: Path, run: Run) -> None:
    words = ("convert", out / "a-0.3" / "hf", "--precision", "int4")
    assert run(*words, "--calibration", out / "calibration" / "a", "--out", "calibrated").code == 0
    assert contents(Path("calibrated")) == contents(out / "a-0.3" / "onnx")
    kept = run(*words, "--out", "kept")
    assert (kept.code, "calibration texts of a, which the export kept" in kept.err) == (0, True)
    assert contents(Path("kept")) == contents(Path("calibrated"))
    bare = shutil.copytree(out / "a-0.3" / "hf", "bare")
    outcome = run("convert", bare, *words[2:], "--out", "nearest")
    assert outcome.code == 0
    (warning,) = [line for line in outcome.err.splitlines() if line.startswith("Warning: ")]
    assert "KL becomes several times larger" in warning
    assert "--calibration" in warning
    nearest, calibrated = contents(Path("nearest")), contents(Path("calibrated"))
    assert len(nearest) == 2  # no note
    assert len(nearest[1]) == len(calibrated[1])
    assert nearest[1] != calibrated[1]
    assert run("convert", out / "rounding" / "a-0.3" / "int4-32", "--precision", "int4", "--out", "again").code == 0
    assert contents(Path("again")) == calibrated


def test_products_of_integers_have_factors_in_norms_and_are_proven_alone(out: Path, run: Run) -> None:
    words = ("--precision", "w4a8", "--calibration", out / "calibration" / "a", "--out", out / "a-0.3" / "onnx-w4a8")
    assert run("convert", out / "a-0.3" / "hf", *words).code == 0
    note = read_note(out / "a-0.3" / "onnx-w4a8")
    assert note is not None
    assert (note.grid.name, any("layernorm" in name for name in note.rounded)) == ("w4a8-32", True)
    assert compared(out / "a-0.3" / "onnx-w4a8") == Comparison()


def test_bits_of_its_own_for_each_matrix(out: Path, run: Run) -> None:
    hf, words = out / "a-0.3" / "hf", ("--format", "onnx:mixed-3.5")
    assert run("convert", hf, *words, "--calibration", out / "calibration" / "a", "--out", "mixed").code == 0
    format = OnnxFormat.read(Path("mixed"))
    assert format.precision == "mixed-3.5"
    size = Path("mixed", "model.onnx.data").stat().st_size
    assert size == pytest.approx(format.size(read_spec(hf)), rel=0.08)
    assert run(*EXPORT[:-2], *words, "--speed", "--out", "new").code == 0
    assert "a-0.3" in read_json(Path("new", "performance.json"))["speed"]  # the dense model has no bits of its own
    assert contents(Path("new", "a-0.3", "onnx")) == contents(Path("mixed"))
    shutil.rmtree(Path("new", "rounding"))  # the model that was rounded is made again from the file
    assert run("validate", Path("new", "a-0.3")).code == 0
    off_by_one(Path("new", "a-0.3", "onnx", "model.onnx.data"))
    assert run("validate", Path("new", "a-0.3"), "--check", "parity").code == 3


def test_a_fault_of_our_own_rounding_fails_the_export(work: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "round_columns", lambda *arguments: -round_columns(*arguments))
    words = ("export", "m", "--task", "a=a.jsonl", "--ratio", "0", "--format", "onnx:int4", "--quiet")
    run(*words, "--out", "faulty").refused(3, "KL from the model that was rounded")
    assert "embed_tokens.weight' of the rounded model keeps -" in Path("faulty/validation.json").read_text("utf-8")


def off_by_one(file: Path) -> None:
    """Changes one level in the first half of a data file."""
    stored = np.fromfile(file, np.uint8)
    index = int(np.flatnonzero((stored[: len(stored) // 2] & 15) == 7)[-1])
    stored[index] += 1
    stored.tofile(file)


def test_the_folder_of_a_variant_is_validated_alone(out: Path, run: Run) -> None:
    """Copied to another place without the rest of the export; a level, a norm or a note that is not its own tells."""
    words = ("--check", "parity", "--prompt-file", "a.jsonl")
    alone = [Path(shutil.copytree(out / "a-0.3", Path(name) / "a-0.3")) for name in ("good", "off", "other")]
    good, off, other = (path / "onnx" for path in alone)
    off_by_one(off / "model.onnx.data")
    tensors = load_file(other.parent / "hf" / "model.safetensors")
    tensors["model.layers.0.input_layernorm.weight"][3] += 0.01
    save_file(tensors, other.parent / "hf" / "model.safetensors", {"format": "pt"})
    assert [run("validate", path, *words).code for path in alone] == [0, 3, 3]
    assert compared(good) == Comparison()
    (line,) = compared(off).weights
    assert re.fullmatch(r"'.*' in onnx is not that of the rounded model; export again.*", line)
    assert any("input_layernorm.weight' of hf is not what was rounded" in line for line in compared(other).weights)
    (out / "a-0.3" / "onnx" / "rounding.json").unlink()  # it is not taken for a file of nearest levels
    assert [run("validate", "out/a-0.3", "--check", check).code for check in ("parity", "integrity")] == [3, 7]


@pytest.mark.parametrize(
    "label",
    [
        *("gguf:q4_0", "gguf:mixed-5.2", "web:q4f16", "mlx:4bit"),
        pytest.param("openvino:mixed-5.2", marks=pytest.mark.needs("openvino")),
    ],
)
def test_every_format_with_a_grid_proves_its_weights_alone(run: Run, home: Path, label: str) -> None:
    hf, folder = Path("whole/a-0/hf"), label.partition(":")[0]
    words = ("convert", hf, "--format", label, "--calibration", "whole/calibration/a")
    assert run(*words, "--out", f"whole/a-0/{folder}").code == 0
    variant = Path(shutil.copytree("whole/a-0", "elsewhere/a-0"))
    note = read_note(variant / folder)
    assert note is not None
    assert any(name.endswith("down_proj.bias") for name in note.rounded)
    with opened_model(variant / folder) as model:
        assert model.name != "hf"
        rounded = load_file(model / "model.safetensors")
    assert compared(variant / folder) == Comparison()
    format, spec = read_format(variant / folder), read_spec(hf)
    read = format.weights(variant / folder, spec).read(note.rounded)
    assert all(torch.equal(read[name], rounded[name]) for name in note.rounded)
    assert complaints(format, hf, variant / folder)
    nearest = ("convert", shutil.copytree(hf, "bare"), *words[2:4], "--out", "nearest")
    if format.average is not None:
        run(*nearest).refused(2, f"{label} chooses the bits of each matrix with calibration texts")
        return
    assert run(*nearest).code == 0
    assert complaints(format, hf, Path("nearest")) == []
