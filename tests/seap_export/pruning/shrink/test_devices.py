"""All that sweeps through the layers runs on a GPU: nothing is mixed with the CPU, and the result is the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.calibration import (
    BATCH_TOKENS,
    TOKEN_IDS,
    calibration_in,
    compute_in_memory,
    file_contents,
    single_mixture,
)
from support.models import micro_source
from support.plans import micro_plan
from support.product import COMPENSATIONS, Compute, Source, collect_statistics
from support.stand_ins.cuda import pretend_cuda

from seap_export.pruning.shrink.write import write_shrunk_model

#: Between them windows, soft caps, norms after sublayers, long rotations, scaled queries and biases.
VARIATIONS = ("llama-biases", "gemma2-all", "phi3-all", "ministral3-all")


def there(device: torch.device, room: int = 2**62) -> Compute:
    return Compute(device, device_memory=room, batch_tokens=BATCH_TOKENS)


def calibrated(source: Source, folder: Path, compute: Compute) -> Path:
    folder.mkdir()
    collect_statistics(source, TOKEN_IDS, folder, compute, check=False)
    return folder


@pytest.mark.parametrize("variation", VARIATIONS)
def test_calibration_and_shrinking_give_the_same_bytes_there(tmp_path: Path, variation: str) -> None:
    source = micro_source(tmp_path / "model", variation)
    here = calibrated(source, tmp_path / "here", compute_in_memory())
    with pretend_cuda() as device:
        for room in (2**62, 1):  # hidden states on the GPU, and in the host's memory
            assert file_contents(calibrated(source, tmp_path / str(room), there(device, room))) == file_contents(here)
    statistics = single_mixture(calibration_in(here, source, "boolq", TOKEN_IDS))
    for compensation in COMPENSATIONS if variation == VARIATIONS[0] else ("sequential",):
        plan, folders = micro_plan(source, compensation), [tmp_path / f"{compensation}-{side}" for side in (0, 1)]
        for folder in folders:
            folder.mkdir()
        write_shrunk_model(source, plan, statistics, folders[0], compute=compute_in_memory())
        with pretend_cuda() as device:
            write_shrunk_model(source, plan, statistics, folders[1], compute=there(device))
        assert file_contents(folders[0]) == file_contents(folders[1])


def test_the_comparison_with_transformers_runs_besides(tmp_path: Path) -> None:
    source = micro_source(tmp_path / "model")
    with pretend_cuda() as device:
        collect_statistics(source, TOKEN_IDS, tmp_path, there(device), check=True)
