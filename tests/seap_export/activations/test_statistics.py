"""Statistics come back from disk as they were, and damaged ones are refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from seap_export.activations.moments import Moments
from seap_export.activations.statistics import Calibration, CalibrationRecord, LayerMoments, write_calibration
from seap_export.errors import ArtifactError, SeapError

RECORD = CalibrationRecord(
    task="boolq",
    source_name="micro",
    source_sha256="ab" * 32,
    seed=3,
    max_length=512,
    num_tokens=40,
    calibration_texts=("aa", "bb"),
    held_out_texts=("cc",),
    held_out=({"prompt": "wo ist\n", "completion": "hier — ja"},),
)


def some_moments(channels: int, seed: int) -> Moments:
    generator = torch.Generator().manual_seed(seed)
    mean, variance = torch.rand(2, channels, generator=generator, dtype=torch.float64)
    return Moments(RECORD.num_tokens, mean, variance)


LAYERS = [LayerMoments(some_moments(6, index), some_moments(9, 10 + index)) for index in range(2)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_calibration(tmp_path, RECORD, LAYERS)
    return tmp_path


def change_record(folder: Path, **values: Any) -> None:
    path = folder / "calibration.json"
    changed = json.loads(path.read_text("utf-8")) | values
    path.write_text(json.dumps({key: value for key, value in changed.items() if value is not None}), "utf-8")


def test_the_record_comes_back_as_it_was(folder: Path) -> None:
    assert Calibration(folder).record == RECORD


def test_moments_come_back_exactly(folder: Path) -> None:
    calibration = Calibration(folder)
    for index, expected in enumerate(LAYERS):
        for name in ("o_proj", "down_proj"):
            own, other = getattr(calibration.layer(index), name), getattr(expected, name)
            assert own.count == RECORD.num_tokens
            assert own.mean.dtype == own.variance.dtype == torch.float64
            assert torch.equal(own.mean, other.mean)
            assert torch.equal(own.variance, other.variance)


def test_an_empty_folder_is_no_calibration(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no calibration here"):
        Calibration(tmp_path)


@pytest.mark.parametrize("file", ["calibration.json", "moments.safetensors"])
def test_half_a_calibration_is_none(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(ArtifactError, match="no calibration here"):
        Calibration(folder)


@pytest.mark.parametrize("schema", ["seap-export/calibration/2", "seap-export/plan/1", None])
def test_another_schema_is_refused(folder: Path, schema: str | None) -> None:
    change_record(folder, schema=schema)
    with pytest.raises(ArtifactError, match=r"expected 'seap-export/calibration/1'"):
        Calibration(folder)


@pytest.mark.parametrize("values", [{"task": None}, {"surplus": 1}])
def test_a_record_with_other_keys_is_refused(folder: Path, values: dict[str, Any]) -> None:
    change_record(folder, **values)
    with pytest.raises(ArtifactError, match=r"calibration\.json: damaged"):
        Calibration(folder)


def test_a_record_that_is_no_json_is_refused_by_name(folder: Path) -> None:
    (folder / "calibration.json").write_text("{", "utf-8")
    with pytest.raises(SeapError, match=r"calibration\.json"):
        Calibration(folder)


@pytest.mark.parametrize("size", [0, 20, -8])
def test_truncated_moments_are_refused_by_name(folder: Path, size: int) -> None:
    path = folder / "moments.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ArtifactError, match=r"moments\.safetensors: damaged"):
        Calibration(folder).layer(0)


def test_a_layer_that_was_not_calibrated_is_refused(folder: Path) -> None:
    with pytest.raises(ArtifactError, match="of another model"):
        Calibration(folder).layer(2)


def test_texts_cannot_be_both_calibration_and_held_out() -> None:
    with pytest.raises(ValueError, match="1 texts are both"):
        dataclasses.replace(RECORD, held_out_texts=("bb", "cc"))


def test_a_record_whose_texts_overlap_is_refused(folder: Path) -> None:
    change_record(folder, held_out_texts=["aa"])
    with pytest.raises(ArtifactError, match="both calibration and held-out"):
        Calibration(folder)
