"""Reads from a folder's configuration which tokens end a text, and how long a text may get."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seap_export.common.json_file import read_artifact
from seap_export.model.families import model_spec
from seap_export.model.sources.config import end_tokens
from seap_export.runtime.files import model_limits


@dataclass(frozen=True)
class TextLimits:
    """The tokens that end a model's texts, and how long texts may get.

    Attributes:
        ends: Tokens that end a text; none if the model has none.
        context: The most tokens of a text.
        shared: The most tokens of a row of a batch. Some models rotate longer rows otherwise, and transformers then
            all rows of a batch; of others it pads no row as it should.
    """

    ends: frozenset[int]
    context: int
    shared: int


def text_limits(folder: Path) -> TextLimits:
    """The limits of a model folder or of an ONNX folder."""
    config = folder / "genai_config.json"
    if config.is_file():
        ends, context = model_limits(config)
        return TextLimits(ends, context, context)
    spec = model_spec(read_artifact(folder / "config.json"))
    context, switches = spec.max_position_embeddings, [rope.switches_at for rope in spec.ropes if rope.switches_at]
    shared = min([context, *switches]) if all(sublayer.pads_left for sublayer in spec.sublayers) else 0
    return TextLimits(end_tokens(folder), context, shared)
