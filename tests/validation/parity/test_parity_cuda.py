"""What parity asks of a GPU, on stand-ins for CUDA's libraries, whose numbers mean nothing and are not judged."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_cuda.machine import Machine
from support.models import write_micro_model
from support.product import OnnxForm, Precision, convert_folder

pytestmark = pytest.mark.needs("fake-cuda")

STEPS, LAYERS, VOCABULARY, FLOAT16 = 4, 3, 96, 2
#: Runs parity on the model and each of the folders that it is given, with a section of the log for each case.
PROGRAM = f"""
import sys
from pathlib import Path
from fake_cuda.log import mark
from validation.execution import Execution
from validation.parity.run import run_parity
model, *folders = map(Path, sys.argv[1:])
for folder in folders:
    run_parity(model, folder, ["w5 w6 w7", "w8"], execution=Execution("cuda", 1), decode_steps={STEPS}, long_tokens=16,
               on_progress=lambda line: mark(f"{{folder.name}}, {{line}}"))
"""


def test_caches_stay_on_the_gpu_and_steps_are_also_run_as_they_are_served(
    fake_cuda: type[Machine], tmp_path: Path
) -> None:
    model, dialects = write_micro_model(tmp_path / "m", model_type="llama"), ("fused", "standard")
    for dialect in dialects:
        (tmp_path / dialect).mkdir()
        convert_folder(model, tmp_path / dialect, OnnxForm(Precision("fp16"), dialect=dialect, provider="cuda"))
    ran = fake_cuda().run(["-c", PROGRAM, model, *(tmp_path / dialect for dialect in dialects)])
    assert ran.returncode == 0, ran.stderr
    for case, rows in (("prompt 0", 1), ("batch of 3", 3)):
        launches = ran[f"fused, onnx: {case}"]
        logits = launches.to_host[: STEPS + 1]
        assert logits[1:] == [rows * VOCABULARY * FLOAT16] * STEPS
        assert len(launches.to_host) == len(logits) + rows * 2 * LAYERS
        assert (launches.between_devices, launches.captures) == ([], 0)
        for dialect, captures in (("fused", 1), ("standard", 0)):
            served = ran[f"{dialect}, onnx: {case}, served"]
            assert (served.captures, len(served.replays) > 0, served.lost) == (captures, captures > 0, 0)
