"""Statistics come back from disk as they were, and damaged ones are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.product import OUTPUTS, Projection
from support.variations import micro_config

from seap_export.errors import ArtifactError
from seap_export.model.families import model_spec
from seap_export.pruning.activations.covariance import pack_symmetric
from seap_export.pruning.activations.moments import Moments
from seap_export.pruning.activations.statistics import (
    TOKENS,
    Calibration,
    CalibrationRecord,
    SublayerStatistics,
    covariance_bytes,
    write_layer,
    write_record,
    write_sensitivity,
    write_tokens,
)

RECORD = CalibrationRecord(
    task="boolq",
    source_name="micro",
    source_sha256="ab" * 32,
    seed=3,
    max_length=512,
    num_tokens=6,
    calibration_texts=("aa", "bb"),
    held_out_texts=("cc",),
    held_out=({"prompt": "wo ist\n", "completion": "hier — ja"},),
)
#: o_proj has an input of 6 channels, down_proj one of 9.
SPEC = model_spec(
    micro_config(
        model_type="llama",
        num_hidden_layers=2,
        hidden_size=8,
        head_dim=2,
        num_attention_heads=3,
        num_key_value_heads=3,
        intermediate_size=9,
    )
)
TOKEN_IDS = [[5, 0, 7], [70000], [1, 2]]
SENSITIVITY = torch.tensor([[0.1, 2.0], [1.0 / 3.0, 4e-9]], dtype=torch.float64)
LAYER_FILES = ("layer-00000.safetensors", "layer-00001.safetensors")
FILES = ("calibration.json", "sensitivity.safetensors", "tokens.safetensors", *LAYER_FILES)


def some_statistics(channels: int, seed: int) -> SublayerStatistics:
    generator = torch.Generator().manual_seed(seed)
    mean, variance = torch.rand(2, channels, generator=generator, dtype=torch.float64)
    root = torch.randn(channels, channels, generator=generator, dtype=torch.float64)
    moments = Moments(RECORD.num_tokens, mean, variance)
    return SublayerStatistics(moments, {"covariance": pack_symmetric(root @ root.T)})


LAYERS: list[dict[Projection, SublayerStatistics]] = [
    {"o_proj": some_statistics(6, index), "down_proj": some_statistics(9, 10 + index)} for index in range(2)
]


def write(folder: Path) -> None:
    for index, layer in enumerate(LAYERS):
        write_layer(folder, index, layer)
    write_tokens(folder / TOKENS, TOKEN_IDS)
    write_sensitivity(folder, SENSITIVITY)
    write_record(folder, RECORD)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path)
    return tmp_path


def change_record(folder: Path, **values: Any) -> None:
    path = folder / "calibration.json"
    changed = json.loads(path.read_text("utf-8")) | values
    path.write_text(json.dumps({key: value for key, value in changed.items() if value is not None}), "utf-8")


def change_tensors(folder: Path, file: str, **values: torch.Tensor) -> None:
    save_file(load_file(folder / file) | values, folder / file)


def read_all(folder: Path) -> None:
    """Whatever a calibration has."""
    calibration = Calibration(folder)
    for index in range(2):
        calibration.layer(index)
        for output in OUTPUTS:
            calibration.covariance(index, output)
    calibration.sensitivity()
    calibration.token_ids()


def test_it_comes_back_as_it_was_and_covariances_in_the_precision_of_float32(folder: Path) -> None:
    calibration = Calibration(folder)
    assert calibration.record == RECORD
    assert calibration.sensitivity().dtype == torch.float64
    assert torch.equal(calibration.sensitivity(), SENSITIVITY)
    assert calibration.token_ids() == TOKEN_IDS
    for index, layer in enumerate(LAYERS):
        for output in OUTPUTS:
            sublayer, other = calibration.layer(index)[output], layer[output].moments
            assert sublayer.count == RECORD.num_tokens
            assert sublayer.mean.dtype == sublayer.variance.dtype == torch.float64
            assert torch.equal(sublayer.mean, other.mean)
            assert torch.equal(sublayer.variance, other.variance)
            covariance = calibration.covariance(index, output)
            assert covariance.dtype == torch.float64
            assert torch.equal(covariance, covariance.T)
            assert torch.equal(pack_symmetric(covariance), layer[output].further["covariance"])


def test_covariances_take_the_bytes_announced(folder: Path) -> None:
    tensors = [load_file(folder / file)[f"{output}.covariance"] for file in LAYER_FILES for output in OUTPUTS]
    assert covariance_bytes(SPEC) == sum(tensor.nbytes for tensor in tensors) == 4 * 2 * (21 + 45)


def test_two_runs_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    write(tmp_path / "again")
    assert all((folder / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in FILES)


@pytest.mark.parametrize("file", FILES[:-1])
def test_half_a_calibration_is_none(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(ArtifactError, match="no calibration"):
        Calibration(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schema": "seap-export/calibration/2"}, r"expected 'seap-export/calibration/3'; calibrate again"),
        ({"schema": None}, r"expected 'seap-export/calibration/3'; calibrate again"),
        ({"task": None}, r"calibration\.json: damaged"),
        ({"surplus": 1}, r"calibration\.json: damaged"),
        ({"held_out_texts": ["aa"]}, "both calibration and held-out"),
    ],
)
def test_a_record_that_is_no_such_record_is_refused(folder: Path, values: dict[str, Any], message: str) -> None:
    change_record(folder, **values)
    with pytest.raises(ArtifactError, match=message):
        Calibration(folder)


@pytest.mark.parametrize("size", [0, -8])
@pytest.mark.parametrize("file", [file for file in FILES if file.endswith(".safetensors")])
def test_truncated_tensors_are_refused_by_name(folder: Path, file: str, size: int) -> None:
    read_all(folder)
    path = folder / file
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ArtifactError, match=file.replace(".", r"\.") + ": damaged"):
        read_all(folder)


@pytest.mark.parametrize(
    ("file", "name", "values"),
    [
        ("layer-00001.safetensors", "o_proj.covariance", torch.zeros(20)),
        ("tokens.safetensors", "lengths", torch.tensor([3, 1, 1], dtype=torch.int32)),
    ],
)
def test_tensors_of_another_size_are_refused_by_name(folder: Path, file: str, name: str, values: torch.Tensor) -> None:
    change_tensors(folder, file, **{name: values})
    with pytest.raises(ArtifactError, match=file.replace(".", r"\.") + ": damaged"):
        read_all(folder)


def test_a_layer_that_was_not_calibrated_is_refused(folder: Path) -> None:
    with pytest.raises(ArtifactError, match="another model"):
        Calibration(folder).layer(2)
    with pytest.raises(ArtifactError, match="another model"):
        Calibration(folder).covariance(2, "o_proj")
