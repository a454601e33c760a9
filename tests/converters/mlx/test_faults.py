"""What is no difference, and what other computations change; `tests/planted/formats` plants the faults."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.editing import edit_json
from support.tokenizers import write_micro_tokenizer

from converters.mlx import MlxFormat
from validation.runtimes.mlx_runner import MlxRunner

Tensors = dict[str, torch.Tensor]
Copied = Callable[[str], Path]
Fault = Callable[[Path], object]


def test_rounding_of_another_machine_is_none(qwen3: Path, copied: Copied) -> None:
    folder = copied("4bit")

    exact = load_file(qwen3 / "model.safetensors")["model.norm.weight"]

    def cut_off(tensors: Tensors) -> None:
        """Towards 0 instead of to the nearest."""
        nearest = exact.half()
        lower = (nearest.view(torch.int16) - 1).view(torch.float16)
        tensors["model.norm.weight"] = torch.where(nearest.float().abs() > exact.abs(), lower, nearest)

    change(folder, cut_off)
    assert not torch.equal(load_file(folder / "model.safetensors")["model.norm.weight"], exact.half())
    assert list(MlxFormat("4bit").differences(qwen3, folder)) == []


def computed(**values: object) -> Fault:
    return lambda folder: edit_json(folder / "config.json", lambda config: config["decoder"].update(values))


def attending(**values: object) -> Fault:
    def fault(config: dict[str, Any]) -> None:
        config["decoder"]["layers"][1]["attention"].update(values)

    return lambda folder: edit_json(folder / "config.json", fault)


def another_rope(folder: Path) -> None:
    edit_json(folder / "config.json", lambda config: config["decoder"]["ropes"][0]["periods"].reverse())


COMPUTED: dict[str, Fault] = {
    "another rope": another_rope,
    "another epsilon": computed(rms_norm_eps=1e-2),
    "another scale": attending(scale=0.1),
    "window": attending(window=4),
}


@pytest.mark.needs("mlx-lm")
@pytest.mark.parametrize(
    "fault",
    [*COMPUTED.values(), computed(qk_norm="after_rotation")],
    ids=[*COMPUTED, "norms after the rotation"],
)
def test_another_computation_changes_logits(copied: Copied, fault: Fault) -> None:
    folder, ids = copied("fp32"), np.arange(3, 33)[None]
    wanted = MlxRunner(folder).prefill(ids, [30])
    fault(folder)
    assert np.abs(MlxRunner(folder).prefill(ids, [30]) - wanted).max() > 1e-2


def test_another_tokenizer_folder_is_damage(qwen3: Path, made: Callable[[str], Path], tmp_path: Path) -> None:
    model = Path(shutil.copytree(qwen3, tmp_path / "hf"))
    write_micro_tokenizer(model)
    (model / "chat_template.jinja").write_text("{{ messages }}")
    assert any("chat_template.jinja: missing" in line for line in MlxFormat().damages(model, made("fp16")))


def change(folder: Path, fault: Callable[[Tensors], object]) -> None:
    """Changes the stored tensors."""
    tensors = load_file(folder / "model.safetensors")
    fault(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "mlx"})
