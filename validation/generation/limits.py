"""Where texts of a model end: its end-of-text tokens and its context."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seap_export.families import model_spec
from seap_export.runtime.files import model_limits
from seap_export.sources.config import end_tokens, read_artifact

__all__ = ["Limits", "text_limits"]


@dataclass(frozen=True)
class Limits:
    """Where texts end.

    Attributes:
        ends: Tokens that end a text; none if the model has none.
        context: The most tokens of a text.
        shared: The most tokens of a row of a batch. Some models rotate longer rows otherwise, and transformers then
            all rows of a batch.
    """

    ends: frozenset[int]
    context: int
    shared: int


def text_limits(folder: Path) -> Limits:
    """The limits of a model folder or of an ONNX folder.

    Raises:
        ArtifactError: Its config is missing or damaged.
        InputError: Its config describes a model that is not supported.
    """
    config = folder / "genai_config.json"
    if config.is_file():
        ends, context = model_limits(config)
        return Limits(ends, context, context)
    spec = model_spec(read_artifact(folder / "config.json"))
    switches = [layer.rope.switches_at for layer in spec.layers if layer.rope and layer.rope.switches_at]
    return Limits(end_tokens(folder), spec.max_position_embeddings, min([spec.max_position_embeddings, *switches]))
