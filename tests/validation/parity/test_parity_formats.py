"""Parity of a format that is not ONNX, by the protocols of formats and runners alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from support.execution import ONE_THREAD
from support.formats.fake_format import FAKE_FILE, FakeFormat, FakeRunner, Quiet, install_fake_format
from support.product import GgufFormat
from support.variations import VARIATIONS, micro_config

from converters.onnx.precision import arithmetic_of
from seap_export.model.families import model_spec
from validation.parity.candidates import candidate
from validation.parity.candidates.candidate import ParityInput
from validation.parity.candidates.llama_candidate import LlamaCandidate
from validation.parity.profiles import Limits
from validation.parity.report import ParityReport
from validation.parity.run import run_parity
from validation.runtimes.table import runtime_row

PROMPTS = ["the cat sat on the mat", "a dog", "the dog sat"]
Written = Callable[..., tuple[Path, Path]]


@pytest.fixture
def written(micro_hf: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    """`written("f16")`: a model folder, and what was written from it."""
    install_fake_format(monkeypatch)

    def write(precision: str = "f32") -> tuple[Path, Path]:
        folder = tmp_path / "fake"
        folder.mkdir()
        FakeFormat(precision).write(micro_hf("Llama"), folder, lambda layer: None)
        return micro_hf("Llama"), folder

    return write


def compared(folders: tuple[Path, Path], runtime: str = "faked", **options: Any) -> ParityReport:
    return run_parity(*folders, PROMPTS, runtime=runtime, execution=ONE_THREAD, **options)


def test_a_sound_folder_passes(written: Written) -> None:
    said: list[str] = []
    report = compared(written(), on_progress=said.append)
    assert report.passed, report.failure()
    assert report.max_abs is not None
    assert report.max_abs < 1e-4
    assert report.cache_error is not None
    assert "fake: batch of 3" in said
    assert FakeRunner.opened == 0
    values = report.to_json()
    assert (values["format"], values["runtime"], values["precision"]) == ("fake", "faked", "f32")
    assert values["form"] == {"version": 1, "precision": "f32"}
    assert values["provider"] == {"asked": "cpu", "obtained": "faked", "gpu": None, "nodes": None}


def test_torch_reads_what_was_written(written: Written) -> None:
    """Rounding of weights is no difference, nor is a wrong weight: `Format.differences` is there for that."""
    model, folder = written("f16")
    report = compared((model, folder))
    assert report.passed
    assert report.subject.limits == "fp16"
    assert report.mean_kl is not None
    assert report.mean_kl < 1e-9
    tensors = load_file(folder / FAKE_FILE)
    tensors["model.layers.1.mlp.up_proj.weight"] *= 1.5
    save_file(tensors, folder / FAKE_FILE)
    assert compared((model, folder)).passed
    assert list(FakeFormat("f16").differences(model, folder)) == ["'model.layers.1.mlp.up_proj.weight' differs"]


def test_what_a_runtime_does_otherwise_fails(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second gives log-probabilities and no cache."""
    bias, gains, folders = "model.layers.2.mlp.down_proj.bias", "model.norm.weight", written()
    quiet = compared(folders, "faked-too")
    assert (quiet.passed, quiet.cache_error) == (True, None)
    monkeypatch.setattr(FakeRunner, "fault", staticmethod(lambda tensors: tensors[bias].add_(0.1)))
    monkeypatch.setattr(Quiet, "fault", staticmethod(lambda tensors: tensors[gains].mul_(1.01)))
    assert not compared(folders, "faked-too").passed
    report = compared(folders)
    assert not report.passed
    assert "under [fp32]" in report.failure()
    assert compared(folders, limits=Limits((("fp32", "max_abs", 10.0), ("fp32", "cache_error", 10.0)))).passed


@pytest.mark.parametrize(
    ("variation", "precision", "arithmetic", "block_size"),
    [
        ("llama-gqa", "f32", "fp32", None),
        ("gemma2", "f32", "fp16", None),
        ("gemma2", "q8_0", "int8", 32),
        ("llama-gqa", "q4_0", "int4", 32),
        ("llama-gqa", "q4_k_m", "int4", 128),  # k-quants round activations in larger blocks
        ("llama-gqa", "q6_k", "int4", 128),
    ],
)
def test_arithmetic_and_limits_follow_from_the_bits(
    variation: str, precision: str, arithmetic: str, block_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert arithmetic_of("bf16").name == "bf16"
    spec = model_spec(micro_config(**VARIATIONS[variation]))
    monkeypatch.setattr(candidate, "read_format", lambda folder: GgufFormat(precision))
    parity_input = ParityInput(Path(), spec, ONE_THREAD, lambda line: None)
    taken = LlamaCandidate("llama.cpp", runtime_row("llama.cpp"), parity_input).arithmetic
    assert (taken.name, getattr(taken.quantization, "block_size", None)) == (arithmetic, block_size)
