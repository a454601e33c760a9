"""transformers' own model on a GPU that is not there: tensors without data, of which mixed devices raise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from support.chosen import ATTENDING, featured
from support.models import skip_unless_loaded, write_micro_model
from support.product import SafetensorsReader, read_spec
from support.variations import VARIATIONS
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from seap_export.model.families import family_of_model_type
from seap_export.model.layers.stock import StockModel

CUDA = torch.device("cuda", 0)


class _WithoutCuda(TorchFunctionMode):
    """What a torch built for the CPU cannot do even for tensors without data, in other words."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.Tensor.__getitem__:
            return _indexed(*args)
        if function is torch.Tensor.to and args[0].device == CUDA:
            return _converted(*args, **(kwargs or {}))
        if function is torch.nn.functional.softmax:
            return torch.ops.aten._softmax(args[0], -1, False)  # all of them are of the last axis, in float32
        if function is torch.Tensor.contiguous:
            return args[0].clone(memory_format=torch.contiguous_format)
        if function is torch.conv1d:
            return _convolved(*args, **kwargs)
        if function is torch.Tensor.copy_:
            return args[0]
        if function is torch.Tensor.__setitem__:
            return None
        if function is torch.tensor and args[0] == []:
            return torch.empty(0, **(kwargs or {}))
        if function is torch.tensor and isinstance(args[0], float):
            return torch.full((), args[0], **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _convolved(tensor: torch.Tensor, *, weight: torch.Tensor, padding: int, **_: Any) -> torch.Tensor:
    return tensor.new_empty(*tensor.shape[:2], tensor.shape[2] + 2 * padding - weight.shape[2] + 1)


def _converted(tensor: torch.Tensor, *to: Any, dtype: Any = None, device: Any = None, **_: Any) -> torch.Tensor:
    for target in to:
        target = target.dtype if isinstance(target, torch.Tensor) else target
        dtype, device = (target, device) if isinstance(target, torch.dtype) else (dtype, target)
    if dtype in (None, tensor.dtype) and device in (None, tensor.device):
        return tensor
    return torch.ops.aten._to_copy(tensor, dtype=dtype, device=device)


def _indexed(tensor: torch.Tensor, index: Any) -> torch.Tensor:
    items = list(index) if isinstance(index, tuple) else [index]
    items = [slice(item[0], item[0] + 1 or None) if isinstance(item, list) else item for item in items]  # of one place
    if any(isinstance(item, torch.Tensor) for item in items):
        return torch.ops.aten.index(tensor, [None if isinstance(item, slice) else item for item in items])
    if Ellipsis in items:
        position, named = items.index(Ellipsis), sum(item is not None for item in items) - 1
        items[position : position + 1] = [slice(None)] * (tensor.dim() - named)
    axis = 0
    for item in items:
        if item is None:
            tensor = tensor.unsqueeze(axis)
        elif isinstance(item, slice):
            tensor = torch.ops.aten.slice(tensor, axis, item.start, item.stop, item.step or 1)
        else:
            tensor, axis = tensor.select(axis, item), axis - 1
        axis += 1
    return tensor


#: longrope asks for the value of a position, Mamba-2 for a triangle of a tensor without data, and a mixture for the
#: experts of a token, which there are none of.
_VARIATIONS = [
    "phi3-partial",
    "lfm2-all",
    "qwen3_5-all",
    *(name for name in featured(ATTENDING) if name != "phi3-all"),
]


@pytest.mark.skipif(torch.backends.cuda.is_built() and not torch.cuda.is_available(), reason="torch asks for CUDA")
@pytest.mark.parametrize("variation", _VARIATIONS)
def test_everything_is_on_the_device(variation: str, tmp_path: Path) -> None:
    from transformers import AutoConfig

    family = family_of_model_type(VARIATIONS[variation]["model_type"])
    skip_unless_loaded(family)
    if family.model_type == "gpt2" and transformers.__version__.startswith("4."):
        pytest.skip("its mask asks for a value")
    folder = write_micro_model(tmp_path / "m", **VARIATIONS[variation])
    spec, tensors = read_spec(folder), SafetensorsReader(folder)
    weights = tensors.read(tensors.shapes())
    config = AutoConfig.from_pretrained(folder)
    head = weights.get(family.stored("lm_head"), weights[family.stored("embed_tokens")])
    with FakeTensorMode(allow_non_fake_inputs=True), _WithoutCuda():
        stock = StockModel(config, spec, "eager", CUDA)
        for name in spec.embedding_names:
            stock.load_outer(name, weights[family.stored(name)])
        passage = stock.start([torch.zeros(1, 6, dtype=torch.long), torch.zeros(1, 3, dtype=torch.long)])
        for index in range(len(spec.layers)):
            prefix = family.names["layer"].format(layer=index)
            stock.load(index, {name: tensor for name, tensor in weights.items() if name.startswith(prefix)})
            stock.advance(index, passage)
            stock.release(index)
        for name in spec.norm_parts("norm"):
            if family.stored(name) in weights:  # OLMo has none
                stock.load_outer(name, weights[family.stored(name)])
        stock.load_outer("lm_head", head)
        if spec.lm_head_bias:
            stock.load_outer("lm_head_bias", weights[family.stored("lm_head_bias")])
        logits = stock.logits(passage.hidden[1])
        taken = [passage.take(index) for index in range(len(spec.layers))]
    assert (logits.device, tuple(logits.shape)) == (CUDA, (1, 3, 96))
    for layer, states in zip(spec.layers, taken, strict=True):
        assert tuple(states) == layer.sublayers[0].states
        assert all(state.device == CUDA for state in states.values())
        assert all(states[name].shape[2] == 9 for name in ("key", "value") if name in states)


def test_no_row_of_a_table_counts_as_padding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(transformers.modeling_utils.logger, "warning_once", said.append)
    folder = write_micro_model(tmp_path / "m", model_type="gpt2", pad_token_id=0)
    spec, weights = read_spec(folder), SafetensorsReader(folder)
    stock = StockModel(transformers.AutoConfig.from_pretrained(folder), spec)
    for name in spec.embedding_names:
        stored = spec.family.stored(name)
        stock.load_outer(name, weights.read([stored])[stored])
    stock.start([torch.zeros(1, 6, dtype=torch.long)])
    assert said == []
