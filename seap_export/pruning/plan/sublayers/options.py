"""`Options`, the base class of the ways to shrink each kind of sublayer, with their losses and costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from seap_export.model.families import ModelSpec, Sublayer
from seap_export.pruning.activations.task_mixture import TaskMixture
from seap_export.pruning.plan.cost import CostModel
from seap_export.pruning.plan.sublayers.kept import Kept

S = TypeVar("S", bound=Sublayer)


@dataclass(frozen=True, eq=False)
class Options(ABC, Generic[S]):
    """The ways to shrink one sublayer, smallest first; the last keeps everything, without loss.

    A loss is the squared error of the residual stream, mean over tokens, so that all sublayers are comparable. An
    option is given by its index.
    """

    #: The class of the kind's plans.
    kept_type: ClassVar[type[Kept]]

    dense: S
    hidden_size: int

    @classmethod
    @abstractmethod
    def whole(cls, dense: S, hidden_size: int) -> Self:
        """The one option of a sublayer that has to stay whole."""

    @classmethod
    @abstractmethod
    def from_scores(cls, dense: S, hidden_size: int, scores: torch.Tensor) -> Self:
        """The options where each channel is scored by itself: a loss is the sum of the scores removed.

        Args:
            scores: Scores of its channels, float64 [units, channels of a unit], or [units] if each unit is a channel.
        """

    @classmethod
    def statistics(cls, mixture: TaskMixture, layer: int) -> Any:
        """The statistics of a layer's tokens for `from_elimination`: the covariance of the channels."""
        return mixture.covariance(layer, cls.kept_type.kind.output)

    @classmethod
    @abstractmethod
    def from_elimination(cls, dense: S, hidden_size: int, weight: torch.Tensor, statistics: Any, ridge: float) -> Self:
        """The options where what is left is refitted; the losses are those of `Refit`.

        Args:
            weight: The output projection, [hidden_size, channels], where this is computed.
            statistics: As `statistics` gives it: the centred covariance of its input, float64 [channels, channels],
                contiguous; it is overwritten.
            ridge: Ridge of the refit, as a fraction of the sum of the variances.
        """

    @classmethod
    def from_tensors(cls, dense: S, hidden_size: int, tensors: Mapping[str, torch.Tensor]) -> Self:
        """Makes options of what `tensors` returned."""
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
        return cls(dense, hidden_size, **arrays)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The options as tensors by name, to be stored: all arrays."""
        arrays = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: torch.from_numpy(array.copy()) for name, array in arrays if isinstance(array, np.ndarray)}

    @classmethod
    @abstractmethod
    def about(cls, dense: S, fraction: float) -> S:
        """The sublayer with about this fraction of its weights."""

    @classmethod
    @abstractmethod
    def smallest(cls, dense: S, align: int) -> S:
        """The smallest form of the sublayer, where single channels come in multiples of `align`."""

    @classmethod
    def is_loaded(cls, spec: ModelSpec, shrunk: S) -> bool:
        """Whether the family's transformers class takes layers of this shape, where all are alike."""
        return True

    @classmethod
    def smallest_loaded(cls, spec: ModelSpec, dense: S, align: int) -> S:
        """The smallest form that the family's transformers class takes where all layers are alike."""
        smallest = cls.smallest(dense, align)
        return smallest if cls.is_loaded(spec, smallest) else dense

    @classmethod
    def beyond_weights(cls, sublayer: S, cost: CostModel) -> int:
        """The cost of a sublayer, dense or shrunk, besides its weights."""
        return 0

    @classmethod
    def cost_of(cls, sublayer: S, hidden_size: int, cost: CostModel) -> int:
        """The cost of a sublayer, dense or shrunk."""
        return sublayer.weights(hidden_size) + cls.beyond_weights(sublayer, cost)

    def aligned(self, align: int) -> Options[S]:
        """The options in which single channels come in multiples of `align`."""
        return self

    def preferring(self, tolerance: float) -> Options[S]:
        """The options with losses 1 + `tolerance` times as high where a shape makes kernels slow."""
        return self

    @property
    @abstractmethod
    def losses(self) -> npt.NDArray[np.float64]:
        """The loss of each option, float64."""

    @abstractmethod
    def costs(self, cost: CostModel) -> npt.NDArray[np.int64]:
        """The cost of each option, int64, ascending for weights."""

    @abstractmethod
    def shrunk(self, option: int) -> S:
        """The sublayer that an option leaves."""

    @abstractmethod
    def kept(self, option: int) -> Kept:
        """The plan of an option: the units that it keeps."""

    @abstractmethod
    def nearest(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """The options that come nearest to some numbers of weights."""

    @abstractmethod
    def of_units(self, units: npt.NDArray[np.bool_]) -> int:
        """The option that comes nearest to a set of units, given as a mask over all."""


def covariance_for(weight: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """The covariance of a weight's input, where the weight is; raises `ValueError` if it cannot be that."""
    if covariance.shape != (weight.shape[1],) * 2 or not bool(covariance.isfinite().all()):
        raise ValueError("a covariance must be finite, and as wide as the weight's input")
    return covariance.to(weight.device)
