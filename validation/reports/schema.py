"""The JSON Schema of a validation report."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

__all__ = ["schema"]


def schema() -> dict[str, Any]:
    """The schema (draft 2020-12): strict for the report, its checks and variants, lenient for what they embed."""
    text = resources.files("validation.reports").joinpath("validation.schema.json").read_text("utf-8")
    value: dict[str, Any] = json.loads(text)
    return value
