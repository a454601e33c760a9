"""Calibration statistics on disk: one safetensors file a task, and what they were made from beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from seap_export.activations.moments import Moments
from seap_export.errors import ArtifactError, InputError
from seap_export.sources.config import read_json

__all__ = ["CALIBRATION_SCHEMA", "Calibration", "CalibrationRecord", "LayerMoments", "write_calibration"]

CALIBRATION_SCHEMA = "seap-export/calibration/1"
_MOMENTS = "moments.safetensors"
_RECORD = "calibration.json"


@dataclass(frozen=True)
class LayerMoments:
    """Moments at the inputs of a layer's o_proj (query heads x head_dim channels) and down_proj (neurons)."""

    o_proj: Moments
    down_proj: Moments


@dataclass(frozen=True)
class CalibrationRecord:
    """What a task's statistics were made from.

    Attributes:
        task: Name of the task.
        source_name: Name of the model.
        source_sha256: Digest of the model's files.
        seed: Seed of the split.
        max_length: Tokens after which a text was cut.
        num_tokens: Real tokens counted.
        calibration_texts: SHA-256 of every calibration text, sorted.
        held_out_texts: SHA-256 of every held-out text, sorted.
        held_out: The held-out samples themselves, as {"prompt", "completion"}, for parity and evaluation.
    """

    task: str
    source_name: str
    source_sha256: str
    seed: int
    max_length: int
    num_tokens: int
    calibration_texts: tuple[str, ...]
    held_out_texts: tuple[str, ...]
    held_out: tuple[dict[str, str], ...]

    def __post_init__(self) -> None:
        shared = set(self.calibration_texts) & set(self.held_out_texts)
        if shared:
            raise ValueError(f"{len(shared)} texts are both calibration and held-out texts")


def write_calibration(folder: Path, record: CalibrationRecord, layers: Sequence[LayerMoments]) -> None:
    """Writes a task's moments (float64) and its record into `folder`, which exists."""
    tensors: dict[str, torch.Tensor] = {}
    for index, layer in enumerate(layers):
        for name in ("o_proj", "down_proj"):
            moments: Moments = getattr(layer, name)
            tensors[f"layers.{index}.{name}.mean"] = moments.mean.contiguous()
            tensors[f"layers.{index}.{name}.variance"] = moments.variance.contiguous()
    (folder / _MOMENTS).write_bytes(save(tensors))  # `save_file` would make it unreadable for others
    text = json.dumps({"schema": CALIBRATION_SCHEMA, **asdict(record)}, indent=1, ensure_ascii=False)
    (folder / _RECORD).write_text(text + "\n", "utf-8")


class Calibration:
    """A task's statistics, read one layer at a time."""

    def __init__(self, folder: Path) -> None:
        """Raises `ArtifactError` if the folder holds no calibration of this schema."""
        if not (folder / _RECORD).is_file() or not (folder / _MOMENTS).is_file():
            raise ArtifactError(f"{folder}: no calibration here; make one with 'seap-export calibrate'")
        self._file = folder / _MOMENTS
        try:
            self.record = _parse_record(read_json(folder / _RECORD), folder)
        except InputError as error:
            raise ArtifactError(f"{error}; calibrate again") from error

    def layer(self, index: int) -> LayerMoments:
        """The moments of one layer."""
        try:
            with safe_open(self._file, framework="pt") as handle:
                return LayerMoments(
                    *(
                        Moments(
                            self.record.num_tokens,
                            handle.get_tensor(f"layers.{index}.{name}.mean"),
                            handle.get_tensor(f"layers.{index}.{name}.variance"),
                        )
                        for name in ("o_proj", "down_proj")
                    )
                )
        except (SafetensorError, OSError) as error:
            raise ArtifactError(f"{self._file}: damaged or of another model ({error}); calibrate again") from error


def _parse_record(values: dict[str, Any], folder: Path) -> CalibrationRecord:
    schema = values.pop("schema", None)
    if schema != CALIBRATION_SCHEMA:
        raise ArtifactError(f"{folder}: calibration schema is {schema!r}, expected {CALIBRATION_SCHEMA!r}")
    try:
        fields: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in values.items()}
        return CalibrationRecord(**fields)
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{folder / _RECORD}: damaged ({error}); calibrate again") from error
