"""What rounding has made of a model passes, and what it cannot have made is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.calibration import TOKEN_IDS, compute_in_memory, mixture_of
from support.editing import edit_weights
from support.models import micro_source

from seap_export.pruning.rounding.grid import BlockQuantization
from seap_export.pruning.rounding.likeness import unlike_tensors
from seap_export.pruning.rounding.write import write_rounded_model

O_PROJ, UP_PROJ, NORM = (
    f"model.layers.1.{part}.weight" for part in ("self_attn.o_proj", "mlp.up_proj", "input_layernorm")
)
HEAD = "lm_head.weight"
Damage = Callable[[dict[str, torch.Tensor]], object]


def _other_row(tensors: dict[str, torch.Tensor]) -> None:
    tensors[UP_PROJ][3] = tensors[UP_PROJ][4]


DAMAGES: dict[str, tuple[str, Damage]] = {
    "negated": (O_PROJ, lambda tensors: tensors[O_PROJ].neg_()),
    "columns permuted": (O_PROJ, lambda tensors: tensors[O_PROJ].copy_(tensors[O_PROJ].roll(1, 1))),
    "doubled": (UP_PROJ, lambda tensors: tensors[UP_PROJ].mul_(2)),
    "another row": (UP_PROJ, _other_row),
    "NaN": (UP_PROJ, lambda tensors: tensors[UP_PROJ][5, 6].fill_(torch.nan)),
    "rows of a table shifted": (HEAD, lambda tensors: tensors[HEAD].copy_(tensors[HEAD].roll(1, 0))),
    "a gain": (NORM, lambda tensors: tensors[NORM][3].neg_()),
}


@pytest.mark.parametrize(
    "how", [BlockQuantization(2), BlockQuantization(4), BlockQuantization(4, rows=True)], ids=lambda how: how.name
)
def test_what_rounding_cannot_have_made_is_named(tmp_path: Path, how: BlockQuantization) -> None:
    source = micro_source(tmp_path / "hf", "llama-biases")
    statistics = mixture_of(source, tmp_path / "statistics", {"boolq": TOKEN_IDS})
    rounded = tmp_path / "rounded"
    rounded.mkdir()
    write_rounded_model(tmp_path / "hf", statistics, how, rounded, compute=compute_in_memory())
    assert list(unlike_tensors(tmp_path / "hf", rounded, how)) == []
    good = (rounded / "model.safetensors").read_bytes()
    missed = {"doubled", "another row"} if how.bits == 2 else set()
    for what, (name, damage) in DAMAGES.items():
        edit_weights(rounded, damage)
        named = [line.name for line in unlike_tensors(tmp_path / "hf", rounded, how)]
        assert (name in named) is (what not in missed), what
        (rounded / "model.safetensors").write_bytes(good)
