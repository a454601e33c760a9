"""What parity asks of a GPU, on stand-ins for CUDA's libraries, whose numbers mean nothing and are not judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_cuda.machine import Machine, Ran
from support.models import write_micro_model
from support.product import OnnxForm, Precision, convert_folder

pytestmark = pytest.mark.needs("fake-cuda")

STEPS, LAYERS, VOCABULARY, FLOAT16 = 4, 3, 96, 2
#: Runs parity on the folder that it is given, with a section of the log for each case.
PROGRAM = f"""
import json, sys
from pathlib import Path
from fake_cuda.log import mark
from seap_export.errors import SeapError
from validation.execution import Execution
from validation.parity.run import run_parity
folder = Path(sys.argv[1])
try:
    report = run_parity(folder / "m", folder / "onnx", ["w5 w6 w7", "w8"], execution=Execution("cuda", 1),
                        decode_steps={STEPS}, long_tokens=16, on_progress=mark)
    ran = report.conditions
    print(json.dumps([type(report).__name__, bool(ran.complaints), ran.nodes.get("CPUExecutionProvider", {{}})]))
except SeapError as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_micro_model(tmp_path_factory.mktemp("cuda") / "m", model_type="llama")


def compared(machine: Machine, model: Path, folder: Path, form: OnnxForm) -> Ran:
    (folder / "onnx").mkdir()
    convert_folder(model, folder / "onnx", form)
    (folder / "m").symlink_to(model)
    ran = machine.run(["-c", PROGRAM, folder])
    assert ran.returncode == 0, ran.stderr
    return ran


@pytest.fixture(scope="module")
def fused(fake_cuda: type[Machine], model: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    form = OnnxForm(Precision("fp16"), provider="cuda")
    return compared(fake_cuda(), model, tmp_path_factory.mktemp("fused"), form)


def test_caches_stay_on_the_gpu_until_they_are_compared(fused: Ran) -> None:
    ran = fused
    assert json.loads(ran.stdout)[0] == "ParityReport"
    for case, rows in (("prompt 0", 1), ("batch of 3", 3)):
        launches = ran[f"onnx: {case}"]
        logits = launches.to_host[: STEPS + 1]
        assert logits[1:] == [rows * VOCABULARY * FLOAT16] * STEPS
        assert len(launches.to_host) == len(logits) + rows * 2 * LAYERS
        assert launches.between_devices == []
        assert launches.captures == 0


def test_steps_are_also_run_as_they_are_served(
    fused: Ran, fake_cuda: type[Machine], model: Path, tmp_path: Path
) -> None:
    form = OnnxForm(Precision("fp16"), dialect="standard", provider="cuda")
    for ran, captures in ((fused, 1), (compared(fake_cuda(), model, tmp_path, form), 0)):
        assert json.loads(ran.stdout)[0] == "ParityReport"
        for case in ("prompt 0", "batch of 3"):
            served = ran[f"onnx: {case}, served"]
            assert (served.captures, len(served.replays) > 0) == (captures, captures > 0)
            assert served.lost == 0


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        pytest.param({"memory": 200_000}, "memory", id="no memory"),
        pytest.param({"gpus": 0}, "CUDA", id="no GPU", marks=pytest.mark.release),
        pytest.param({"without": ("libcublas.so.13",)}, "libcublas", id="no cuBLAS", marks=pytest.mark.release),
    ],
)
def test_what_the_machine_lacks_is_said(
    fake_cuda: type[Machine], model: Path, tmp_path: Path, machine: dict[str, object], words: str
) -> None:
    ran = compared(fake_cuda(**machine), model, tmp_path, OnnxForm(Precision("fp16"), provider="cuda"))
    kind, message = json.loads(ran.stdout)
    assert kind == "EnvironmentFailure"
    assert words in message
    assert not [section for section in ran.sections if section.startswith("torch")] or "memory" in machine
