"""router.json: a router's classes, their variants, and its accuracy on held-out prompts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seap_export.common.json_file import read_artifact
from seap_export.errors import ArtifactError

ROUTER_SCHEMA = "seap-export/router/1"
#: The router's folder in an output folder, and the files in it.
ROUTER_FOLDER = "router"
ROUTER_GRAPH = "router.onnx"
ROUTER_MANIFEST = "router.json"
#: In the place of a ratio: the variants that were chosen to meet targets, each of its own ratio.
CHOSEN = "chosen"
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class RouterManifest:
    """The content of router.json.

    Attributes:
        source: Name and SHA-256 of the dense model whose embeddings the router uses.
        classes: The tasks, in the order of the graph's outputs.
        seed: Seed of the split into calibration and held-out texts.
        max_length: Longer prompts are truncated to this many tokens.
        threshold: Predictions with a lower probability are uncertain.
        calibration_prompts: Number of prompts of each class that the router was fitted on.
        held_out: Results on held-out prompts; see docs/run.md.
        variants: The variant of each class at each ratio, as the name of a folder next to the router's; ratios are
            written as in folder names, or `CHOSEN`.
        fallback: The variant for uncertain prompts at each ratio; None if there is none.
    """

    source: Mapping[str, str]
    classes: tuple[str, ...]
    seed: int
    max_length: int
    threshold: float
    calibration_prompts: Mapping[str, int]
    held_out: Mapping[str, Any]
    variants: Mapping[str, Mapping[str, str]]
    fallback: Mapping[str, str | None]

    def __post_init__(self) -> None:
        """Raises `ValueError` if a value is not valid."""
        _require(len(set(self.classes)) == len(self.classes) >= 2, "'classes' must be two or more different tasks")
        _require(_is_int(self.seed) and _is_int(self.max_length), "'seed' and 'max_length' must be whole numbers")
        _require(self.max_length >= 1, "'max_length' must be at least 1")
        _require(_is_probability(self.threshold), "'threshold' must be a number from 0 to 1")
        for name in ("source", "calibration_prompts", "held_out", "variants", "fallback"):
            _require(isinstance(getattr(self, name), Mapping), f"'{name}' must be an object")
        _require(bool(self.variants), "'variants' must name at least one ratio")
        _require(self.fallback.keys() == self.variants.keys(), "'fallback' must have the same ratios as 'variants'")
        for ratio, variants in self.variants.items():
            _require(isinstance(variants, Mapping), f"'variants' of {ratio} must be an object")
            _require(set(variants) == set(self.classes), f"'variants' of {ratio} must name one for each class")
            _require(all(map(_is_folder_name, variants.values())), f"'variants' of {ratio} must be folder names")
        for folder in self.fallback.values():
            _require(folder is None or _is_folder_name(folder), "'fallback' must be a folder name or null")

    def to_json(self) -> dict[str, Any]:
        """The content of the file as JSON values."""
        return {"schema": ROUTER_SCHEMA, **vars(self), "classes": list(self.classes)}


def write_router(manifest: RouterManifest, folder: Path) -> None:
    """Writes router.json into the router's folder."""
    text = json.dumps(manifest.to_json(), indent=1, ensure_ascii=False) + "\n"
    (folder / ROUTER_MANIFEST).write_text(text, "utf-8", newline="\n")


def read_router(folder: Path) -> RouterManifest:
    """Reads router.json from the router's folder.

    Raises:
        ArtifactError: The file is missing, damaged or has another schema.
    """
    path = folder / ROUTER_MANIFEST
    values = read_artifact(path)
    schema = values.pop("schema", None)
    if schema != ROUTER_SCHEMA:
        raise ArtifactError(f"{path}: router schema is {schema!r:.40}, expected {ROUTER_SCHEMA!r}; export again")
    try:
        classes = values.get("classes")
        _require(isinstance(classes, list) and all(map(_is_folder_name, classes)), "'classes' must be task names")
        return RouterManifest(**{**values, "classes": tuple(classes or ())})
    except (TypeError, ValueError) as error:
        reason = str(error).replace("RouterManifest.__init__() ", "")
        raise ArtifactError(f"{path}: damaged ({reason}); export again") from error


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_probability(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _is_folder_name(value: object) -> bool:
    """A plain name, not a path: a router may only refer to folders next to it."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None
