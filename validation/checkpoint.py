"""Reads the weights of a model folder a layer at a time, in float32, with the changes that a format makes to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path

import torch

from converters.format import StoredWeights
from seap_export.errors import ArtifactError, InputError
from seap_export.model.families import ModelSpec
from seap_export.model.layers.stock import StockModel
from seap_export.model.sources.config import read_spec
from seap_export.model.sources.weights import SafetensorsReader, WeightReader
from validation.quiet import quiet_transformers

#: Stored tensors by name: those of a layer, or one outside the layers.
Weights = dict[str, torch.Tensor]
#: Makes other weights of float32 ones; it sees each tensor by itself, or with all others of its layer.
Change = Callable[[Weights], Weights]


class Checkpoint:
    """A model folder, dense or pruned by this package; no weight is in memory until it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.spec: ModelSpec = read_spec(folder)
            self._reader = SafetensorsReader(folder)
        except InputError as error:
            raise ArtifactError(str(error)) from error
        self._family = self.spec.family
        self._changes: list[Change] = []
        self._stored: StoredWeights | None = None

    def stock(self, attention: str | None, device: torch.device) -> StockModel:
        """transformers' model of the folder, without weights."""
        from transformers import AutoConfig

        try:
            with quiet_transformers():
                # the folder's own copy of the code is not run; ours is registered
                config = AutoConfig.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
                stock = StockModel(config, self.spec, attention, device)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise ArtifactError(f"{self.folder}: cannot be loaded: {' '.join(str(error).split())}") from error
        self._check(stock)
        return stock

    def read_from(self, stored: StoredWeights) -> None:
        """Reads all weights from a written file from now on, and none from the folder."""
        self._stored = stored

    def change(self, change: Change) -> None:
        """Changes all weights that are read from now on, after the changes before it."""
        self._changes.append(change)

    def layer(self, index: int) -> Weights:
        """Reads the stored tensors of a layer, float32 by name, and applies all changes to them."""
        prefix = self._family.names["layer"].format(layer=index)
        return self._read(name for name in self._expected if name.startswith(prefix))

    def rows(self, table: str, tokens: torch.Tensor) -> torch.Tensor:
        """Reads the rows of some tokens, int64 [n], from one of `ModelSpec.token_tables`; other rows are not read."""
        name = self._family.stored(table)
        return self._changed({name: self._from.read([name])[name][tokens]})[name]

    def outer(self, name: str) -> torch.Tensor:
        """A tensor outside the layers by its plain name, such as `norm_bias`; the LM head (`lm_head`) may be tied."""
        stored = self._family.stored(name)
        stored = stored if stored in self._expected else self._family.stored("embed_tokens")
        return self._read([stored])[stored]

    @property
    def after_layers(self) -> list[str]:
        """The plain names of the stored tensors behind the layers: last norm and LM head."""
        parts = ("norm", "norm_bias", "lm_head", "lm_head_bias")
        return [name for name in parts if name == "lm_head" or self._family.names.get(name) in self._expected]

    def bytes_of(self, index: int) -> int:
        """Bytes of a layer's weights in float32."""
        return 4 * sum(prod(shape) for shape in self.spec.layer_tensors(index).values())

    @property
    def outer_bytes(self) -> int:
        """Bytes of the LM head in float32."""
        return 4 * self.spec.vocab_size * self.spec.hidden_size

    def _read(self, names: Iterable[str]) -> Weights:
        return self._changed(self._from.read(list(names)))

    @property
    def _from(self) -> WeightReader | StoredWeights:
        return self._reader if self._stored is None else self._stored

    def _changed(self, weights: Weights) -> Weights:
        weights = {name: tensor.float() for name, tensor in weights.items()}
        for change in self._changes:
            weights = change(weights)
        return weights

    def _check(self, stock: StockModel) -> None:
        """Refuses a folder with other tensors than the model: transformers would fill missing ones at random."""
        head = self._family.stored("lm_head")
        self._expected = {
            name: shape for name, shape in stock.stored_shapes.items() if not (name == head and stock.is_tied)
        }
        stored = self._reader.shapes()
        harmless = (head,) if stock.is_tied else ()
        wrong = {
            "missing": self._expected.keys() - stored.keys(),
            "mismatched": {name for name, shape in self._expected.items() if stored.get(name, shape) != shape},
            "unexpected": {
                name
                for name in stored.keys() - self._expected.keys()
                if name not in harmless and not name.endswith("rotary_emb.inv_freq")
            },
        }
        for kind, names in wrong.items():
            if names:
                raise ArtifactError(f"{self.folder}: {len(names)} {kind} keys in its weights, such as {min(names)}")
