"""What parity asks of a GPU, on stand-ins for CUDA's libraries, whose numbers mean nothing and are not judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_cuda.machine import Machine, Ran
from support.models import write_micro_model
from support.product import OnnxForm, Precision, convert_folder

from seap_export.common.providers import DialectName

pytestmark = pytest.mark.needs("fake-cuda")

STEPS, LAYERS, VOCABULARY, FLOAT16 = 4, 3, 96, 2
#: Runs parity on the model and each of the folders that it is given, with a section of the log for each case.
PROGRAM = f"""
import json, sys
from pathlib import Path
from fake_cuda.log import mark
from seap_export.errors import SeapError
from validation.execution import Execution
from validation.parity.run import run_parity
model, *folders = map(Path, sys.argv[1:])
for folder in folders:
    try:
        report = run_parity(model, folder, ["w5 w6 w7", "w8"], execution=Execution("cuda", 1), decode_steps={STEPS},
                            long_tokens=16, on_progress=lambda line: mark(f"{{folder.name}}, {{line}}"))
        print(json.dumps([type(report).__name__, ""]))
    except SeapError as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""


def compared(machine: Machine, folder: Path, *dialects: DialectName) -> Ran:
    """Of a model in fp16 in each dialect; a line of the output and sections of the log for each."""
    model = write_micro_model(folder / "m", model_type="llama")
    for dialect in dialects:
        (folder / dialect).mkdir()
        convert_folder(model, folder / dialect, OnnxForm(Precision("fp16"), dialect=dialect, provider="cuda"))
    ran = machine.run(["-c", PROGRAM, model, *(folder / dialect for dialect in dialects)])
    assert ran.returncode == 0, ran.stderr
    return ran


def test_caches_stay_on_the_gpu_and_steps_are_also_run_as_they_are_served(
    fake_cuda: type[Machine], tmp_path: Path
) -> None:
    ran = compared(fake_cuda(), tmp_path, "fused", "standard")
    assert [json.loads(line)[0] for line in ran.stdout.splitlines()] == ["ParityReport"] * 2
    for case, rows in (("prompt 0", 1), ("batch of 3", 3)):
        launches = ran[f"fused, onnx: {case}"]
        logits = launches.to_host[: STEPS + 1]
        assert logits[1:] == [rows * VOCABULARY * FLOAT16] * STEPS
        assert len(launches.to_host) == len(logits) + rows * 2 * LAYERS
        assert (launches.between_devices, launches.captures) == ([], 0)
        for dialect, captures in (("fused", 1), ("standard", 0)):
            served = ran[f"{dialect}, onnx: {case}, served"]
            assert (served.captures, len(served.replays) > 0, served.lost) == (captures, captures > 0, 0)


def test_what_the_machine_lacks_is_said(fake_cuda: type[Machine], tmp_path: Path) -> None:
    ran = compared(fake_cuda(memory=200_000), tmp_path, "fused")
    kind, message = json.loads(ran.stdout)
    assert kind == "EnvironmentFailure"
    assert "memory" in message
