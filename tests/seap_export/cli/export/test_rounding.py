"""int4 rounded with the calibration texts: by export, by hand, and how files are checked that were."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.exports import Run, run_here
from support.models import write_micro_model
from support.product import OnnxFormat, read_note, read_spec, round_columns
from support.tokenizers import write_byte_level

from converters.formats import read_format
from seap_export.common.json_file import read_json
from seap_export.errors import ParityFailure
from seap_export.pipeline.folder.rounded import differences, opened_model
from seap_export.pruning.rounding import walk

FORMATS = ("--format", "onnx:int4", "--format", "onnx:fp32")
FILES = ("model.onnx", "model.onnx.data", "rounding.json")


@pytest.fixture(scope="module")
def whole(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of the dense model and of a pruned one, in int4 and in fp32; not to be changed."""
    folder = tmp_path_factory.mktemp("rounding")
    task = ("--task", f"a={inputs / 'a.jsonl'}")
    outcome = run_here(
        "export", inputs / "m", *task, "--ratio", "0", "--ratio", "0.3", *FORMATS, "--out", folder / "out"
    )
    assert outcome.code == 0, outcome.err
    return folder / "out"


@pytest.fixture
def out(whole: Path, work: Path) -> Path:
    """A copy of it at ./out."""
    return Path(shutil.copytree(whole, work / "out"))


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


def test_bits_of_its_own_for_each_matrix(out: Path, run: Run) -> None:
    hf, words = out / "a-0.3" / "hf", ("--calibration", out / "calibration" / "a")
    for average in ("3", "3.5"):
        precision = f"onnx:mixed-{average}"
        assert run("convert", hf, "--format", precision, *words, "--out", f"mixed-{average}").code == 0
        format, spec = OnnxFormat.read(Path(f"mixed-{average}")), read_spec(hf)
        assert format.precision == f"mixed-{average}"
        size = Path(f"mixed-{average}", "model.onnx.data").stat().st_size
        assert size == pytest.approx(format.size(spec), rel=0.08)
        assert not list(format.damages(hf, Path(f"mixed-{average}")))
    sizes = [len(contents(Path(f"mixed-{average}"))[1]) for average in ("3", "3.5")]
    assert sizes[0] < sizes[1]
    export = ("export", "m", "--task", "a=a.jsonl", "--ratio", "0.3", "--format", "onnx:mixed-3.5")
    assert run(*export, "--speed", "--out", "whole").code == 0
    assert "a-0.3" in read_json(Path("whole", "performance.json"))["speed"]  # the dense model has no bits of its own
    assert contents(Path("whole", "a-0.3", "onnx")) == contents(Path("mixed-3.5"))
    assert run("validate", "whole").code == 0
    shutil.rmtree(Path("whole", "rounding"))  # the model that was rounded is made again from the file
    assert run("validate", Path("whole", "a-0.3")).code == 0
    off_by_one(Path("whole", "a-0.3", "onnx", "model.onnx.data"))
    assert run("validate", Path("whole", "a-0.3"), "--check", "parity").code == 3


def test_nearest_levels_if_they_are_asked_for(out: Path, run: Run) -> None:
    words = ("export", "m", "--task", "a=a.jsonl", "--ratio", "0.3", "--format", "onnx:int4")
    words += ("--set", "rounding=nearest")
    run(*words, "--out", "out", "--quiet").refused(2, "--force")  # it was made otherwise
    assert run(*words, "--out", "plain").code == 0
    assert not Path("plain", "rounding").exists()
    bare = shutil.copytree(out / "a-0.3" / "hf", "bare")
    assert run("convert", bare, "--precision", "int4", "--out", "by-hand").code == 0
    assert contents(Path("plain", "a-0.3", "onnx")) == contents(Path("by-hand"))


def test_a_fault_of_our_own_rounding_fails_the_export(work: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "round_columns", lambda *arguments: -round_columns(*arguments))
    words = ("export", "m", "--task", "a=a.jsonl", "--ratio", "0", "--format", "onnx:int4", "--quiet")
    run(*words, "--out", "faulty").refused(3, "KL from the model that was rounded")
    assert "embed_tokens.weight' of the rounded model keeps -" in Path("faulty/validation.json").read_text("utf-8")


def test_a_file_that_lost_its_note_is_not_taken_for_one_of_nearest_levels(out: Path, run: Run) -> None:
    (out / "a-0.3" / "onnx" / "rounding.json").unlink()
    assert run("validate", out / "a-0.3", "--check", "parity").code == 3
    assert run("validate", out / "a-0.3", "--check", "integrity").code == 7


@pytest.fixture
def alone(out: Path) -> Path:
    """The folder of a variant, copied to another place without the rest of the export."""
    return Path(shutil.copytree(out / "a-0.3", "elsewhere/a-0.3"))


def validate_alone(variant: Path, run: Run) -> int:
    code: int = run("validate", variant, "--check", "parity", "--prompt-file", "a.jsonl").code
    return code


def off_by_one(file: Path) -> None:
    """Changes one level in the first half of a data file."""
    stored = np.fromfile(file, np.uint8)
    index = int(np.flatnonzero((stored[: len(stored) // 2] & 15) == 7)[-1])
    stored[index] += 1
    stored.tofile(file)


def test_the_folder_of_a_variant_is_validated_alone(alone: Path, run: Run) -> None:
    assert validate_alone(alone, run) == 0
    assert not list(differences(alone / "onnx"))
    off_by_one(alone / "onnx" / "model.onnx.data")
    assert validate_alone(alone, run) == 3
    with pytest.raises(ParityFailure, match=r"weights: '.*' in onnx is not that of the rounded model; export again"):
        list(differences(alone / "onnx"))


def test_a_variant_alone_whose_model_was_changed_is_found(alone: Path, run: Run) -> None:
    path = alone / "hf" / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("layernorm.weight"))
    tensors[name][3] += 0.01
    save_file(tensors, path, {"format": "pt"})
    assert validate_alone(alone, run) == 3
    assert any(f"'{name}' of hf is not what was rounded" in line for line in differences(alone / "onnx"))


@pytest.mark.parametrize(
    "label",
    [
        *("gguf:q4_0", "gguf:mixed-5.2", "web:q4f16", "mlx:4bit"),
        pytest.param("openvino:mixed-5.2", marks=pytest.mark.needs("openvino")),
    ],
)
def test_every_format_with_a_grid_proves_its_weights_alone(run: Run, work: Path, label: str) -> None:
    # a model with biases, which are fitted, and with groups of 64
    write_micro_model(
        work / "wide", model_type="llama", hidden_size=192, head_dim=32, mlp_bias=True, intermediate_size=192
    )
    write_byte_level(work / "wide")
    words = ("export", "wide", "--task", "a=a.jsonl", "--ratio", "0", "--format", "hf")
    assert run(*words, "--out", "out").code == 0
    hf, folder = Path("out/a-0/hf"), label.partition(":")[0]
    words = ("convert", hf, "--format", label, "--calibration", "out/calibration/a")
    assert run(*words, "--out", f"out/a-0/{folder}").code == 0
    variant = Path(shutil.copytree("out/a-0", "elsewhere/a-0"))
    note = read_note(variant / folder)
    assert note is not None
    assert any(name.endswith("down_proj.bias") for name in note.rounded)
    with opened_model(variant / folder) as model:
        assert model.name != "hf"
        rounded = load_file(model / "model.safetensors")
    assert not list(differences(variant / folder))
    format, spec = read_format(variant / folder), read_spec(hf)
    read = format.weights(variant / folder, spec).read(note.rounded)
    assert all(torch.equal(read[name], rounded[name]) for name in note.rounded)
    assert list(format.differences(hf, variant / folder))
    nearest = ("convert", shutil.copytree(hf, "bare"), *words[2:4], "--out", "nearest")
    if format.average is not None:
        run(*nearest).refused(2, f"{label} chooses the bits of each matrix with calibration texts")
        return
    assert run(*nearest).code == 0
    assert not list(format.differences(hf, Path("nearest")))


def test_products_of_integers_have_factors_in_norms_and_are_proven_without_the_rounded_model(
    out: Path, run: Run
) -> None:
    written = out / "a-0.3" / "onnx-w4a8"
    words = ("convert", out / "a-0.3" / "hf", "--precision", "w4a8", "--calibration", out / "calibration" / "a")
    assert run(*words, "--out", written).code == 0
    note = read_note(written)
    assert note is not None
    assert note.grid.name == "w4a8-32"
    assert any("layernorm" in name for name in note.rounded)
    assert list(differences(written)) == []
