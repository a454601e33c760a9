"""Tensors on a GPU that is not there: no values, but devices and shapes, and the errors of mixing devices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

__all__ = ["fake_tensors"]


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
    for place, item in enumerate(_items(index)):
        if isinstance(item, slice):
            start, stop, _ = item.indices(tensor.shape[place])
            tensor = tensor.narrow(place, start, max(stop - start, 0))
        elif item is None:
            tensor = tensor.unsqueeze(place)
    tensors = [item if isinstance(item, torch.Tensor) else None for item in _items(index)]
    return tensor if all(item is None for item in tensors) else torch.ops.aten.index(tensor, tensors)


def _write(tensor: torch.Tensor, index: Any, value: Any) -> None:
    if isinstance(index, torch.Tensor):
        torch.ops.aten.index_fill_(tensor, 0, index, value)
    else:
        torch.ops.aten.copy_(_read(tensor, index), value)
