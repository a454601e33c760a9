"""transformers' own model on a GPU that is not there: tensors without data, of which mixed devices raise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from support.chosen import ATTENDING, featured
from support.models import skip_unless_loaded, write_micro_model
from support.variations import VARIATIONS
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from seap_export.model.families import family_of_model_type
from validation.checkpoint import Checkpoint

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
_WITHOUT_VALUES = ("phi3-partial", "lfm2-all", "qwen3_5-all", *sorted({*featured(ATTENDING)} - {"phi3-all"}))


@pytest.mark.skipif(torch.backends.cuda.is_built() and not torch.cuda.is_available(), reason="torch asks for CUDA")
@pytest.mark.parametrize("variation", _WITHOUT_VALUES)
def test_everything_is_on_the_device(variation: str, tmp_path: Path) -> None:
    skip_unless_loaded(family_of_model_type(VARIATIONS[variation]["model_type"]))
    checkpoint = Checkpoint(write_micro_model(tmp_path / "m", **VARIATIONS[variation]))
    spec, _ = checkpoint.spec, checkpoint.stock("eager", torch.device("cpu"))  # so that it knows what is stored
    outer = {name: checkpoint.outer(name) for name in (*spec.embedding_names, *checkpoint.after_layers)}
    layers = [checkpoint.layer(index) for index in range(len(spec.layers))]
    with FakeTensorMode(allow_non_fake_inputs=True), _WithoutCuda():
        stock = checkpoint.stock("eager", CUDA)
        for name in spec.embedding_names:
            stock.load_outer(name, outer[name])
        passage = stock.start([torch.zeros(1, 6, dtype=torch.long), torch.zeros(1, 3, dtype=torch.long)])
        for index, weights in enumerate(layers):
            stock.load(index, weights)
            stock.advance(index, passage)
            stock.release(index)
        for name in checkpoint.after_layers:
            stock.load_outer(name, outer[name])
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
    checkpoint = Checkpoint(write_micro_model(tmp_path / "m", model_type="gpt2", pad_token_id=0))
    stock = checkpoint.stock("eager", torch.device("cpu"))
    for name in checkpoint.spec.embedding_names:
        stock.load_outer(name, checkpoint.outer(name))
    stock.start([torch.zeros(1, 6, dtype=torch.long)])
    assert said == []
