"""`LayerSpec`: the sublayers of one decoder layer."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from seap_export.errors import InputError
from seap_export.model.families.names import Projection
from seap_export.model.families.sublayers import Sublayer

Kind = TypeVar("Kind", bound=Sublayer)


@dataclass(frozen=True)
class LayerSpec:
    """One decoder layer.

    Attributes:
        sublayers: Its parts, in the order of use.
    """

    sublayers: tuple[Sublayer, ...]

    def __post_init__(self) -> None:
        if not self.sublayers or len(set(self.outputs)) != len(self.sublayers):
            raise InputError("a layer needs sublayers, each with another output projection")
        if self.sublayers[0].beside:
            raise ValueError("the first sublayer of a layer is beside none")

    def __getitem__(self, kind: type[Kind]) -> Kind:
        """The sublayer of a kind; raises `KeyError` if there is none."""
        for sublayer in self.sublayers:
            if isinstance(sublayer, kind):
                return sublayer
        raise KeyError(kind.__name__)

    @property
    def outputs(self) -> tuple[Projection, ...]:
        """The output projections, which name the sublayers."""
        return tuple(sublayer.output for sublayer in self.sublayers)

    def named(self, output: Projection) -> Sublayer:
        """The sublayer with this output projection; raises `KeyError` if there is none."""
        return dict(zip(self.outputs, self.sublayers, strict=True))[output]

    def is_read_again(self, output: Projection) -> bool:
        """Whether the next sublayer reads the stream that the sublayer of this output projection reads."""
        following = self.outputs.index(output) + 1
        return following < len(self.sublayers) and self.sublayers[following].beside

    def is_held(self, output: Projection) -> bool:
        """Whether this sublayer's output waits for that of the next one, since their sum is normalised."""
        following = self.outputs.index(output) + 1
        return following < len(self.sublayers) and self.sublayers[following].norm_of_sum is not None

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes of all sublayers by the usual keys of config.json."""
        return {key: size for sublayer in self.sublayers for key, size in sublayer.sizes.items()}

    @property
    def projections(self) -> tuple[Projection, ...]:
        """The names of all weight matrices of the layer, in the order of use."""
        return tuple(projection for sublayer in self.sublayers for projection in sublayer.projections)

    def factor(self, projection: Projection) -> float:
        """The factor on the product of a projection that reads the stream."""
        return next(
            (sublayer.factors[projection] for sublayer in self.sublayers if projection in sublayer.factors), 1.0
        )

    @property
    def biases(self) -> frozenset[Projection]:
        return frozenset[Projection]().union(*(sublayer.biases for sublayer in self.sublayers))

    def changed(self, **values: Any) -> LayerSpec:
        """A copy with other values of some attributes, in each sublayer that has them; `biases` are shared out."""
        changed = []
        for sublayer in self.sublayers:
            given = {field.name: values[field.name] for field in fields(sublayer) if field.name in values}
            if "biases" in given:
                given["biases"] = frozenset(given["biases"]) & frozenset(sublayer.projections)
            changed.append(replace(sublayer, **given))
        return LayerSpec(tuple(changed))
