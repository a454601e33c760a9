"""All that sweeps through the layers runs on a GPU: nothing is mixed with the CPU, and the result is the same."""

from __future__ import annotations

from pathlib import Path

import pytest
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
from support.product import COMPENSATIONS, Compute, collect_statistics, write_shrunk_model
from support.stand_ins.cuda import pretend_cuda

#: Between them windows, soft caps, norms after sublayers, long rotations, scaled queries and biases.
VARIATIONS = ("llama-biases", "gemma2-all", "phi3-all", "ministral3-all")


@pytest.mark.parametrize("variation", VARIATIONS)
def test_calibration_and_shrinking_give_the_same_bytes_there(tmp_path: Path, variation: str) -> None:
    """Beside the comparison with transformers."""
    source, here = micro_source(tmp_path / "model", variation), tmp_path / "here"
    here.mkdir()
    collect_statistics(source, TOKEN_IDS, here, compute_in_memory(), check=False)
    with pretend_cuda() as device:
        for room in (2**62, 1):  # hidden states on the GPU, and in the host's memory
            there = Compute(device, device_memory=room, batch_tokens=BATCH_TOKENS)
            (tmp_path / str(room)).mkdir()
            collect_statistics(source, TOKEN_IDS, tmp_path / str(room), there, check=room > 1)
            assert file_contents(tmp_path / str(room)) == file_contents(here)
    statistics = single_mixture(calibration_in(here, source, "boolq", TOKEN_IDS))
    for compensation in COMPENSATIONS if variation == VARIATIONS[0] else ("sequential",):
        plan, folders = micro_plan(source, compensation), [tmp_path / f"{compensation}-{side}" for side in (0, 1)]
        for folder in folders:
            folder.mkdir()
        write_shrunk_model(source, plan, statistics, folders[0], compute=compute_in_memory())
        with pretend_cuda() as device:
            there = Compute(device, device_memory=2**62, batch_tokens=BATCH_TOKENS)
            write_shrunk_model(source, plan, statistics, folders[1], compute=there)
        assert file_contents(folders[0]) == file_contents(folders[1])
