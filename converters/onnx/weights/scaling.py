"""Powers of two that keep the activations of an fp16 graph within its range, without a change of its results.

Each factor cancels: a norm undoes one in front of it if its epsilon is scaled alike, and a product takes one into its
weights.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from converters.onnx.notes import read_notes
from seap_export.errors import ArtifactError
from seap_export.model.families import ModelSpec, names
from seap_export.model.families.names import Projection
from seap_export.model.sources.weights import WeightReader

#: Metadata key under which a graph records its scaling, if it has any.
SCALING_NOTE = "seap_export.scaling"
#: The largest exponent of a note that is believed.
_MOST_NOTED = 24


@dataclass(frozen=True)
class Scaling:
    """Exponents: where the model has x, the graph has x * 2^-exponent.

    Attributes:
        stream: Exponent of the residual stream and of what is added to it.
        outputs: Exponents of the products of output projections that a norm follows, by the projection's name; others
            are added to the stream and scaled like it.
        inputs: Exponents of the inputs of output projections, by the projection's name.
    """

    stream: int = 0
    outputs: Mapping[str, int] = field(default_factory=dict)
    inputs: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def noted(cls, metadata: Mapping[str, str], model: object) -> Scaling:
        """The scaling that a graph's metadata record; none if they record nothing.

        Args:
            model: The graph's file, for the error message.

        Raises:
            ArtifactError: The note is damaged.
        """
        try:
            scaling = cls(**json.loads(metadata.get(SCALING_NOTE, "{}")))
            exponents = (scaling.stream, *scaling.outputs.values(), *scaling.inputs.values())
            if all(type(exponent) is int and 0 <= exponent <= _MOST_NOTED for exponent in exponents):
                return scaling
        except (TypeError, ValueError, AttributeError):
            pass
        raise ArtifactError(f"{model}: its metadata hold a damaged '{SCALING_NOTE}'; convert it again")

    def note(self) -> str:
        """The text that a graph's metadata record, for `noted`."""
        return json.dumps(asdict(self))

    def output(self, spec: ModelSpec, output: Projection, layer: int) -> int:
        is_normed = spec.layers[layer].named(output).norm_after is not None
        return self.outputs.get(names.tensor(output, layer), 0) if is_normed else self.stream

    def input(self, output: Projection, layer: int) -> int:
        return self.inputs.get(names.tensor(output, layer), 0)

    def normed(self, spec: ModelSpec) -> int:
        """The exponent of what the last norm gives: a tied LM head multiplies it with the scaled embedding."""
        return -self.stream if spec.tie_word_embeddings and self.scales_table(spec) else 0

    def scales_table(self, spec: ModelSpec) -> bool:
        """Whether the embedding's table is scaled, and not the factor on what is looked up."""
        return self.stream != 0 and spec.block.embedding_multiplier == 1.0

    def tensors(self, spec: ModelSpec) -> dict[str, int]:
        """For each tensor that differs from the model's the exponent e of its factor 2^e."""
        exponents: Counter[str] = Counter()
        if self.scales_table(spec):
            exponents[names.tensor("embed_tokens")] = -self.stream
        if spec.position_offset is not None:
            exponents[names.tensor("positions")] = -self.stream
        for part in spec.norm_parts("norm"):
            exponents[names.tensor(part)] = -self.normed(spec)
        for index, layer in enumerate(spec.layers):
            for sublayer in layer.sublayers:
                output = sublayer.output
                into, out = self.input(output, index), self.output(spec, output, index)
                if sublayer.norm_before is None:
                    exponents.update({names.weight(reader, index): self.stream for reader in sublayer.readers})
                exponents[names.weight(output, index)] += into - out
                if output in sublayer.biases:
                    exponents[names.bias(output, index)] -= out
                exponents.update({names.tensor(bias, index): -out for bias in sublayer.written_biases})
                for norm in sublayer.norms_behind:
                    exponents[names.tensor(norm, index)] -= self.stream
                if sublayer.scalable is not None:
                    exponents[names.weight(sublayer.scalable, index)] -= into
                    if sublayer.scalable in sublayer.biases:
                        exponents[names.bias(sublayer.scalable, index)] -= into
        return {name: exponent for name, exponent in exponents.items() if exponent}


def read_scaling(model: Path) -> Scaling:
    """The scaling of an .onnx file; does not read its data file.

    Raises:
        ArtifactError: The file cannot be read, or the note of the scaling is damaged.
    """
    return Scaling.noted(read_notes(model), model)


def scaled_epsilon(epsilon: float, exponent: int) -> float:
    """The epsilon of a norm that reads values with this exponent: their squares are scaled by 4^-exponent."""
    return math.ldexp(epsilon, -2 * exponent)


class ScaledReader:
    """Weights of which some are multiplied by powers of two."""

    def __init__(self, reader: WeightReader, exponents: Mapping[str, int]) -> None:
        self._reader, self._exponents = reader, exponents

    def dtypes(self) -> dict[str, torch.dtype]:
        """The dtype of each tensor, as it is stored."""
        return self._reader.dtypes()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor."""
        return self._reader.shapes()

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Reads the named tensors; the factors are exact, because none is in float16 when it is multiplied."""
        return {name: self._scaled(name, tensor) for name, tensor in self._reader.read(names).items()}

    def _scaled(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        exponent = self._exponents.get(name, 0)
        if exponent == 0:
            return tensor
        return (tensor.float() if tensor.dtype == torch.float16 else tensor) * 2.0**exponent
