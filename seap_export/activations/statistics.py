"""Calibration statistics on disk: safetensors files for each task, and a record of what they were made from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from seap_export.activations.covariance import pack_symmetric, unpack_symmetric
from seap_export.activations.moments import Moments
from seap_export.errors import ArtifactError, InputError
from seap_export.families import ModelSpec
from seap_export.layers.halves import HALVES, Half
from seap_export.sources.config import read_json
from seap_export.sources.tensor_writer import SafetensorsWriter

if TYPE_CHECKING:
    from seap_export.activations.calibrate import LayerStatistics

__all__ = [
    "CALIBRATION_SCHEMA",
    "Calibration",
    "CalibrationRecord",
    "CalibrationWriter",
    "LayerMoments",
    "covariance_bytes",
]

CALIBRATION_SCHEMA = "seap-export/calibration/2"
_MOMENTS = "moments.safetensors"
_COVARIANCE = "covariance.safetensors"
_TOKENS = "tokens.safetensors"
_RECORD = "calibration.json"
_SENSITIVITY = "sensitivity"


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
        num_tokens: Number of real tokens.
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


def covariance_bytes(spec: ModelSpec) -> int:
    """Bytes of a task's covariances."""
    return 4 * sum(shape[0] for shape in _covariance_shapes(spec).values())


def _covariance_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Upper triangles of symmetric matrices."""
    channels = {
        f"layers.{index}.{half}": spec.projection_shape(half, index)[1]
        for index in range(len(spec.layers))
        for half in HALVES
    }
    return {name: (n * (n + 1) // 2,) for name, n in channels.items()}


class CalibrationWriter:
    """Writes a task's statistics into an existing folder, layer by layer."""

    def __init__(self, folder: Path, spec: ModelSpec) -> None:
        self._folder = folder
        self._covariances = SafetensorsWriter(folder / _COVARIANCE, _covariance_shapes(spec), torch.float32)
        self._moments: dict[str, torch.Tensor] = {}

    def __enter__(self) -> Self:
        self._covariances.__enter__()
        return self

    def write_layer(self, index: int, statistics: LayerStatistics) -> None:
        """Writes the statistics of a layer; layers must come in order."""
        for half in HALVES:
            own = statistics[half]
            self._moments[f"layers.{index}.{half}.mean"] = own.moments.mean.contiguous()
            self._moments[f"layers.{index}.{half}.variance"] = own.moments.variance.contiguous()
            self._covariances.write(f"layers.{index}.{half}", pack_symmetric(own.covariance))

    def finish(self, record: CalibrationRecord, sensitivity: torch.Tensor, token_ids: Sequence[Sequence[int]]) -> None:
        """Writes what is known only after the last layer.

        Args:
            record: What the statistics were made from.
            sensitivity: Sensitivity after each half of each layer, float64 [num_hidden_layers, 2].
            token_ids: Token ids of the calibration texts.
        """
        tensors = {**self._moments, _SENSITIVITY: sensitivity.contiguous()}
        (self._folder / _MOMENTS).write_bytes(save(tensors))  # `save_file` would make it unreadable for others
        tokens = {
            "token_ids": torch.tensor([token for ids in token_ids for token in ids], dtype=torch.int32),
            "lengths": torch.tensor([len(ids) for ids in token_ids], dtype=torch.int32),
        }
        (self._folder / _TOKENS).write_bytes(save(tokens))
        text = json.dumps({"schema": CALIBRATION_SCHEMA, **asdict(record)}, indent=1, ensure_ascii=False)
        (self._folder / _RECORD).write_text(text + "\n", "utf-8", newline="\n")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._covariances.__exit__(kind, error, trace)


class Calibration:
    """A task's statistics, read one layer at a time."""

    def __init__(self, folder: Path) -> None:
        """Raises `ArtifactError` if the folder holds no calibration of this schema."""
        if not all((folder / name).is_file() for name in (_RECORD, _MOMENTS, _COVARIANCE, _TOKENS)):
            raise ArtifactError(f"{folder}: no calibration found; make one with 'seap-export calibrate'")
        self._folder = folder
        try:
            self.record = _parse_record(read_json(folder / _RECORD), folder)
        except InputError as error:
            raise ArtifactError(f"{error}; calibrate again") from error

    def layer(self, index: int) -> LayerMoments:
        """The moments of one layer."""
        names = [f"layers.{index}.{half}.{moment}" for half in HALVES for moment in ("mean", "variance")]
        found = self._read(_MOMENTS, names)
        return LayerMoments(
            *(
                Moments(self.record.num_tokens, found[f"{prefix}.mean"], found[f"{prefix}.variance"])
                for prefix in (f"layers.{index}.{half}" for half in HALVES)
            )
        )

    def covariance(self, index: int, half: Half) -> torch.Tensor:
        """Population covariance of the input of a layer's o_proj or down_proj, float64 [channels, channels]."""
        packed = self._read(_COVARIANCE, [f"layers.{index}.{half}"])[f"layers.{index}.{half}"]
        channels = len(getattr(self.layer(index), half).mean)
        if packed.shape != (channels * (channels + 1) // 2,):
            raise self._unreadable(_COVARIANCE, f"layer {index} does not have {channels} channels at {half}")
        return unpack_symmetric(packed, channels)

    def sensitivity(self) -> torch.Tensor:
        """Sensitivity after each half of each layer, float64 [num_hidden_layers, 2]."""
        return self._read(_MOMENTS, [_SENSITIVITY])[_SENSITIVITY]

    def token_ids(self) -> list[list[int]]:
        """The token ids of the calibration texts."""
        found = self._read(_TOKENS, ["token_ids", "lengths"])
        if len(found["token_ids"]) != int(found["lengths"].sum()):
            raise self._unreadable(_TOKENS, "the lengths of the texts do not add up")
        return [ids.tolist() for ids in found["token_ids"].split(found["lengths"].tolist())]

    def _read(self, file: str, names: Sequence[str]) -> Mapping[str, torch.Tensor]:
        try:
            with safe_open(self._folder / file, framework="pt") as handle:
                return {name: handle.get_tensor(name) for name in names}
        except (SafetensorError, OSError) as error:
            raise self._unreadable(file, error) from error

    def _unreadable(self, file: str, reason: object) -> ArtifactError:
        return ArtifactError(f"{self._folder / file}: damaged, or made from another model ({reason}); calibrate again")


def _parse_record(values: dict[str, Any], folder: Path) -> CalibrationRecord:
    schema = values.pop("schema", None)
    if schema != CALIBRATION_SCHEMA:
        raise ArtifactError(f"{folder}: calibration schema is {schema!r}, expected {CALIBRATION_SCHEMA!r}")
    try:
        fields: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in values.items()}
        return CalibrationRecord(**fields)
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{folder / _RECORD}: damaged ({error}); calibrate again") from error
