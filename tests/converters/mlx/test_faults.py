"""Faults planted in good folders, each found by what looks for it; those that are not are listed with the reason."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.editing import edit_json, set_json
from support.tokenizers import write_micro_tokenizer

from converters.mlx import MlxFormat
from seap_export.errors import ArtifactError
from validation.runtimes.mlx_runner import MlxRunner

Tensors = dict[str, torch.Tensor]
Copied = Callable[[str], Path]
Fault = Callable[[Path], object]
_LAYER = "model.layers.2"


def rows_swapped(tensors: Tensors) -> None:
    weight = tensors[f"{_LAYER}.self_attn.q_proj.weight"]
    weight[[0, 1]] = weight[[1, 0]]


def keys_for_values(tensors: Tensors) -> None:
    names = [f"{_LAYER}.self_attn.{part}_proj.weight" for part in "kv"]
    tensors[names[0]], tensors[names[1]] = tensors[names[1]], tensors[names[0]]


def bias_of_zeros(tensors: Tensors) -> None:
    tensors["model.layers.1.mlp.down_proj.bias"] = torch.zeros_like(tensors["model.layers.1.mlp.down_proj.bias"])


def gain_without_its_one(tensors: Tensors) -> None:
    tensors["model.norm.weight"] = tensors["model.norm.weight"] - 1


def one_number_of_the_table(tensors: Tensors) -> None:
    tensors["model.embed_tokens.weight"][5, 7] += 0.01


def a_nan(tensors: Tensors) -> None:
    tensors["lm_head.weight"][0, 0] = float("nan")


@pytest.mark.parametrize(
    "fault", [rows_swapped, keys_for_values, bias_of_zeros, gain_without_its_one, one_number_of_the_table, a_nan]
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_another_number_is_a_difference(
    qwen3: Path, copied: Copied, fault: Callable[[Tensors], None], precision: str
) -> None:
    folder = copied(precision)
    change(folder, fault)
    assert list(MlxFormat(precision).differences(qwen3, folder)) != []


def a_scale_off(tensors: Tensors) -> None:
    tensors[f"{_LAYER}.mlp.up_proj.scales"][3, 1] *= 1.05


def an_offset_off(tensors: Tensors) -> None:
    tensors[f"{_LAYER}.mlp.up_proj.biases"][3, 1] += 0.05


def nibbles_in_another_order(tensors: Tensors) -> None:
    name = f"{_LAYER}.self_attn.k_proj.weight"
    octets = tensors[name].view(torch.uint8)
    tensors[name] = ((octets >> 4) | (octets << 4)).view(torch.uint32)


def words_in_another_order(tensors: Tensors) -> None:
    name = f"{_LAYER}.self_attn.k_proj.weight"
    tensors[name] = tensors[name].view(torch.int32).flip(1).contiguous().view(torch.uint32)


def scales_of_another_row(tensors: Tensors) -> None:
    name = "model.embed_tokens.scales"
    tensors[name] = tensors[name].roll(1, 0)


@pytest.mark.parametrize(
    "fault", [a_scale_off, an_offset_off, nibbles_in_another_order, words_in_another_order, scales_of_another_row]
)
@pytest.mark.parametrize("precision", ["8bit", "4bit"])
def test_other_quantised_numbers_are_a_difference(
    qwen3: Path, copied: Copied, fault: Callable[[Tensors], None], precision: str
) -> None:
    folder = copied(precision)
    change(folder, fault)
    assert len(list(MlxFormat(precision).differences(qwen3, folder))) == 1


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


def stored(edit: Callable[[Tensors], object]) -> Fault:
    return lambda folder: change(folder, edit)


def told(file: str, **values: object) -> Fault:
    return lambda folder: set_json(folder / file, **values)


def computed(**values: object) -> Fault:
    return lambda folder: edit_json(folder / "config.json", lambda config: config["decoder"].update(values))


def text(file: str, edit: Callable[[str], str]) -> Fault:
    return lambda folder: (folder / file).write_text(edit((folder / file).read_text()))


def missing(file: str) -> Fault:
    return lambda folder: (folder / file).unlink()


def another_rope(folder: Path) -> None:
    edit_json(folder / "config.json", lambda config: config["decoder"]["ropes"][0]["periods"].reverse())


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


_UP, _NORM = f"{_LAYER}.mlp.up_proj.weight", "model.norm.weight"
#: What can no longer be compared with the model.
UNREADABLE: dict[str, Fault] = {
    "truncated": truncated,
    "a bias is missing": stored(lambda tensors: tensors.pop("model.layers.1.mlp.down_proj.bias")),
    "transposed": stored(lambda tensors: tensors.update({_UP: tensors[_UP].T.contiguous()})),
}
COMPUTED: dict[str, Fault] = {
    "another rope": another_rope,
    "another epsilon": computed(rms_norm_eps=1e-2),
    "another scale": computed(attention_scale=0.1),
}
DAMAGED: dict[str, Fault] = {
    **UNREADABLE,
    **COMPUTED,
    "a tensor too many": stored(lambda tensors: tensors.update(other=torch.zeros(3))),
    "another dtype": stored(lambda tensors: tensors.update({_NORM: tensors[_NORM].float()})),
    "the tokenizer of another model": text("tokenizer.json", lambda text: text.replace('"cat"', '"cow"')),
    "no tokenizer": missing("tokenizer.json"),
    "another tokenizer config": told("tokenizer_config.json", eos_token="the"),
    "another end of text": told("generation_config.json", eos_token_id=7),
    "another end in the config": told("config.json", eos_token_id=7),
    "another group": told("config.json", quantization={"group_size": 32, "bits": 8}),
    "no model file": missing("modeling_mlx.py"),
    "another activation in the model file": text("modeling_mlx.py", lambda text: text.replace("nn.silu", "nn.relu")),
    "half a model file": text("modeling_mlx.py", lambda text: text[: text.index("def turned") + 9]),
}


@pytest.mark.parametrize("fault", DAMAGED)
def test_it_is_damage(qwen3: Path, copied: Copied, fault: str) -> None:
    folder = copied("fp16")
    DAMAGED[fault](folder)
    (line,) = MlxFormat("fp16").damages(qwen3, folder)
    assert line.startswith(str(folder))
    assert "\n" not in line
    if fault in UNREADABLE:
        with pytest.raises(ArtifactError):
            list(MlxFormat("fp16").differences(qwen3, folder))


@pytest.mark.needs("mlx-lm")
@pytest.mark.parametrize(
    "fault",
    [
        *COMPUTED.values(),
        computed(qk_norm="after_rotation"),
        lambda folder: edit_json(
            folder / "config.json", lambda config: config["decoder"]["layers"][1].update(window=4)
        ),
    ],
    ids=[*COMPUTED, "norms after the rotation", "window"],
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
