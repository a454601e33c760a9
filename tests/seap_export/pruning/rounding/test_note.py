"""The note of a rounded model tells another origin, proves weights, and makes the model again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.editing import edit_weights, set_json
from support.models import micro_source, put_on_grid, rounded_copy
from support.product import BlockQuantization, SafetensorsReader

from seap_export.errors import ArtifactError, InputError
from seap_export.pruning.rounding.note import RoundingNote, read_note
from seap_export.pruning.rounding.restore import restore_rounded_model

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


def test_it_is_read_as_it_was_written_and_a_damaged_one_is_refused(folders: tuple[Path, Path]) -> None:
    note = read_note(folders[1])
    assert note == RoundingNote.of(*folders, HOW)
    assert note.grid == HOW
    assert note.dtype == torch.float32
    assert BIAS in note.rounded
    assert not any("norm" in name or "embed" in name for name in note.rounded)
    assert read_note(folders[0]) is None
    file = folders[1] / "rounding.json"
    written = json.loads(file.read_text("utf-8"))
    changes = ({"schema": "seap-export/rounding/1"}, {"grid": {"bits": 7}}, {"dtype": "int8"})
    for text in (*(json.dumps(written | change) for change in changes), "{}", "[]", "not JSON"):
        file.write_text(text, "utf-8")
        with pytest.raises(ArtifactError, match=r"rounding\.json"):
            read_note(folders[1])


@pytest.mark.parametrize("variation", ["llama-biases", "phi3-all", "gemma2-all"])
def test_a_rounded_model_is_made_again_from_stored_weights(tmp_path: Path, variation: str) -> None:
    hf, rounded, again = (tmp_path / name for name in ("hf", "rounded", "again"))
    micro_source(hf, variation, "bfloat16")
    note = rounded_copy(hf, rounded, BlockQuantization(4))
    again.mkdir()
    assert restore_rounded_model(hf, SafetensorsReader(rounded).read, note, again) == []
    wanted, remade = (load_file(folder / "model.safetensors") for folder in (rounded, again))
    assert wanted.keys() == remade.keys()
    assert all(remade[name].equal(tensor) for name, tensor in wanted.items())
    for name in ("config.json", "rounding.json"):
        assert (rounded / name).read_bytes() == (again / name).read_bytes()
    edit_weights(hf, lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(InputError, match=r"model\.norm\.weight"):
        restore_rounded_model(hf, lambda names: {}, note, tmp_path)


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
