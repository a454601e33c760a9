"""What formats say of a model before they write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from converters.format import Format
from seap_export.common.json_file import read_json
from seap_export.errors import InputError
from seap_export.model.families import ModelSpec, model_spec
from seap_export.model.sources.tokenizer import tokenizer_files


def accepted_model(format: Format, folder: Path) -> tuple[dict[str, Any], ModelSpec]:
    """The config.json of a model folder, and what it describes.

    Args:
        format: The format that the model is to be written in.
        folder: config.json, generation_config.json if there is one, and the tokenizer; weights are not read.

    Raises:
        UsageError: Other settings of the format would do.
        InputError: A file is missing or damaged, or the format refuses the model.
        EnvironmentFailure: A package that the format needs for this is missing.
    """
    config = read_json(folder / "config.json")
    spec = model_spec(config)
    tokenizer_files(folder)
    reason = format.refusal(spec, folder)
    if reason is not None:
        raise InputError(reason)
    return config, spec


def cannot_hold(format: Format, part: str | None) -> str | None:
    """The refusal because of a part of a model's layers; None: there is no such part."""
    return None if part is None else f"{format.name} cannot hold a layer with {part}; use another format"


def changing_rotation(spec: ModelSpec, length: int) -> str | None:
    """The words for a rotation that is another one for texts that fill a cache of this length; None: there is none."""
    changes = any(rope.switches_at is not None and rope.switches_at < length for rope in spec.ropes)
    return "a rotation that changes with the length of a text" if changes else None


def remark_on_length(format: Format, spec: ModelSpec, length: int) -> str | None:
    """That a format holds fewer tokens than the context has; None: it holds all."""
    if length == spec.max_position_embeddings:
        return None
    return f"{format.name} holds {length} tokens of a text, not the model's {spec.max_position_embeddings}"
