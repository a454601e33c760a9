"""The note of a rounded model: it tells another origin, and proves weights that were read back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.editing import edit_weights, set_json
from support.models import micro_source, put_on_grid

from seap_export.errors import ArtifactError
from seap_export.pruning.rounding.grid import BlockQuantization
from seap_export.pruning.rounding.note import RoundingNote, read_note

HOW = BlockQuantization(4, embeddings=False)
BIAS = "model.layers.1.self_attn.v_proj.bias"
WEIGHT = "model.layers.1.self_attn.v_proj.weight"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A model folder, and one of the same model on the grid, with a bias that is fitted to it, and the note."""
    micro_source(tmp_path / "hf", "llama-biases")
    shutil.copytree(tmp_path / "hf", tmp_path / "rounded")
    put_on_grid(tmp_path / "rounded", HOW)
    edit_weights(tmp_path / "rounded", lambda tensors: tensors.update({BIAS: tensors[BIAS] * 1.1}))
    RoundingNote.of(tmp_path / "hf", tmp_path / "rounded", HOW).write(tmp_path / "rounded")
    return tmp_path / "hf", tmp_path / "rounded"


def test_it_is_read_as_it_was_written(folders: tuple[Path, Path]) -> None:
    note = read_note(folders[1])
    assert note == RoundingNote.of(*folders, HOW)
    assert note.grid == HOW
    assert note.dtype == torch.float32
    assert BIAS in note.rounded
    assert not any("norm" in name or "embed" in name for name in note.rounded)
    assert read_note(folders[0]) is None


@pytest.mark.parametrize("change", [{"schema": "seap-export/rounding/1"}, {"grid": {"bits": 7}}, {"dtype": "int8"}])
def test_a_damaged_note_is_refused(folders: tuple[Path, Path], change: dict[str, object]) -> None:
    set_json(folders[1] / "rounding.json", **change)
    with pytest.raises(ArtifactError, match=r"rounding\.json"):
        read_note(folders[1])


@pytest.mark.parametrize("text", ["{}", "[]", "not JSON"])
def test_something_else_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "rounding.json").write_text(text, "utf-8")
    with pytest.raises(ArtifactError, match=r"rounding\.json"):
        read_note(tmp_path)


def test_what_is_not_the_model_that_was_rounded_is_named(folders: tuple[Path, Path]) -> None:
    hf, note = folders[0], read_note(folders[1])
    assert note is not None
    assert not list(note.origin_differences(hf))
    changed = load_file(hf / "model.safetensors")
    changed[WEIGHT][3, 5] *= -1
    changed["more"] = torch.zeros(3)
    save_file(changed, hf / "model.safetensors", {"format": "pt"})
    set_json(hf / "config.json", rms_norm_eps=1e-3, dtype="bfloat16")
    lines = list(note.origin_differences(hf))
    assert [line.partition(" ")[0] for line in lines[:2]] == [f"'{WEIGHT}'", "'more'"]
    assert len(lines) == 3
    assert "rms_norm_eps" in lines[2]


def test_weights_are_proven_exactly_and_vectors_in_16_bits_too(folders: tuple[Path, Path]) -> None:
    note, tensors = read_note(folders[1]), load_file(folders[1] / "model.safetensors")
    assert note is not None
    weight, bias = tensors[WEIGHT], tensors[BIAS]
    assert note.proves(WEIGHT, weight)
    assert note.proves(WEIGHT, torch.where(weight == 0, -0.0, weight))
    off = weight.clone()
    off[2, 3] += 1e-6
    assert not note.proves(WEIGHT, off)
    assert note.proves(BIAS, bias)
    assert note.proves(BIAS, bias.half().float())
    assert note.proves(BIAS, bias.bfloat16().float())
    other = bias.half().float()
    other[1] += 2.0**-8
    assert not note.proves(BIAS, other)
