"""Calibration statistics on disk: safetensors files for each task, and a record of their inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from safetensors import SafetensorError, safe_open

from seap_export.common.durable import keep
from seap_export.common.json_file import read_json, write_json
from seap_export.errors import ArtifactError, InputError
from seap_export.model.families import ModelSpec
from seap_export.model.families.names import Projection
from seap_export.model.layers.kept import UNFINISHED, keep_tensors, kept_tensors
from seap_export.model.sources.tensor_writer import SafetensorsWriter
from seap_export.pruning.activations.covariance import add_packed, mirrored
from seap_export.pruning.activations.moments import Moments
from seap_export.pruning.activations.observers import kept_numbers
from seap_export.pruning.activations.routing import RoutingSample

CALIBRATION_SCHEMA = "seap-export/calibration/3"
#: The file of the token ids of the calibration texts.
TOKENS = "tokens.safetensors"
_SENSITIVITY = "sensitivity.safetensors"
_RECORD = "calibration.json"


#: Moments at the inputs of the output projections of a layer's sublayers, [channels] each.
LayerMoments: TypeAlias = Mapping[Projection, Moments]


@dataclass(frozen=True)
class CalibrationRecord:
    """The record of the inputs of a task's statistics.

    Attributes:
        source_sha256: Digest of the model's files.
        max_length: Tokens after which a text was cut.
        num_tokens: Number of real tokens.
        calibration_texts: SHA-256 of every calibration text, sorted.
        held_out_texts: SHA-256 of every held-out text, sorted.
        held_out: The held-out samples themselves, as {"prompt", "completion"}, for parity and evaluation; those of
            conversations have their {"question"} as well.
        calibration_prompts: SHA-256 of the prompts of the calibration texts, sorted, if the dense model answered them;
            the texts do not show then which records of the corpus they come from.
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
    calibration_prompts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shared = set(self.calibration_texts) & set(self.held_out_texts)
        if shared:
            raise ValueError(f"{len(shared)} texts are both calibration and held-out texts")


def covariance_bytes(spec: ModelSpec, tokens: int = 0) -> int:
    """Bytes of a task's covariances, whose upper triangles are stored, and of the samples of mixtures of experts."""
    return sum(4 * kept_numbers(sublayer, tokens) for sublayer in spec.sublayers)


@dataclass(frozen=True)
class SublayerStatistics:
    """The input of a sublayer's output projection over all real tokens."""

    moments: Moments
    further: Mapping[str, torch.Tensor]


def write_layer(folder: Path, index: int, statistics: Mapping[Projection, SublayerStatistics]) -> None:
    """Writes the file of a layer, which is there as a whole or not at all."""
    tensors: dict[str, torch.Tensor] = {}
    for output, sublayer in statistics.items():  # what has 8 bytes comes first, so that everything is aligned
        tensors[f"{output}.mean"] = sublayer.moments.mean
        tensors[f"{output}.variance"] = sublayer.moments.variance
    for output, sublayer in statistics.items():
        tensors |= {f"{output}.{name}": tensor for name, tensor in sublayer.further.items()}
    part = folder / UNFINISHED / "layer"
    part.parent.mkdir(exist_ok=True)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    with SafetensorsWriter(part, shapes, {name: tensor.dtype for name, tensor in tensors.items()}) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)
    keep(part, folder / _layer_file(index))


def write_tokens(path: Path, token_ids: Sequence[Sequence[int]]) -> None:
    tokens = {
        "token_ids": torch.tensor([token for ids in token_ids for token in ids], dtype=torch.int32),
        "lengths": torch.tensor([len(ids) for ids in token_ids], dtype=torch.int32),
    }
    keep_tensors(path, tokens)


def read_tokens(path: Path) -> list[list[int]]:
    """The token ids of texts.

    Raises:
        ArtifactError: The file is missing or damaged.
    """
    try:
        tensors = kept_tensors(path)
        lengths = tensors["lengths"].tolist()
        if len(tensors["token_ids"]) != sum(lengths):
            raise ValueError("the lengths of the texts do not add up")
        return [ids.tolist() for ids in tensors["token_ids"].split(lengths)]
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ArtifactError(f"{path}: damaged, or made from another model ({error}); calibrate again") from error


def write_sensitivity(folder: Path, sensitivity: torch.Tensor) -> None:
    """Writes the sensitivity after each sublayer of each layer, float64 [layers, sublayers]; nothing follows it."""
    keep_tensors(folder / _SENSITIVITY, {"sensitivity": sensitivity})


def has_layers(folder: Path, layers: int) -> bool:
    """Whether the files of the first layers, this many, are there."""
    return all((folder / _layer_file(index)).is_file() for index in range(layers))


def has_sensitivity(folder: Path) -> bool:
    """Whether the file of the sensitivity is there."""
    return (folder / _SENSITIVITY).is_file()


def write_record(folder: Path, record: CalibrationRecord) -> None:
    """Writes the record of the statistics' inputs, which completes a calibration."""
    values = {name: value for name, value in asdict(record).items() if value or name != "calibration_prompts"}
    write_json(folder / _RECORD, {"schema": CALIBRATION_SCHEMA, **values})


def _layer_file(index: int) -> str:
    return f"layer-{index:05}.safetensors"


class Calibration:
    """A task's statistics, read one layer at a time."""

    def __init__(self, folder: Path) -> None:
        """Raises `ArtifactError` if the folder holds no calibration of this schema."""
        if not all((folder / name).is_file() for name in (_RECORD, TOKENS, _SENSITIVITY, _layer_file(0))):
            raise ArtifactError(f"{folder}: no calibration found; make one with 'seap-export calibrate'")
        self._folder = folder
        try:
            self.record = _parse_record(read_json(folder / _RECORD, "calibrate again"), folder)
        except InputError as error:
            raise ArtifactError(str(error)) from error

    def layer(self, index: int) -> LayerMoments:
        """The moments of one layer's sublayers, by output projection."""
        tensors = self._read(_layer_file(index), [".mean", ".variance"])
        outputs = cast("list[Projection]", [name.removesuffix(".mean") for name in tensors if name.endswith(".mean")])
        return {
            output: Moments(self.record.num_tokens, tensors[f"{output}.mean"], tensors[f"{output}.variance"])
            for output in outputs
        }

    def covariance(self, index: int, output: Projection) -> torch.Tensor:
        """Population covariance of the input of an output projection, float64 [channels, channels]."""
        channels = len(self.layer(index)[output].mean)
        total = torch.zeros(channels, channels, dtype=torch.float64)
        self.add_covariance(index, output, total, 1.0)
        return mirrored(total)

    def routing(self, index: int, output: Projection) -> RoutingSample:
        """The sample of tokens at a layer's mixture of experts."""
        parts = (f"{output}.logits", f"{output}.products", ".selection_bias")  # which only some routers have
        return RoutingSample(*self._read(_layer_file(index), parts).values())

    def expert_moment(self, index: int, output: Projection, expert: int) -> torch.Tensor:
        """The mean of c cᵀ over all tokens, float64 [neurons, neurons], with c the channels of an expert."""
        file, name = _layer_file(index), f"{output}.moments"
        try:
            with safe_open(self._folder / file, framework="pt") as handle:
                packed = handle.get_slice(name)[expert]
        except (SafetensorError, OSError, IndexError) as error:
            raise self._unreadable(file, error) from error
        neurons = math.isqrt(2 * len(packed))
        total = torch.zeros(neurons, neurons, dtype=torch.float64)
        add_packed(total, packed, 1.0)
        return mirrored(total)

    def add_covariance(self, index: int, output: Projection, total: torch.Tensor, weight: float) -> None:
        """Adds the covariance of an output projection's input, times a weight, to the upper triangle of a float64
        matrix.
        """
        name = f"{output}.covariance"
        packed, channels = self._read(_layer_file(index), [name])[name], len(total)
        if packed.shape != (channels * (channels + 1) // 2,):
            raise self._unreadable(_layer_file(index), f"{output} does not have {channels} channels")
        add_packed(total, packed, weight)

    def sensitivity(self) -> torch.Tensor:
        """Sensitivity after each sublayer of each layer, float64 [layers, sublayers]."""
        return self._read(_SENSITIVITY, ["sensitivity"])["sensitivity"]

    def token_ids(self) -> list[list[int]]:
        return read_tokens(self._folder / TOKENS)

    def _read(self, file: str, names: Sequence[str]) -> Mapping[str, torch.Tensor]:
        """The tensors of these names; of one that begins with a dot, all that end with it."""
        try:
            with safe_open(self._folder / file, framework="pt") as handle:
                ends = tuple(name for name in names if name.startswith("."))
                others = [name for name in names if name not in ends]
                wanted = [*others, *(name for name in handle.keys() if name.endswith(ends))]  # noqa: SIM118
                return {name: handle.get_tensor(name) for name in wanted}
        except (SafetensorError, OSError) as error:
            raise self._unreadable(file, error) from error

    def _unreadable(self, file: str, reason: object) -> ArtifactError:
        return ArtifactError(f"{self._folder / file}: damaged, or made from another model ({reason}); calibrate again")


def _parse_record(values: dict[str, Any], folder: Path) -> CalibrationRecord:
    schema = values.pop("schema", None)
    if schema != CALIBRATION_SCHEMA:
        raise ArtifactError(
            f"{folder}: calibration schema is {schema!r}, expected {CALIBRATION_SCHEMA!r}; calibrate again"
        )
    try:
        fields: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in values.items()}
        return CalibrationRecord(**fields)
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{folder / _RECORD}: damaged ({error}); calibrate again") from error
