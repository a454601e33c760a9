"""Checks, before a model is written, that a format can hold it; words refusals and remarks that formats share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from converters.format import Format
from seap_export.common.json_file import read_json
from seap_export.errors import InputError
from seap_export.model.families import ModelSpec, model_spec
from seap_export.model.sources.tokenizer import tokenizer_files


def accepted_model(format: Format, folder: Path) -> tuple[dict[str, Any], ModelSpec]:
    """Reads a model folder's config.json, and checks that a format accepts the model; returns the config and its spec.

    Args:
        folder: config.json, generation_config.json if there is one, and the tokenizer; weights are not read.

    Raises:
        UsageError: The format would accept the model with other settings.
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
    """The message that a format cannot hold layers with a part, such as "a sliding window"; None: `part` is None."""
    return None if part is None else f"{format.name} cannot hold a layer with {part}; use another format"


def changing_rotation(spec: ModelSpec, length: int) -> str | None:
    """Names a rotation that changes within `length` tokens, as a part for `cannot_hold`; None: there is none."""
    changes = any(rope.switches_at is not None and rope.switches_at < length for rope in spec.ropes)
    return "a rotation that changes with the length of a text" if changes else None


def remark_on_length(format: Format, spec: ModelSpec, length: int) -> str | None:
    """The remark that a format holds `length` tokens where the context has more; None: it holds the whole context."""
    if length == spec.max_position_embeddings:
        return None
    return f"{format.name} holds {length} tokens of a text, not the model's {spec.max_position_embeddings}"
