"""A rounded model that is made again from stored weights is the same, or what differs is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file
from support.editing import edit_weights
from support.models import micro_source, rounded_copy
from support.product import SafetensorsReader

from seap_export.errors import InputError
from seap_export.pruning.rounding.grid import BlockQuantization
from seap_export.pruning.rounding.note import RoundingNote
from seap_export.pruning.rounding.restore import restore_rounded_model


@pytest.mark.parametrize("variation", ["llama-biases", "phi3-all", "gemma2-all"])
def test_it_is_made_again(tmp_path: Path, variation: str) -> None:
    hf, rounded, again = (tmp_path / name for name in ("hf", "rounded", "again"))
    micro_source(hf, variation, "bfloat16")
    note = rounded_copy(hf, rounded, BlockQuantization(4))
    again.mkdir()
    stored = SafetensorsReader(rounded)
    assert restore_rounded_model(hf, stored.read, note, again) == []
    wanted, remade = (load_file(folder / "model.safetensors") for folder in (rounded, again))
    assert wanted.keys() == remade.keys()
    assert all(remade[name].equal(tensor) for name, tensor in wanted.items())
    for name in ("config.json", "rounding.json"):
        assert (rounded / name).read_bytes() == (again / name).read_bytes()


def test_a_model_folder_without_a_tensor_is_refused(tmp_path: Path) -> None:
    micro_source(tmp_path / "hf", "llama-biases")
    note = RoundingNote.of(tmp_path / "hf", tmp_path / "hf", BlockQuantization(4))
    edit_weights(tmp_path / "hf", lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(InputError, match=r"model\.norm\.weight"):
        restore_rounded_model(tmp_path / "hf", lambda names: {}, note, tmp_path)
