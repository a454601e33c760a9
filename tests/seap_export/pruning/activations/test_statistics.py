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
FILES = ("calibration.json", "sensitivity.safetensors", TOKENS, "layer-00000.safetensors", "layer-00001.safetensors")


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
    for read in (lambda: calibration.layer(2), lambda: calibration.covariance(2, "o_proj")):
        with pytest.raises(ArtifactError, match="another model"):
            read()
    tensors = [load_file(folder / file)[f"{output}.covariance"] for file in FILES[3:] for output in OUTPUTS]
    assert covariance_bytes(SPEC) == sum(tensor.nbytes for tensor in tensors) == 4 * 2 * (21 + 45)
    (folder / "again").mkdir()
    write(folder / "again")
    assert all((folder / file).read_bytes() == (folder / "again" / file).read_bytes() for file in FILES)


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
    path = folder / "calibration.json"
    changed = json.loads(path.read_text("utf-8")) | values
    path.write_text(json.dumps({key: value for key, value in changed.items() if value is not None}), "utf-8")
    with pytest.raises(ArtifactError, match=message):
        Calibration(folder)


@pytest.mark.parametrize("file", FILES)
def test_what_is_missing_or_truncated_or_of_another_size_is_refused_by_name(folder: Path, file: str) -> None:
    path, damaged = folder / file, file.replace(".", r"\.") + ": damaged"
    content = path.read_bytes()
    others = {
        "layer-00001.safetensors": ("o_proj.covariance", torch.zeros(20)),
        TOKENS: ("lengths", torch.tensor([3, 1, 1], dtype=torch.int32)),
    }
    if file in others:
        name, values = others[file]
        save_file(load_file(path) | {name: values}, path)
        with pytest.raises(ArtifactError, match=damaged):
            read_all(folder)
    for size in (0, -8):
        path.write_bytes(content[:size])
        with pytest.raises(ArtifactError, match=damaged if path.suffix == ".safetensors" else "calibration"):
            read_all(folder)
    path.unlink()
    if file != FILES[-1]:  # the first four tell a calibration
        with pytest.raises(ArtifactError, match="no calibration"):
            Calibration(folder)
