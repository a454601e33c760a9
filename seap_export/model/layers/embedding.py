"""The embedding of tokens, of their positions where a model has them, and the inputs of layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

from seap_export.model.families import ModelSpec, names
from seap_export.model.layers.batches import Batch
from seap_export.model.layers.sublayers.norm import rms_norm


@dataclass(frozen=True)
class Embedding:
    """Embedding tables; only the rows that occur are converted to float32.

    Attributes:
        tokens: The embedding of each token, [vocab_size, hidden_size].
        positions: The embedding of each position, which is added, [rows, hidden_size]; None: there is none.
        inputs: The table with the inputs of all layers, [vocab_size, layers * inputs]; the projection of the
            embedding that is added to them, [layers * inputs, hidden_size]; and the gain of its norm, [inputs]. None:
            layers have no inputs.
    """

    tokens: torch.Tensor
    positions: torch.Tensor | None = None
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor]) -> Embedding:
        """Makes an embedding of tensors, by their names in `ModelSpec.embedding_names`."""
        table, *others = (tensors.get(name) for name in names.INPUT_TABLES)
        inputs = None if table is None else (table, *others)
        return cls(tensors["embed_tokens"], tensors.get("positions"), inputs)  # type: ignore[arg-type]

    def rows(self, tokens: torch.Tensor) -> Embedding:
        """The embedding of some tokens alone, under new ids in that order."""
        inputs = None if self.inputs is None else (self.inputs[0][tokens], *self.inputs[1:])
        return Embedding(self.tokens[tokens], self.positions, inputs)

    def __call__(self, spec: ModelSpec, batch: Batch) -> torch.Tensor:
        """The hidden states before the first layer at the real tokens of a batch, float32 [tokens, spec.width]."""
        ids = batch.input_ids[batch.real]
        rows = self.tokens[ids].to(batch.device).float()
        multiplier = spec.block.embedding_multiplier
        rows = rows if multiplier == 1.0 else rows * multiplier
        if self.positions is not None:
            numbers = batch.real.cumsum(1)[batch.real] - 1 + (spec.position_offset or 0)
            rows = rows + self.positions[numbers].to(batch.device).float()
        if self.inputs is not None:
            rows = torch.cat((rows, self._inputs(spec, ids, rows)), 1)
        return functional.pad(rows, (0, spec.width - rows.shape[1]))

    def _inputs(self, spec: ModelSpec, ids: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """The inputs of all layers, float32 [tokens, layers * inputs], given the embeddings of the tokens."""
        assert self.inputs is not None
        table, projection, gain = self.inputs
        number, device = spec.layer_inputs, embedded.device
        of_token = table[ids].to(device).float() * number**0.5
        of_embedding = functional.linear(embedded, projection.to(device).float()) * spec.hidden_size**-0.5
        normed = rms_norm(of_embedding.unflatten(1, (-1, number)), gain.to(device).float(), spec.norm.epsilon)
        return (normed.flatten(1) + of_token) * 2**-0.5
