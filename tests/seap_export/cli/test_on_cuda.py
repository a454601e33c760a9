"""Commands on machines with GPUs that there are not: what a machine lacks is exit code 6 and one line that says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_cuda.machine import Machine, Ran
from support.models import write_micro_model
from support.product import OnnxForm, Precision, convert_folder
from support.variations import VARIATIONS

from seap_export.errors import ArtifactError, EnvironmentFailure

pytestmark = pytest.mark.needs("fake-cuda")


def command(machine: Machine, *arguments: str | Path) -> Ran:
    return machine.run(["-c", "from seap_export.cli import main; main()", *arguments])


def test_a_precision_that_only_another_provider_has(tmp_path: Path) -> None:
    """Not the file is to blame, but the provider: CUDA's, which this machine lacks, or the CPU's."""
    model = write_micro_model(tmp_path / "m", **VARIATIONS["llama-gqa"])
    (tmp_path / "onnx").mkdir()
    convert_folder(model, tmp_path / "onnx", OnnxForm(Precision("bf16"), "fused", "last", "cuda"))
    generate = ("generate", tmp_path / "onnx", "the cat sat")
    for machine, reason in (
        (Machine(without=("libcublas.so.13",)), "CUDA execution provider could not be created"),
        (Machine(gpus=0), "no NVIDIA GPU for CUDA"),
    ):
        ran = command(machine, *generate, "--provider", "cuda")
        assert ran.returncode == EnvironmentFailure.exit_code
        assert reason in ran.stderr
    ran = command(Machine(), *generate)
    assert ran.returncode == ArtifactError.exit_code
    assert "the cpu provider of this machine cannot run it" in ran.stderr


def test_doctor_names_the_gpus(fake_cuda: type[Machine]) -> None:
    """It finds out that they compute nothing, too."""
    ran = command(fake_cuda(gpus=2, name="Sample GPU", memory=24 * 10**9), "doctor", "--json")
    gpus = json.loads(ran.stdout)
    assert [gpu["name"] for gpu in gpus["driver"]["gpus"]] == ["Sample GPU"] * 2
    assert [gpu["memory_bytes"] for gpu in gpus["driver"]["gpus"]] == [24 * 10**9] * 2
    assert "is wrong by" in json.dumps(gpus["providers"])
