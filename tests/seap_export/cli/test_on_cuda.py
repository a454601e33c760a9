"""Commands on machines with GPUs that there are not: what a machine lacks is exit code 6 and one line that says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_cuda.machine import Machine, Ran
from support.models import write_micro_model
from support.product import DialectName, OnnxForm, Precision, convert_folder
from support.variations import VARIATIONS

from seap_export.errors import ArtifactError

pytestmark = pytest.mark.needs("fake-cuda")

ENVIRONMENT = 6
CUDNN = "libcudnn.so.9"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[DialectName, Path]:
    """ONNX folders of a micro model, written for CUDA in either dialect."""
    folder = tmp_path_factory.mktemp("cuda")
    model = write_micro_model(folder / "m", **VARIATIONS["llama-gqa"])
    dialects: tuple[DialectName, ...] = ("fused", "standard")
    made = {dialect: folder / dialect for dialect in dialects}
    for dialect, out in made.items():
        out.mkdir()
        convert_folder(model, out, OnnxForm(Precision("fp16"), dialect, "last", "cuda"))
    return made


def command(machine: Machine, *arguments: str | Path) -> Ran:
    return machine.run(["-c", "from seap_export.cli import main; main()", *arguments])


def generate(machine: Machine, folder: Path) -> Ran:
    return command(machine, "generate", folder, "the cat sat", "--max-new-tokens", "3", "--provider", "cuda")


def test_it_generates(folders: dict[DialectName, Path], fake_cuda: type[Machine]) -> None:
    """Even without cuDNN, which the fused dialect has no use for."""
    ran = generate(fake_cuda(without=(CUDNN,)), folders["fused"])
    assert ran.returncode == 0, ran.stderr
    assert sum(section.work.total() for section in ran.sections.values()) > 0


def test_a_precision_that_only_another_provider_has(tmp_path: Path) -> None:
    """Not the file is to blame, but the provider: CUDA's, which this machine lacks, or the CPU's."""
    model = write_micro_model(tmp_path / "m", **VARIATIONS["llama-gqa"])
    (tmp_path / "onnx").mkdir()
    convert_folder(model, tmp_path / "onnx", OnnxForm(Precision("bf16"), "fused", "last", "cuda"))
    ran = generate(Machine(without=("libcublas.so.13",)), tmp_path / "onnx")
    assert ran.returncode == ENVIRONMENT
    assert "CUDA execution provider could not be created" in ran.stderr
    ran = command(Machine(), "generate", tmp_path / "onnx", "the cat sat")
    assert ran.returncode == ArtifactError.exit_code
    assert "the cpu provider of this machine cannot run it" in ran.stderr


@pytest.mark.parametrize(
    ("machine", "dialect", "reason"),
    [
        (Machine(gpus=0), "fused", "no NVIDIA GPU for CUDA"),
        (Machine(without=(CUDNN,), number=1), "standard", "cuDNN cannot be loaded"),
        (Machine(memory=1 << 16), "fused", "not enough memory"),
    ],
    ids=["no GPU", "no cuDNN", "no memory"],
)
def test_what_the_machine_lacks(
    machine: Machine, dialect: DialectName, reason: str, folders: dict[DialectName, Path]
) -> None:
    ran = generate(machine, folders[dialect])
    assert ran.returncode == ENVIRONMENT, ran.stderr
    assert reason in ran.stderr.splitlines()[-1]


def test_doctor_names_the_gpus(fake_cuda: type[Machine]) -> None:
    """It finds out that they compute nothing, too."""
    ran = command(fake_cuda(gpus=2, name="Sample GPU", memory=24 * 10**9), "doctor", "--json")
    gpus = json.loads(ran.stdout)
    assert [gpu["name"] for gpu in gpus["driver"]["gpus"]] == ["Sample GPU"] * 2
    assert [gpu["memory_bytes"] for gpu in gpus["driver"]["gpus"]] == [24 * 10**9] * 2
    assert "is wrong by" in json.dumps(gpus["providers"])
