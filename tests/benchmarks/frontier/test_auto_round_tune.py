"""What AutoRound is given, and which of its weights torch reads; AutoRound itself is not installed here."""

from __future__ import annotations

from pathlib import Path

import torch
from benchmarks.frontier.programs.auto_round_tune import in_16_bits, rows, unpacked
from safetensors.torch import load_file, save_file


def test_rows_have_one_length_and_all_tokens_but_the_last() -> None:
    assert rows([[1, 2, 3], [4], [5, 6, 7, 8]], 3).tolist() == [[1, 2, 3], [4, 5, 6]]


def test_what_is_not_rounded_keeps_its_values() -> None:
    dense = {"norm": torch.tensor([1.0 + 2**-12]), "matrix": torch.tensor([[0.3, -0.7]])}
    rounded = {"norm": dense["norm"].bfloat16(), "matrix": torch.tensor([[0.25, -0.75]]).bfloat16()}
    weights = unpacked(dense, {**rounded, "matrix.scale": torch.ones(1)})
    assert weights.keys() == dense.keys()
    assert torch.equal(weights["norm"], dense["norm"])
    assert torch.equal(weights["matrix"], torch.tensor([[0.25, -0.75]]))


def test_floats_are_stored_in_16_bits(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"table": torch.rand(2, 3), "levels": torch.ones(2, dtype=torch.int32)}, path)
    in_16_bits(path)
    assert {name: value.dtype for name, value in load_file(path).items()} == {
        "table": torch.float16, "levels": torch.int32,
    }  # fmt: skip
