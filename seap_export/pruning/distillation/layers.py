"""The layers of a model that is being trained: weights and running means, in memory or in files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from seap_export.model.layers.kept import keep_tensors, kept_layers, kept_tensors, path_of

#: Training steps after which layers in memory are saved, too.
_SAVE_EVERY = 16


class TrainedLayers:
    """The tensors of each layer before a training step.

    What was saved before is removed only when all layers are saved again, so that training goes on after an
    interruption.
    """

    def __init__(self, folder: Path, number: int, in_memory: bool) -> None:
        self._folder, self.number = folder, number
        self._held: list[dict[str, torch.Tensor]] | None = [{} for _ in range(number)] if in_memory else None
        common = set.intersection(*(set(kept_layers(folder, _name(index))) for index in range(number)))
        self.step: int | None = max(common, default=None)
        if self._held is not None and self.step is not None:
            self._held = [self._read(index, self.step) for index in range(number)]

    def begin(self, layers: Iterable[dict[str, torch.Tensor]]) -> None:
        """Sets the layers as they are before the first training step."""
        for index, tensors in enumerate(layers):
            self._put(index, 0, tensors)
        self.step = 0

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """The tensors of a layer, float32 on the CPU."""
        if self._held is not None:
            return self._held[index]
        if self.step is None:
            raise IndexError(index)
        return self._read(index, self.step)

    def change(self, index: int, tensors: dict[str, torch.Tensor]) -> None:
        """Sets a layer as it is after the current training step."""
        if self.step is None:
            raise IndexError(index)
        self._put(index, self.step + 1, tensors)

    def advance(self) -> None:
        """Goes to the next training step, once all layers are changed."""
        if self.step is None:
            raise IndexError
        self.step += 1
        if self._held is not None and self.step % _SAVE_EVERY == 0:
            for index, tensors in enumerate(self._held):
                keep_tensors(path_of(self._folder, _name(index), self.step), tensors)
        if all(self._path(index).is_file() for index in range(self.number)):
            self._forget()

    def _path(self, index: int) -> Path:
        return path_of(self._folder, _name(index), self.step or 0)

    def _put(self, index: int, step: int, tensors: dict[str, torch.Tensor]) -> None:
        if self._held is None:
            keep_tensors(path_of(self._folder, _name(index), step), tensors)
        else:
            self._held[index] = tensors

    def _read(self, index: int, step: int) -> dict[str, torch.Tensor]:
        return kept_tensors(path_of(self._folder, _name(index), step))

    def _forget(self) -> None:
        for index in range(self.number):
            for step in kept_layers(self._folder, _name(index)):
                if step != self.step:
                    path_of(self._folder, _name(index), step).unlink()


def _name(index: int) -> str:
    return f"trained-{index:05}"
