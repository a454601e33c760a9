"""GPUs that are not there: tensors without values, and tensors of the CPU that say they are on `cuda:0`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

#: For tests of what a machine without a GPU says.
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Every tensor made in this context is a fake one, on whatever device it asks for."""
    with FakeTensorMode(), _Indexing():
        yield


class _Indexing(TorchFunctionMode):
    """Indexing in other words: a torch built for the CPU refuses tensor[...] on CUDA even if there are no values."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.Tensor.__getitem__:
            return _read(*args)
        if function is torch.Tensor.__setitem__:
            return _write(*args)
        return function(*args, **(kwargs or {}))


def _items(index: Any) -> list[Any]:
    return list(index) if isinstance(index, tuple) else [index]


def _read(tensor: torch.Tensor, index: Any) -> torch.Tensor:
    for axis, item in enumerate(_items(index)):
        if isinstance(item, slice):
            start, stop, _ = item.indices(tensor.shape[axis])
            tensor = tensor.narrow(axis, start, max(stop - start, 0))
        elif item is None:
            tensor = tensor.unsqueeze(axis)
    tensors = [item if isinstance(item, torch.Tensor) else None for item in _items(index)]
    return tensor if all(item is None for item in tensors) else torch.ops.aten.index(tensor, tensors)


def _write(tensor: torch.Tensor, index: Any, value: Any) -> None:
    if isinstance(index, torch.Tensor):
        torch.ops.aten.index_fill_(tensor, 0, index, value)
    else:
        torch.ops.aten.copy_(_read(tensor, index), value)


CUDA = torch.device("cuda", 0)


class PretendCuda(torch.Tensor):
    """To torch's own kernels a tensor of the CPU, so that it takes the ways of the CPU; to its users one of CUDA."""

    plain: torch.Tensor

    @staticmethod
    def __new__(cls, plain: torch.Tensor) -> PretendCuda:
        wrapped = torch.Tensor._make_wrapper_subclass(
            cls, plain.size(), strides=plain.stride(), dtype=plain.dtype, device=torch.device("cpu")
        )
        wrapped.plain = plain
        return wrapped

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    def __repr__(self) -> str:  # type: ignore[override]
        return f"PretendCuda({self.plain})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        kwargs = dict(kwargs or {})
        for operand in tree_leaves((args, kwargs)):
            if isinstance(operand, torch.Tensor) and not isinstance(operand, cls) and operand.dim():  # as CUDA has it
                raise RuntimeError(f"{func}: expected all tensors to be on cuda:0, but found one on {operand.device}")
        result = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        if func._schema.is_mutable:  # what is changed in place is handed back
            changed = [tensor for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, cls)]
            return tree_map(lambda tensor: next((c for c in changed if c.plain is tensor), tensor), result)
        return tree_map(lambda tensor: cls(tensor) if isinstance(tensor, torch.Tensor) else tensor, result)


def _inner(value: Any) -> Any:
    return value.plain if isinstance(value, PretendCuda) else value


class _Moves(TorchFunctionMode):
    """Makes and moves tensors for which CUDA is named."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.Tensor.cpu, torch.Tensor.__bool__):
            return func(_inner(args[0]))
        if func is torch.Tensor.to and len(args) == 2 and isinstance(args[1], torch.device):
            return _moved(*args)
        if kwargs.get("device") == CUDA:
            return PretendCuda(func(*args, **{**kwargs, "device": "cpu"}))
        return func(*args, **kwargs)


def _moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    if device == tensor.device:
        return tensor
    return tensor.plain if isinstance(tensor, PretendCuda) else PretendCuda(tensor.detach().clone())


@contextmanager
def pretend_cuda() -> Iterator[torch.device]:
    if torch.__version__.startswith("2.7."):
        pytest.skip("torch 2.7 makes masks on the CPU inside its attention")
    with _Moves():
        yield CUDA
