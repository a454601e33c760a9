"""The sizes of what an export writes, which follow from the model's shapes and the requested ratio."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from converters.format import Format
from converters.hf.format import HfFormat, dtype_name
from seap_export.common.json_file import read_json
from seap_export.model.families import ModelSpec
from seap_export.model.sources.source import Source
from seap_export.model.vocabulary.table import Vocabulary
from seap_export.pruning.plan.sublayers import thinner_layer

#: Bytes of a graph for each layer, and of an artifact's small files.
_GRAPH, _SMALL = 5000, 20_000


@dataclass(frozen=True)
class Sizes:
    """Sizes of the folders of a model or variant.

    Attributes:
        stored: The format of the model folder, in the dtype of the dense model.
        is_folder: Whether the dense model is a folder that transformers loads; if not, it is written as one.
    """

    spec: ModelSpec
    stored: Format
    tokenizer_bytes: int
    is_folder: bool

    @classmethod
    def of_source(cls, source: Source) -> Sizes:
        config = source.files[0]
        with tempfile.TemporaryDirectory() as folder:
            source.write_tokenizer(Path(folder))
            tokenizer_bytes = sum(path.stat().st_size for path in Path(folder).iterdir())
        is_folder = config.name == "config.json" and read_json(config).get("model_type") == source.config["model_type"]
        return cls(source.spec, HfFormat(dtype_name(source.dtype)), tokenizer_bytes, is_folder)

    def variant(self, ratio: float, vocabulary: Vocabulary | None = None) -> Sizes:
        """The sizes of a variant of about this ratio that keeps these tokens; None: all."""
        spec, size = self.spec, self.tokenizer_bytes
        if ratio:
            hidden = spec.hidden_size
            spec = spec.with_layers(tuple(thinner_layer(layer, hidden, 1.0 - ratio) for layer in spec.layers))
        if vocabulary is not None:
            spec, size = spec.with_tokens(len(vocabulary)), size * len(vocabulary) // vocabulary.of
        return replace(self, spec=spec, tokenizer_bytes=size)

    def beside_weights(self, format: Format) -> int:
        """About how many bytes a folder takes besides its weights: tokenizer, graph and settings."""
        return _SMALL + (0 if format.size_has_tokenizer else self.tokenizer_bytes) + _GRAPH * len(self.spec.layers)

    def folder(self, format: Format) -> int:
        """About how many bytes a folder of the format takes."""
        return format.size(self.spec) + self.beside_weights(format)
