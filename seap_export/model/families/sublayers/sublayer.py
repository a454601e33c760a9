"""The base class of all kinds of sublayers: their connection to the residual stream, and their tensors."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from seap_export.model.families.names import Norm, Projection


@dataclass(frozen=True, kw_only=True)
class Sublayer(ABC):
    """A part of a layer: x += m N2(W channels(N1(x))), with norms N1 and N2 or none, and m its multiplier.

    Of two side by side, there may be one more norm of their sum. Behind the last sublayer of a layer, x may be
    multiplied by a number of the layer.

    The output projection W also names the sublayer: no layer has two of one name.

    Attributes:
        biases: Its projections that have a bias.
        factors: The factors on the products of some of `readers`, their biases included.
        norm_before: N1; None: it reads the stream as it is.
        beside: Whether it reads the stream that the sublayer before it read, without what that one adds.
        norm_of_sum: The norm of the sum of what it and the sublayer before it write, which stand side by side; None:
            each is added as it is.
        scales_stream: Whether x is multiplied by a number of the layer behind it.
    """

    #: The output projection.
    output: ClassVar[Projection]
    #: The sublayer in words, for messages about a layer that has it.
    noun: ClassVar[str]
    #: The part of a layer that names its nodes and tensors.
    label: ClassVar[str]
    #: The keys of config.json that give its sizes, which are its attributes too.
    size_keys: ClassVar[tuple[str, ...]]
    #: The norms before and after it, where a family has them.
    norms_around: ClassVar[tuple[Norm | None, Norm]]
    #: Whether the covariance of its channels is taken, and its output projection fitted by it.
    has_covariance: ClassVar[bool] = True

    #: The names of the states that it keeps of earlier tokens.
    states: ClassVar[tuple[str, ...]] = ()
    #: Whether a text can go on from an earlier token with what it keeps of a later one.
    can_rewind: ClassVar[bool] = True

    biases: frozenset[Projection] = frozenset()
    multiplier: float = 1.0
    factors: Mapping[Projection, float] = field(default_factory=dict, hash=False)
    norm_before: Norm | None = None
    norm_after: Norm | None = None
    beside: bool = False
    norm_of_sum: Norm | None = None
    scales_stream: bool = False

    @property
    @abstractmethod
    def readers(self) -> tuple[Projection, ...]:
        """The projections that read the stream."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """Number of inputs of the output projection."""

    @property
    def unit(self) -> int:
        """How many consecutive channels go together: a head's, or 1."""
        return 1

    @property
    def blocks(self) -> int:
        """Number of equal parts of the channels that are fitted one by one: its experts, or 1."""
        return 1

    @property
    def whole_because(self) -> str | None:
        """Why nothing can be removed from it, since it would change what is left; None: units can be removed."""
        return None

    @property
    def extra(self) -> str | None:
        """A part that others of its kind lack, in words for messages; None: it has none."""
        return None if self.norm_of_sum is None else "a norm of what two parts write together"

    @abstractmethod
    def widths(self) -> Mapping[Projection, int]:
        """Number of outputs of each of `readers`."""

    @property
    def pads_left(self) -> bool:
        """Whether transformers computes a text that is padded on the left as it does the text alone."""
        return True

    @property
    def steps_differ(self) -> bool:
        """Whether a call of a single token after others computes something else than a longer one does for it."""
        return False

    def inner_norms(self) -> Mapping[str, int]:
        """The norms between its projections, and their widths."""
        return {}

    def inner_tensors(self) -> Mapping[str, tuple[int, ...]]:
        """Further tensors between its projections, and their shapes; see `Kept.rows` for what their rows are of."""
        return {}

    @property
    def written_biases(self) -> tuple[str, ...]:
        """The ones of `inner_tensors` that are added to the product of its output projection."""
        return ()

    @property
    def scalable(self) -> Projection | None:
        """The one of `readers` that scales the channels when it is scaled, and nothing else; None: there is none."""
        return None

    @property
    def channel_rows(self) -> tuple[Projection, Sequence[int]] | None:
        """The reader whose rows scale channels when they are scaled, and nothing else, and the row of each channel."""
        return None if self.scalable is None else (self.scalable, range(self.channels))

    def rounded(self, hidden_size: int, block_size: int) -> tuple[Projection, ...]:
        """The ones of `projections` that are rounded to few bits in blocks of a row."""
        return self.projections

    @property
    def projections(self) -> tuple[Projection, ...]:
        """The names of all its matrices, in the order of use."""
        return (*self.readers, self.output)

    @property
    def norms(self) -> tuple[Norm, ...]:
        """The norms of the stream around it, in the order of use."""
        return tuple(norm for norm in (self.norm_before, *self.norms_behind) if norm is not None)

    @property
    def norms_behind(self) -> tuple[Norm, ...]:
        """The norms that its output goes through."""
        return tuple(norm for norm in (self.norm_after, self.norm_of_sum) if norm is not None)

    @property
    def sizes(self) -> dict[str, int]:
        """Its sizes by the usual keys of config.json."""
        return {key: int(getattr(self, key)) for key in self.size_keys}

    @property
    def derived_sizes(self) -> dict[str, int]:
        """Values of further keys of config.json that follow from its sizes."""
        return {}

    def shapes(self, hidden_size: int) -> dict[Projection, tuple[int, int]]:
        """The (out, in) shape of each of `projections`."""
        readers: dict[Projection, tuple[int, int]] = {name: (out, hidden_size) for name, out in self.widths().items()}
        return {**readers, self.output: (hidden_size, self.channels)}

    def weights(self, hidden_size: int) -> int:
        """Number of weights in its projections, without norms and biases."""
        return sum(map(math.prod, self.shapes(hidden_size).values()))

    def active_weights(self, hidden_size: int) -> int:
        """Number of weights that compute each token: all, unless a router chooses among experts."""
        return self.weights(hidden_size)
